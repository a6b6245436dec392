"""Children that are deleted and held, and names that are taken: waited for, told of, never hammered."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.api.models import ConditionStatus
from evolving_operator.cluster.errors import Forbidden
from evolving_operator.cluster.kinds import OWNED
from evolving_operator.testing.simulation import Simulation

Spec = dict[str, Any]
CHILDREN = [
    ("PersistentVolumeClaim", "support-store"),
    ("Deployment", "support"),
    ("Service", "support"),
    ("ServiceAccount", "support"),
    ("ConfigMap", "support-config"),
    ("PodDisruptionBudget", "support"),
    ("CronJob", "support-curate"),
]


@pytest.mark.parametrize(("kind", "name"), CHILDREN)
async def test_a_child_that_is_deleted_and_held_is_waited_for_and_then_made_anew(
    world: Simulation, spec: Spec, kind: str, name: str
) -> None:
    await world.serve(spec)
    world.cluster.writes.clear()

    # when somebody deletes it, and something holds it: a volume in use, a Deployment that waits for its pods
    world.cluster.hold(kind, name, "example.com/held")
    await world.settle()

    # then nothing is written to it, and after a while it is told
    assert world.cluster.writes == []
    world.pass_time(10)
    await world.settle()
    told = world.condition("Degraded")
    assert told.reason == "ChildDeleted"
    assert f"{kind} {name} was deleted" in told.message
    assert "example.com/held" in told.message
    assert {write.kind for write in world.cluster.writes} == {"Event", names.AGENT_KIND}

    # and when it is gone, it is there again
    world.cluster.remove(kind, name)
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    made = world.cluster.get(kind, name)
    assert made is not None
    assert "deletionTimestamp" not in made["metadata"]
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_a_held_child_still_gets_what_the_spec_says(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.cluster.hold("Service", "support", "service.kubernetes.io/load-balancer-cleanup")
    world.cluster.hold("ConfigMap", "support-config", "example.com/held")
    await world.settle()

    world.apply_agent(spec | {"agent": {"instructions": "Be brief.", "replicas": 2}})
    await world.settle()

    config_map = world.cluster.get("ConfigMap", "support-config")
    assert config_map is not None
    assert "Be brief." in config_map["data"]["agent_config.json"]


async def test_a_child_that_is_not_wanted_is_not_told_of(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.cluster.hold("CronJob", "support-curate", "foregroundDeletion")
    world.apply_agent({name: value for name, value in spec.items() if name != "curation"})
    await world.settle()

    world.pass_time(60)
    await world.settle()

    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_a_job_whose_name_is_taken_is_told_of_and_asked_for_slowly(
    world: Simulation, spec: Spec
) -> None:
    """A Job that somebody took the agent's label from is one that the watch no longer tells of."""
    await world.serve(spec)
    revision = names.revision("support", "smollm2", "digest-of-smollm2-ft-1", "LoRA", "hp")
    job = names.evaluate_job(revision, "")
    world.cluster.put(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job, "namespace": "default"}}
    )

    # when the evaluation is due, an answer that got lost is the first thing to think of
    assert await world.train() == revision
    assert await world.settle() == 1
    assert world.condition("Degraded").status is ConditionStatus.FALSE

    # and half a minute later it is told
    world.pass_time(30)
    await world.settle()
    told = world.condition("Degraded")
    assert told.reason == "NameTaken"
    assert f"Job {job} was refused: an object of this name is there" in told.message

    # then it is tried again now and then, and nothing is told twice
    events = len(world.cluster.all("Event"))
    for _ in range(5):
        world.pass_time(10)
        delay = await world.settle()
        assert delay is not None
        assert delay >= 1
        assert world.condition("Degraded").reason == "NameTaken"
    assert len(world.cluster.all("Event")) == events

    # until the name is free
    world.cluster.remove("Job", job)
    world.pass_time(10)
    await world.settle()
    assert job in world.jobs(names.COMPONENT_EVALUATE)
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_a_base_revision_that_is_deleted_and_held_is_made_anew_when_it_is_gone(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    (base,) = world.revisions()

    world.cluster.hold(names.REVISION_KIND, base, "example.com/held")
    assert await world.settle() == 1
    world.pass_time(30)
    await world.settle()
    assert world.condition("Degraded").reason == "NameTaken"

    world.cluster.remove(names.REVISION_KIND, base)
    world.pass_time(10)
    await world.settle()
    assert world.revisions() == [base]
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_a_base_revision_that_is_refused_is_asked_for_slowly(world: Simulation, spec: Spec) -> None:
    """A quota on AgentRevisions, or an admission policy."""
    await world.serve(spec)
    (base,) = world.revisions()
    create, asked = world.cluster.create, 0

    async def refusing(manifest: dict[str, Any]) -> dict[str, Any]:
        nonlocal asked
        if manifest["kind"] == names.REVISION_KIND:
            asked += 1
            raise Forbidden("exceeded quota: revisions")
        return await create(manifest)

    world.cluster.create = refusing  # type: ignore[method-assign]
    world.cluster.remove(names.REVISION_KIND, base)

    assert await world.settle() == 10
    assert asked == 1
    assert "exceeded quota" in world.condition("Degraded").message


@pytest.mark.parametrize(("kind", "name"), CHILDREN)
async def test_what_somebody_else_has_under_a_childs_name_is_not_taken_over(
    world: Simulation, spec: Spec, kind: str, name: str
) -> None:
    theirs = {"kind": kind, "metadata": {"name": name, "namespace": "default"}, "data": {"theirs": "yes"}}
    theirs["apiVersion"] = next(known.api_version for known in OWNED if known.kind == kind)
    before = world.cluster.put(theirs)

    world.apply_agent(spec)
    await world.settle()

    assert world.cluster.get(kind, name) == before
    told = world.condition("Degraded")
    assert told.reason == "NameTaken"
    assert f"{kind} {name} was refused: an object of this name is there" in told.message
    assert await world.settle() == 10

    # until it is out of the way
    world.cluster.remove(kind, name)
    world.pass_time(10)
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    made = world.cluster.get(kind, name)
    assert made is not None
    assert "theirs" not in made.get("data", {})
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_a_child_whose_label_somebody_took_away_is_still_ours(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    service = world.cluster.get("Service", "support")
    assert service is not None
    del service["metadata"]["labels"]
    world.cluster.put(service)
    world.restart()

    await world.settle()

    healed = world.cluster.get("Service", "support")
    assert healed is not None
    assert healed["metadata"]["labels"][names.LABEL_AGENT] == "support"
    assert healed["metadata"]["uid"] == service["metadata"]["uid"]
