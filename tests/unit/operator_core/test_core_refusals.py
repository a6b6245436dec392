"""What the API server refused is told for as long as it is asked for, and no longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.api.models import ConditionStatus, RevisionState, RolloutStep
from evolving_operator.cluster.errors import Forbidden, Invalid, NotServed
from evolving_operator.core.plan import ObjectRef
from evolving_operator.testing.fake_cluster import Fault
from evolving_operator.testing.simulation import Simulation
from support.refusing import refused

Spec = dict[str, Any]


async def test_who_takes_a_bad_field_back_hears_no_more_of_it(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    refusal = Invalid("spec.template.spec.containers[0].image: invalid", ("spec.template",))
    # in any form: as an apply, and as a patch that sets its lists back
    world.cluster.faults += [Fault(at=0, error=refusal, kind="Deployment") for _ in range(2)]
    world.apply_agent(spec | {"agent": {**spec["agent"], "image": "not an image"}})
    await world.settle()
    assert world.condition("Degraded").reason == "InvalidSpec"

    world.apply_agent(spec)
    await world.settle()

    assert world.condition("Degraded").status is ConditionStatus.FALSE
    assert world.events().count("Recovered") == 1


async def test_what_is_wanted_in_another_form_and_refused_again_was_never_well(
    world: Simulation, spec: Spec
) -> None:
    """Another candidate is committed before the ConfigMap that holds its configuration can be tried."""
    steps = [{"percent": 10, "pauseSeconds": 300}]
    await world.serve(spec | {"rollout": {"canary": {"steps": steps}}})
    revision = await world.train()
    with refused(world, "ConfigMap"):
        await world.evaluate(revision, lower=2000)
        assert world.condition("Degraded").reason == "Forbidden"
        second = await world.train("model-2", job="support-finetune-2")
        assert world.status.candidate is not None
        assert world.status.candidate.revision == second
        assert world.condition("Degraded").reason == "Forbidden"
        assert world.events().count("Recovered") == 0

    world.pass_time(11)
    await world.settle()
    assert world.condition("Degraded").status is ConditionStatus.FALSE
    assert world.events().count("Recovered") == 1


async def test_what_cannot_be_tried_hides_nothing_of_what_keeps_it(world: Simulation, spec: Spec) -> None:
    """The Deployment waits for the ConfigMap that its pods would look for."""
    await world.serve(spec)
    world.cluster.faults.append(Fault(at=0, error=Invalid("no such image"), kind="Deployment"))
    world.apply_agent(spec | {"agent": {**spec["agent"], "image": "not an image"}})
    await world.settle()

    world.cluster.faults.append(Fault(at=0, error=Forbidden("exceeded quota"), kind="ConfigMap"))
    world.apply_agent(spec | {"agent": {"instructions": "Be brief.", "image": "example/agent:2"}})
    await world.settle()

    assert "exceeded quota" in world.condition("Degraded").message


async def test_a_refusal_that_is_over_wakes_nobody_up(world: Simulation, spec: Spec) -> None:
    """An old refusal that was always due would keep the agent's worker busy for ever."""
    await world.serve(spec)
    world.cluster.faults.append(Fault(at=0, error=Invalid("no"), kind="Deployment"))
    world.apply_agent(spec | {"agent": {**spec["agent"], "image": "not an image"}})
    await world.settle()
    world.apply_agent(spec)
    await world.settle()

    world.pass_time(120)
    delay = await world.settle()

    assert delay is None or delay > 0


async def test_a_refusal_is_told_before_a_pin_that_leads_nowhere(world: Simulation, spec: Spec) -> None:
    """It keeps all that the spec asks for from the pods, and nothing else would show it."""
    await world.serve(spec)
    world.cluster.faults.append(Fault(at=0, error=Invalid("no"), kind="Deployment"))
    world.apply_agent(
        spec | {"agent": {**spec["agent"], "image": "not an image"}, "rollout": {"pin": "support-12345678"}}
    )
    await world.settle()

    assert world.condition("Degraded").reason == "InvalidSpec"
    assert "Deployment" in world.condition("Degraded").message


