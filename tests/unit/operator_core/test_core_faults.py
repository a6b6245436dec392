"""What the API server does to the operator: refusals, stale caches, lost answers."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.api.models import ConditionStatus
from evolving_operator.cluster.errors import Conflict, Invalid, NotFound, Unavailable
from evolving_operator.core.plan import Manifest
from evolving_operator.testing.fake_cluster import Fault
from evolving_operator.testing.simulation import Simulation

Spec = dict[str, Any]
KEY = ("default", "support")


async def test_a_refused_child_is_told_and_keeps_no_other_from_being_made(
    world: Simulation, spec: Spec
) -> None:
    world.apply_agent(spec)
    refusal = Invalid("spec is immutable after creation", ("spec.resources",))
    world.cluster.faults.append(Fault(at=0, error=refusal, kind="PersistentVolumeClaim"))
    await world.settle()

    assert world.condition("Degraded").reason == "InvalidSpec"
    assert "PersistentVolumeClaim support-store" in world.condition("Degraded").message
    assert "spec.resources" in world.condition("Degraded").message
    assert world.cluster.get("Deployment", "support") is not None

    # what stood in the way may be gone later
    world.pass_time(61)
    await world.settle()
    assert world.cluster.get("PersistentVolumeClaim", "support-store") is not None
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_a_status_decided_upon_an_old_state_is_never_written(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.watch_is_frozen = True
    world.apply_agent(spec | {"rollout": {"approval": "Manual"}})  # the cache does not see this
    raw = world.cluster.get(names.AGENT_KIND, "support")
    assert raw is not None
    before = raw["status"]
    world.pass_time(86_400)  # there is a status to write: the next schedule

    with pytest.raises(Conflict):
        await world.reconciler.reconcile(("default", "support"))

    raw = world.cluster.get(names.AGENT_KIND, "support")
    assert raw is not None
    assert raw["status"] == before


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_write_that_fails_is_made_good(world: Simulation, spec: Spec, when: Any) -> None:
    undisturbed = Simulation()
    await undisturbed.serve(spec)
    writes = len(undisturbed.cluster.writes)

    for at in range(writes):
        world = Simulation()
        world.apply_agent(spec)
        world.cluster.faults.append(Fault(at=at, error=Unavailable("connection reset"), when=when))
        failures = 0
        for _ in range(3):
            try:
                await world.settle()
            except Unavailable:
                failures += 1
                await world.settle()
            world.node.roll_out("support")

        assert failures == 1

        assert world.status.conditions == undisturbed.status.conditions
        assert world.revisions() == undisturbed.revisions()
        for kind in ("Deployment", "Service", "ConfigMap", "CronJob"):
            assert len(world.cluster.all(kind)) == len(undisturbed.cluster.all(kind))


async def test_an_agent_that_is_gone_is_forgotten(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)

    world.cluster.remove(names.AGENT_KIND, "support")

    assert await world.settle() is None
    assert world.cluster.all("Deployment") == []
    assert world.cache.agent(("default", "support")) is None


async def test_what_no_watch_tells_of_is_not_created_again_and_again(world: Simulation, spec: Spec) -> None:
    """The answer to a creation is lost, and the watch is frozen: to ask at full speed changes nothing."""
    world.watch_is_frozen = True
    world.apply_agent(spec)
    world.restart()
    lost = Fault(at=0, error=Unavailable("reset"), when="after", kind=names.REVISION_KIND)
    world.cluster.faults.append(lost)
    with pytest.raises(Unavailable):
        await world.reconciler.reconcile(KEY)
    assert len(world.cluster.all(names.REVISION_KIND)) == 1

    await world.settle()  # all the rest is made
    for _ in range(3):
        assert await world.reconciler.reconcile(KEY) == 1.0

    world.restart()  # or a list, or the watch
    world.watch_is_frozen = False
    await world.settle()
    assert len(world.cluster.all(names.REVISION_KIND)) == 1
    assert world.cluster.get("Deployment", "support") is not None


async def test_an_agent_whose_kind_has_no_status_for_a_moment_is_not_forgotten(
    world: Simulation, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server says so in the words in which it tells of an object that is gone."""
    await world.serve(spec)

    async def no_status(_: Manifest) -> Any:
        raise NotFound("evolvingagents support")

    with monkeypatch.context() as patch:
        patch.setattr(world.cluster, "apply_status", no_status)
        world.pass_time(86_400)
        with pytest.raises(NotFound):
            await world.reconciler.reconcile(KEY)

    assert world.cache.agent(KEY) is not None


async def test_an_agent_made_anew_while_its_status_was_written_is_seen(
    world: Simulation, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer says that the old one is gone; by then, the watch has told of the new one."""
    await world.serve(spec)
    uid = world.cluster.all(names.AGENT_KIND)[0]["metadata"]["uid"]

    async def answer_late(_: Manifest) -> Any:
        world.cluster.remove(names.AGENT_KIND, "support")
        world.apply_agent(spec)
        raise NotFound("evolvingagents support")

    monkeypatch.setattr(world.cluster, "apply_status", answer_late)
    world.pass_time(86_400)  # there is a status to write: the next schedule
    with pytest.raises(NotFound):
        await world.reconciler.reconcile(KEY)

    found = world.cache.agent(KEY)
    assert found is not None
    assert found["metadata"]["uid"] != uid
