"""A rollout that gets stuck, as kubelet tells of it: whose fault it is, and who mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from evolving_agent.contract.report import Outcome, ServeReport, encode_report
from evolving_operator.api.models import ConditionStatus, RevisionState, RolloutStep
from evolving_operator.cluster.errors import Forbidden
from evolving_operator.testing.fake_cluster import Crash, Fault
from evolving_operator.testing.simulation import Simulation, evaluation_report, training_report
from support.refusing import refused

Spec = dict[str, Any]
PULL = {
    "reason": "ImagePullBackOff",
    "message": 'Back-off pulling image "example/agent:typo": ErrImagePull: not found',
}
CRASH = {
    "reason": "CrashLoopBackOff",
    "message": "back-off 40s restarting failed container=agent pod=support-7f(uid)",
}
MODEL_GONE = ServeReport(
    run_id="pod",
    outcome=Outcome.FAILED,
    reason="ModelNotFound",
    message="http://models: HTTP 404 for the model",
)


def step_of(world: Simulation) -> RolloutStep:
    assert world.status.rollout is not None
    return world.status.rollout.step


def ended(exit_code: int, message: str = "") -> Spec:
    times = {"startedAt": "2026-03-02T12:00:00Z", "finishedAt": "2026-03-02T12:00:09Z"}
    reason = "OOMKilled" if exit_code == 137 else "Error"
    return {"terminated": {"exitCode": exit_code, "reason": reason, "message": message, **times}}


@dataclass(frozen=True)
class Stuck:
    """What kubelet reports, and what is made of it."""

    container: Spec
    restarts: int
    degraded: str  # reason of the condition while it lasts
    at_once: bool = False  # else when the deadline has passed
    pod: Spec | None = None


CASES = {
    "bad image": Stuck({"state": {"waiting": PULL}, "ready": False, "started": False}, 0, "ImagePullFailed"),
    "bad image of an init container": Stuck(
        {"state": {"waiting": {"reason": "PodInitializing"}}, "ready": False},
        0,
        "ImagePullFailed",
        pod={"initContainerStatuses": [{"name": "fetch", "state": {"waiting": PULL}}]},
    ),
    "crash loop": Stuck(
        {"state": {"waiting": CRASH}, "lastState": ended(137), "ready": False}, 3, "CrashLoop", at_once=True
    ),
    "model gone": Stuck(
        {
            "state": {"waiting": CRASH},
            "lastState": ended(1, encode_report(MODEL_GONE).decode()),
            "ready": False,
        },
        3,
        "ModelNotFound",
        at_once=True,
    ),
    "never ready": Stuck(
        {"state": {"running": {"startedAt": "2026-03-02T12:00:00Z"}}, "ready": False, "started": False},
        0,
        "",
    ),
    "no node": Stuck(
        {},
        0,
        "",
        pod={
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
            ]
        },
    ),
}


def stick(world: Simulation, case: Stuck) -> None:
    world.node.stick("support", case.container, restarts=case.restarts, pod=case.pod)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_a_candidate_that_gets_stuck_goes_back_and_stays_there(
    world: Simulation, spec: Spec, case: Stuck
) -> None:
    await world.serve(spec)
    old_stamp = world.stamp()
    revision = await world.train()
    await world.evaluate(revision, lower=2500)

    stick(world, case)
    await world.settle()
    if not case.at_once:
        assert world.status.active is not None
        assert world.status.active.revision == revision
        if case.degraded:
            assert world.condition("Degraded").reason == case.degraded
        world.pass_time(601)
        await world.settle()

    assert world.status.active is not None
    assert world.status.active.model_id == "smollm2"
    assert world.stamp() == old_stamp
    status = world.revision_status(revision)
    assert status.state is RevisionState.ROLLED_BACK
    assert world.condition("Ready").status is ConditionStatus.TRUE  # the old pods were never taken

    # the same model is not tried again by itself, and the agent recovers
    world.node.roll_out("support")
    world.pass_time(60)
    world.node.start_job("support", "finetune", "support-finetune-9")
    world.node.finish_job("support-finetune-9", training_report("smollm2-ft-1"))
    await world.settle()
    assert world.status.candidate is None
    assert world.condition("Degraded").status is ConditionStatus.FALSE
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK


async def test_the_reason_is_the_pods_own_word(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)

    stick(world, CASES["model gone"])
    await world.settle()

    reason = str(world.revision_status(revision).rollback_reason)
    assert reason.startswith("ModelNotFound: ")
    assert "HTTP 404 for the model" in reason


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_a_broken_spec_is_told_and_left_to_its_author(
    world: Simulation, spec: Spec, case: Stuck
) -> None:
    """No other model mends it: nothing goes back, the old pods serve on, a better spec is taken at once."""
    await world.serve(spec)
    revision = await world.promote()
    before = world.status.active

    broken = {**spec["agent"], "image": "example/agent:typo"}
    world.apply_agent(spec | {"agent": broken})
    await world.settle()
    stick(world, case)
    await world.settle()
    world.pass_time(601)
    world.node.exceed_deadline("support")
    await world.settle()

    assert world.status.active == before
    assert world.revision_status(revision).state is RevisionState.ACTIVE
    assert world.condition("Degraded").status is ConditionStatus.TRUE
    if case.degraded:
        assert world.condition("Degraded").reason == case.degraded
    assert world.condition("Ready").status is ConditionStatus.TRUE

    world.apply_agent(spec)
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    assert world.condition("Degraded").status is ConditionStatus.FALSE
    assert world.status.active == before


async def test_a_spec_broken_while_a_revision_bakes_is_not_the_revisions_fault(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    world.node.roll_out("support")
    await world.settle()
    assert world.status.rollout is not None
    assert step_of(world) is RolloutStep.BAKE

    world.apply_agent(spec | {"agent": {**spec["agent"], "image": "example/agent:typo"}})
    await world.settle()
    stick(world, CASES["crash loop"])
    await world.settle()
    world.pass_time(3600)
    await world.settle()
    assert world.status.active is not None
    assert world.status.active.revision == revision
    assert world.condition("Degraded").reason == "CrashLoop"

    # mended, it is validated as it is served now, and stays
    world.apply_agent(spec | {"agent": {**spec["agent"], "image": "example/agent:2"}})
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    await world.validate(revision, score=7900)
    world.pass_time(600)
    await world.settle()
    assert step_of(world) is RolloutStep.DONE
    assert world.revision_status(revision).state is RevisionState.ACTIVE


async def test_a_validation_that_the_api_server_refuses_is_not_waited_for_for_ever(
    world: Simulation, spec: Spec
) -> None:

    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    create = world.cluster.create

    async def refusing(manifest: Spec) -> Spec:
        if "-validate-" in manifest["metadata"]["name"]:
            raise Forbidden("exceeded quota: pods")
        return await create(manifest)

    world.cluster.create = refusing  # type: ignore[method-assign]
    world.node.roll_out("support")
    await world.settle()
    assert world.status.rollout is not None
    assert step_of(world) is RolloutStep.BAKE
    assert "exceeded quota" in world.condition("Degraded").message

    for _ in range(12):
        world.pass_time(61)
        await world.settle()

    assert step_of(world) is RolloutStep.DONE
    assert world.status.rollout.reason == "NotValidated"
    assert "exceeded quota" in world.status.rollout.message
    assert world.revision_status(revision).state is RevisionState.ACTIVE


async def test_no_model_is_blamed_for_a_deployment_that_is_not_there(world: Simulation, spec: Spec) -> None:
    """It is refused for long, or the operator was away in between."""
    await world.serve(spec)
    revision = await world.train()
    with refused(world, "Deployment"):
        await world.evaluate(revision, lower=2500)
        for _ in range(30):
            world.pass_time(60)
            await world.settle()
        assert step_of(world) is RolloutStep.RESTART
        assert world.condition("Degraded").reason == "Forbidden"

    world.pass_time(60)
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    assert step_of(world) is RolloutStep.BAKE


async def test_a_restart_has_all_its_time_from_when_the_deployment_is_applied(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    revision = await world.train()
    world.pass_time(60)
    world.cluster.faults.append(Fault(at=0, error=Crash(), kind="Deployment"))
    report = evaluation_report(revision, lower=2500)
    world.node.finish_job(world.jobs("evaluate")[0], report)
    with pytest.raises(Crash):
        await world.settle()
    world.pass_time(3600)
    world.restart()
    await world.settle()
    world.node.stick("support")
    await world.settle()
    assert step_of(world) is RolloutStep.RESTART

    world.pass_time(599)
    await world.settle()
    assert step_of(world) is RolloutStep.RESTART
    world.pass_time(1)
    await world.settle()
    assert step_of(world) is RolloutStep.ROLLED_BACK


def degraded_reason(world: Simulation) -> str:
    return world.condition("Degraded").reason


async def test_pods_that_are_not_ready_for_long_are_told_of(world: Simulation, spec: Spec) -> None:
    await world.serve(spec | {"rollout": {"progressDeadlineSeconds": 300}})
    world.node.lose_readiness("support")
    await world.settle()
    world.pass_time(300)
    delay = await world.settle()
    assert (degraded_reason(world), delay) == ("AsExpected", 30)  # it is looked at by itself

    world.pass_time(30)
    await world.settle()
    told = world.condition("Degraded")
    assert told.reason == world.condition("Ready").reason == world.condition("Stalled").reason
    pod = world.node.pods("support", "agent")[0]["metadata"]["name"]
    assert (told.reason, told.message) == (
        "PodsNotReady",
        "None of 2 serving pods has been ready for more than 300 s, and nothing tells why: see "
        f"`kubectl describe pod {pod}` and `kubectl logs {pod}`.",
    )
    assert world.events().count("PodsNotReady") == 1

    world.cluster.writes.clear()
    world.pass_time(3600)
    await world.settle()
    assert world.cluster.writes == []

    world.node.roll_out("support")
    await world.settle()
    assert degraded_reason(world) == "AsExpected"


async def test_pods_have_their_time_once_what_was_known_to_be_wrong_is_mended(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    world.node.lose_readiness("support")
    [first, *_] = world.node.pods("support", "agent")
    container = first["status"]["containerStatuses"][0]
    container["state"] = {"waiting": PULL}
    world.cluster.put(first)
    await world.settle()
    world.pass_time(86_400)
    await world.settle()
    assert degraded_reason(world) == "ImagePullFailed"

    container["state"] = {"running": {}}
    world.cluster.put(first)
    await world.settle()
    world.pass_time(629)
    await world.settle()
    assert degraded_reason(world) == "AsExpected"
    world.pass_time(1)
    await world.settle()
    assert degraded_reason(world) == "PodsNotReady"


async def test_a_rolling_restart_has_its_own_deadline(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.lose_readiness("support")
    await world.settle()
    world.pass_time(631)
    await world.settle()
    revision = await world.train()
    world.decide(revision, "Approved")
    await world.settle()
    assert step_of(world) is RolloutStep.RESTART
    assert degraded_reason(world) == "AsExpected"

    world.node.roll_out("support")
    await world.settle()
    assert step_of(world) is RolloutStep.BAKE
    assert world.condition("Ready").status is ConditionStatus.TRUE


async def test_no_model_is_blamed_for_an_edit_that_is_refused(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    world.apply_agent(spec | {"agent": spec["agent"] | {"image": "example/agent:2"}})
    with refused(world, "Deployment"):
        for _ in range(20):
            await world.settle()
            world.pass_time(60)
    assert step_of(world) is RolloutStep.RESTART

    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    assert step_of(world) is RolloutStep.BAKE
