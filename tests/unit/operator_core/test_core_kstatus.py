"""Tools that wait for any kind of object understand an agent: Ready, Reconciling, Stalled."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_operator.cluster.errors import Invalid
from evolving_operator.testing.simulation import Simulation

Spec = dict[str, Any]


def true_conditions(world: Simulation) -> set[str]:
    found = {item.type for item in world.status.conditions if item.status == "True"}
    return found & {"Ready", "Reconciling", "Stalled"}


async def test_an_agent_is_reconciling_until_its_pods_are_as_the_spec_says(
    world: Simulation, spec: Spec
) -> None:
    world.apply_agent(spec)
    await world.settle()
    assert true_conditions(world) == {"Reconciling"}

    world.node.roll_out("support")
    await world.settle()
    assert true_conditions(world) == {"Ready"}
    assert world.status.observed_generation == 1

    world.apply_agent(spec | {"agent": {"instructions": "Be brief.", "replicas": 2}})
    await world.settle()
    assert true_conditions(world) == {"Ready", "Reconciling"}  # the old pods serve on
    assert world.status.observed_generation == 2
    world.node.roll_out("support")
    await world.settle()
    assert true_conditions(world) == {"Ready"}


async def test_what_waits_for_a_person_is_stalled(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.apply_agent(spec | {"agent": {**spec["agent"], "image": "example/typo"}})
    await world.settle()
    world.node.stick("support", {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}})
    await world.settle()
    assert true_conditions(world) == {"Ready", "Stalled"}
    assert world.condition("Stalled").reason == "ImagePullFailed"

    world.apply_agent(spec | {"model": {}})  # a spec that cannot be read
    await world.settle()
    assert true_conditions(world) == {"Ready", "Stalled"}
    assert world.condition("Stalled").reason == "InvalidSpec"

    world.apply_agent(spec)
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    assert true_conditions(world) == {"Ready"}


@pytest.mark.parametrize(
    ("more", "reason", "promoted"),
    [
        ({"suspend": True}, "Suspended", "Suspended"),
        ({"rollout": {"approval": "Manual"}}, "AwaitsPerson", "AwaitsApproval"),
    ],
    ids=["suspended", "manual"],
)
async def test_what_waits_in_the_place_of_a_model_that_never_served_is_stalled(
    world: Simulation, spec: Spec, more: Spec, reason: str, promoted: str
) -> None:
    """A base model was mistyped, and mended: nothing goes on by itself."""
    world.apply_agent(spec | more | {"model": {"base": "tpyo"}})
    await world.settle()
    assert true_conditions(world) == {"Reconciling"}
    world.apply_agent(spec | more)
    await world.settle()

    assert true_conditions(world) == {"Stalled"}
    told = [world.condition(kind).reason for kind in ("Progressing", "Ready", "Promoted")]
    assert told == [reason, reason, promoted]

    assert world.status.candidate is not None
    if promoted == "AwaitsApproval":
        world.decide(world.status.candidate.revision, "Approved")
    else:
        world.apply_agent(spec)
    await world.settle()
    assert true_conditions(world) == {"Reconciling"}
    world.node.roll_out("support")
    await world.settle()
    assert true_conditions(world) == {"Ready"}
    assert world.status.active is not None
    assert world.status.active.model_id == "smollm2"


async def test_pods_are_told_of_though_the_spec_cannot_be_read(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.apply_agent(spec | {"model": {}})
    await world.settle()
    assert true_conditions(world) == {"Ready", "Stalled"}

    raw = world.node.deployment("support")
    world.cluster.put(raw | {"status": raw["status"] | {"readyReplicas": 0, "availableReplicas": 0}})
    await world.settle()

    assert true_conditions(world) == {"Stalled"}
    assert world.condition("Ready").message.startswith("No serving pod is ready. spec.model.base: ")
    assert (world.status.replicas, world.status.ready_replicas) == (2, 0)


async def test_what_is_told_while_the_spec_cannot_be_read_is_true_of_now(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    assert world.status.next_curation_time is not None
    assert world.status.next_training_time is not None
    world.apply_agent(spec | {"agent": {"instructions": "Be brief.", "replicas": 2}})
    await world.settle()
    read = world.status

    world.apply_agent(spec | {"model": {}})
    await world.settle()
    unread = world.status
    assert (unread.observed_generation, unread.next_curation_time, unread.next_training_time) == (
        3,
        None,
        None,
    )
    assert world.condition("Progressing").reason == "RollingRestart"  # the Deployment goes on by itself

    world.node.roll_out("support")
    await world.settle()
    progressing = world.condition("Progressing")
    assert (progressing.status, progressing.reason) == ("False", "InvalidSpec")
    assert progressing.message.startswith("Nothing is on its way. spec.model.base: ")
    told = {item.type: item for item in world.status.conditions}
    assert {kind for kind, item in told.items() if item.observed_generation == 3} == {
        "Ready",
        "Progressing",
        "Degraded",
        "Stalled",
    }
    for kind in ("DatasetReady", "Trained", "Evaluated", "Promoted"):
        assert told[kind] in read.conditions  # word for word: it speaks of the spec before
    writes = len(world.cluster.writes)
    await world.settle()
    assert len(world.cluster.writes) == writes

    world.apply_agent(spec)
    await world.settle()
    assert {item.observed_generation for item in world.status.conditions} == {4}
    assert world.status.next_training_time is not None


async def test_pods_that_do_not_come_up_are_no_progress_of_a_spec_that_cannot_be_read(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    world.apply_agent(spec | {"agent": {**spec["agent"], "image": "example/typo"}})
    await world.settle()
    raw = world.node.deployment("support")
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "late"}
    world.cluster.put(raw | {"status": raw["status"] | {"conditions": [late]}})
    world.apply_agent(spec | {"model": {}})
    await world.settle()

    assert world.condition("Progressing").reason == "RollingRestart"  # its controller has not seen the newest
    raw = world.node.deployment("support")
    generation = raw["metadata"]["generation"]
    world.cluster.put(raw | {"status": raw["status"] | {"observedGeneration": generation}})
    await world.settle()

    assert world.condition("Progressing").reason == "InvalidSpec"


async def test_a_misspelt_directive_changes_nothing_but_what_is_said(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    before = world.stamp()
    probe = {"$patch": "remove"}
    added = {"spec": {"containers": [{"name": "agent", "livenessProbe": probe}]}}
    world.apply_agent(spec | {"agent": {**spec["agent"], "podTemplate": added}})
    await world.settle()

    assert world.condition("Degraded").reason == "InvalidSpec"
    assert world.condition("Degraded").message == (
        "spec.agent.podTemplate.spec: containers[0].livenessProbe.$patch is 'remove': it can be delete or "
        "replace. Until then nothing of the spec is in force but deletionPolicy."
    )
    assert world.stamp() == before


async def test_a_configuration_that_is_too_large_is_told_by_its_largest_part(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    before = world.stamp()
    apply = world.cluster.apply

    async def bounded(manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest["kind"] == "ConfigMap" and len(str(manifest["data"])) > 200_000:
            raise Invalid("ConfigMap is invalid: []: Too long: may not be more than 1048576 bytes", ("data",))
        return await apply(manifest)

    world.cluster.apply = bounded  # type: ignore[method-assign]
    large = [{"name": f"s{number}", "description": "d", "instructions": "x" * 16_000} for number in range(16)]
    large[7]["instructions"] = "y" * 16_384
    world.apply_agent(spec | {"agent": {**spec["agent"], "specialists": large}})
    await world.settle()

    told = world.condition("Degraded")
    assert told.reason == "ConfigTooLarge"
    assert "Shorten what is largest: spec.agent.specialists[s7] (16 KiB)" in told.message
    assert world.stamp() == before  # no pod is asked to serve what is not there

    world.apply_agent(spec)
    await world.settle()
    assert true_conditions(world) == {"Ready"}