async def test_what_may_not_be_deleted_is_told_and_holds_nothing_else_up(
    world: Simulation, spec: Spec
) -> None:
    """A policy, a Role that lacks the verb, a webhook."""
    await world.serve(spec)
    cron_job = names.curate_cron_job("support")
    delete = world.cluster.delete
    asked: list[str] = []

    async def forbidden(ref: ObjectRef) -> dict[str, Any] | None:
        if ref.kind != "CronJob":
            return await delete(ref)
        asked.append(ref.name)
        raise Forbidden(f"{ref.name} is protected")

    world.cluster.delete = forbidden  # type: ignore[method-assign]
    generation = world.status.observed_generation
    world.apply_agent({key: value for key, value in spec.items() if key != "curation"})
    await world.settle()

    told = world.condition("Degraded")
    assert (told.reason, told.message) == (
        "Forbidden",
        f"CronJob {cron_job} cannot be deleted: {cron_job} is protected",
    )
    assert asked == [cron_job]
    assert world.status.observed_generation != generation

    world.pass_time(11)
    await world.settle()
    assert asked == [cron_job] * 2

    world.cluster.delete = delete  # type: ignore[method-assign]
    world.pass_time(11)
    await world.settle()
    assert world.cluster.get("CronJob", cron_job) is None
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_what_could_not_be_deleted_and_is_wanted_again_is_no_fault(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    world.cluster.faults.append(Fault(at=0, error=Forbidden("no"), kind="CronJob"))
    world.apply_agent({key: value for key, value in spec.items() if key != "curation"})
    await world.settle()
    assert world.condition("Degraded").reason == "Forbidden"

    world.apply_agent(spec)
    await world.settle()

    assert world.condition("Degraded").status is ConditionStatus.FALSE
    assert world.cluster.get("CronJob", names.curate_cron_job("support")) is not None


@contextmanager
def a_size_for_good(world: Simulation) -> Iterator[list[str]]:
    """The storage class lets no claim grow, and none shrinks. Yields the sizes that are asked for in vain."""
    apply = world.cluster.apply
    asked: list[str] = []

    async def refusing(manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest["kind"] == "PersistentVolumeClaim":
            requests = manifest["spec"].get("resources", {"requests": {}})["requests"]
            if requests.get("storage", "10Gi") != "10Gi":
                asked.append(requests["storage"])
                raise Forbidden("only dynamically provisioned pvc can be resized")
        return await apply(manifest)

    world.cluster.apply = refusing  # type: ignore[method-assign]
    yield asked
    world.cluster.apply = apply  # type: ignore[method-assign]


def claim_of(world: Simulation) -> tuple[list[str], str]:
    """What it goes with, and its size."""
    claim = world.cluster.get("PersistentVolumeClaim", "support-store")
    assert claim is not None
    owners = [owner["name"] for owner in claim["metadata"].get("ownerReferences", ())]
    return owners, claim["spec"]["resources"]["requests"]["storage"]


@pytest.mark.parametrize("size", ["20Gi", "5Gi"])
async def test_whether_a_volume_goes_with_its_agent_counts_though_its_size_is_refused(
    world: Simulation, spec: Spec, size: str
) -> None:
    await world.serve(spec | {"deletionPolicy": "Delete"})
    asked_for = {"storage": {"volume": {"size": size}}}
    with a_size_for_good(world) as asked:
        world.apply_agent(spec | asked_for | {"deletionPolicy": "Retain"})
        await world.settle()
        assert claim_of(world) == ([], "10Gi")
        told = world.condition("Degraded")
        assert (told.reason, "resized" in told.message) == ("Forbidden", True)

        # and later too, in a new process
        world.restart()
        world.apply_agent(spec | asked_for | {"deletionPolicy": "Delete"})
        await world.settle()
        assert claim_of(world) == (["support"], "10Gi")
        world.apply_agent(spec | asked_for | {"deletionPolicy": "Retain"})
        await world.settle()
        assert claim_of(world) == ([], "10Gi")
        assert asked == [size] * 3

        # asked for now and then, until it is taken back
        world.pass_time(11)
        await world.settle()
        assert asked == [size] * 4
        world.apply_agent(spec | {"deletionPolicy": "Retain"})
        await world.settle()
        assert world.condition("Degraded").status is ConditionStatus.FALSE

    world.cluster.remove(names.AGENT_KIND, "support")
    assert world.cluster.get("PersistentVolumeClaim", "support-store") is not None


async def test_a_volume_that_another_has_grown_keeps_its_size_though_another_one_is_refused(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec | {"deletionPolicy": "Delete"})
    claim = world.cluster.get("PersistentVolumeClaim", "support-store")
    assert claim is not None
    claim["spec"]["resources"]["requests"]["storage"] = "20Gi"
    world.cluster.put(claim)
    with a_size_for_good(world):
        world.apply_agent(spec | {"storage": {"volume": {"size": "15Gi"}}})
        await world.settle()

        assert claim_of(world) == ([], "20Gi")
        assert world.condition("Degraded").reason == "Forbidden"


@contextmanager
def refused_statuses_of_revisions(world: Simulation) -> Iterator[list[dict[str, Any]]]:
    """What is asked for in vain."""
    apply_status = world.cluster.apply_status
    asked: list[dict[str, Any]] = []

    async def refusing(manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest["kind"] == names.REVISION_KIND:
            asked.append(manifest)
            raise Forbidden("cannot patch agentrevisions/status")
        return await apply_status(manifest)

    world.cluster.apply_status = refusing  # type: ignore[method-assign]
    yield asked
    world.cluster.apply_status = apply_status  # type: ignore[method-assign]


async def test_a_revisions_status_that_is_refused_is_told_and_holds_nothing_else_up(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    world.apply_agent(spec | {"model": {"base": "qwen3"}, "agent": {**spec["agent"], "replicas": 5}})
    with refused_statuses_of_revisions(world) as asked:
        await world.settle()
        assert len(asked) == 1
        assert world.node.deployment("support")["spec"]["replicas"] == 5
        assert world.condition("Degraded").reason == "Forbidden"

    world.pass_time(11)
    await world.settle()
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_a_kind_that_is_served_no_more_is_told(world: Simulation, spec: Spec) -> None:
    """Its CRD was deleted, and comes back later."""
    create = world.cluster.create

    async def gone(manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest["kind"] == names.REVISION_KIND:
            raise NotServed("POST /apis: the server could not find the requested resource")
        return await create(manifest)

    world.cluster.create = gone  # type: ignore[method-assign]
    world.apply_agent(spec)
    await world.settle()
    told = world.condition("Degraded")
    assert (told.reason, names.REVISION_KIND in told.message) == ("NotServed", True)

    world.cluster.create = create  # type: ignore[method-assign]
    world.pass_time(11)
    await world.settle()
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_pods_that_cannot_be_created_are_told_and_are_not_the_revisions_fault(
    world: Simulation, spec: Spec
) -> None:
    """A quota leaves no room for the pod that comes before one goes."""
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    world.node.refuse_pods("support", "exceeded quota: pods")
    world.pass_time(10)
    world.node.exceed_deadline("support")
    await world.settle()
    world.pass_time(3600)
    await world.settle()
    assert world.condition("Degraded").reason == "PodsRefused"
    assert "exceeded quota: pods" in world.condition("Degraded").message
    assert world.status.active is not None
    assert world.status.active.revision == revision

    # when there is room again, it has all its time, whatever the controller said before
    world.node.refuse_pods("support", None)
    world.node.exceed_deadline("support")
    await world.settle()
    world.pass_time(590)
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    assert world.status.rollout is not None
    assert world.status.rollout.step is RolloutStep.BAKE
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_a_job_without_a_pod_is_told(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", "finetune", "support-finetune-1")
    await world.settle()
    world.pass_time(61)
    await world.settle()

    told = world.condition("Trained")
    assert (told.reason, "kubectl describe job support-finetune-1" in told.message) == ("PodMissing", True)


async def test_a_pod_that_crashes_is_the_revisions_fault_though_others_are_refused(
    world: Simulation, spec: Spec
) -> None:
    """It holds the quota's last place: who waits for the refusal to end waits for ever."""
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    crashing = {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}
    world.node.stick("support", crashing, restarts=5)
    world.node.refuse_pods("support", "exceeded quota: pods")
    await world.settle()

    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK


async def test_no_step_is_taken_that_the_revisions_cannot_be_told_of(world: Simulation, spec: Spec) -> None:
    """What it leaves behind would be lost: which approval it acted upon, when the revision served."""
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=-900, delta=-100)
    with refused_statuses_of_revisions(world):
        world.decide(revision, "Approved")
        for _ in range(3):
            await world.settle()
            world.pass_time(60)
        assert world.status.active is not None
        assert world.status.active.revision != revision
        assert world.condition("Degraded").reason == "Forbidden"

    world.pass_time(11)
    await world.settle()
    assert world.status.active.revision == revision
