"""Errors of live requests take a revision back, and a shadow ends once it has seen enough."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from evolving_agent.contract.served import ServedAs, ServedCount, ServedCounts
from evolving_operator.api.models import ConditionStatus, RevisionState, RolloutStep
from evolving_operator.core.observed import Heard
from evolving_operator.testing.simulation import Simulation

Spec = dict[str, Any]
CANARY = {"steps": [{"percent": 10, "pauseSeconds": 300}]}
PODS = 2  # each tells the same


def tell(world: Simulation, *counts: tuple[str, ServedAs, int, int], trial: str | None = None) -> None:
    """What each pod has counted: configuration, place, requests, errors."""
    told = tuple(
        ServedCount(config=config, served_as=served_as, requests=requests, errors=errors)
        for config, served_as, requests, errors in counts
    )
    world.requests.told = Heard(ServedCounts(trial=trial, counts=told))


def candidate(world: Simulation) -> str:
    """The hash of the configuration on trial."""
    raw = world.cluster.get("ConfigMap", "support-config")
    assert raw is not None
    traffic = json.loads(raw["data"]["agent_config.json"])["traffic"]
    return str((traffic.get("shadow") or traffic["canary"])["config"])


def trial_name(world: Simulation) -> str:
    """What the pods call the trial under way."""
    raw = world.cluster.get("ConfigMap", "support-config")
    assert raw is not None
    return str(json.loads(raw["data"]["agent_config.json"])["traffic"]["trial"])


def step(world: Simulation) -> RolloutStep:
    assert world.status.rollout is not None
    return world.status.rollout.step


def assert_at_rest(world: Simulation) -> None:
    """Its pods are asked for their problems only."""
    assert world.requests.followed is not None
    assert not world.requests.followed.at_once


@pytest.fixture
def canary(spec: Spec) -> Spec:
    return copy.deepcopy(spec) | {"rollout": {"canary": CANARY}}


async def tried(world: Simulation, spec: Spec) -> str:
    """A candidate that has passed the gate, on its first trial."""
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    return revision


async def promoted(world: Simulation, spec: Spec) -> str:
    """All pods serve what was learned, and it bakes."""
    revision = await tried(world, spec)
    world.node.roll_out("support")
    await world.settle()
    assert step(world) is RolloutStep.BAKE
    return revision


async def test_a_canary_whose_requests_fail_is_given_up(world: Simulation, canary: Spec) -> None:
    revision = await tried(world, canary)
    stamp, tried_hash = world.stamp(), candidate(world)
    tell(
        world,
        (tried_hash, ServedAs.CANARY, 20, 2),
        (stamp, ServedAs.ACTIVE, 200, 1),
        trial=trial_name(world),
    )

    await world.settle()

    rollout = world.status.rollout
    assert rollout is not None
    assert (rollout.step, rollout.reason) == (RolloutStep.ROLLED_BACK, "ErrorsExceeded")
    assert rollout.message == (
        "4 of 40 live requests failed (10.0%); rollback.maxErrorPercent allows 5 %. "
        "At what is served beside it, 2 of 400 live requests failed (0.5%)."
    )
    assert world.stamp() == stamp  # no pod was replaced
    assert world.status.candidate is None
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK


@pytest.mark.parametrize(
    ("requests", "errors", "beside"),
    [
        pytest.param(14, 14, 0, id="too few requests to judge by"),
        pytest.param(20, 1, 0, id="no more than is allowed"),
        pytest.param(20, 10, 120, id="an outage that hits both"),
    ],
)
async def test_a_canary_goes_on(
    world: Simulation, canary: Spec, requests: int, errors: int, beside: int
) -> None:
    await tried(world, canary)
    tried_hash = candidate(world)
    tell(
        world,
        (tried_hash, ServedAs.CANARY, requests, errors),
        (world.stamp(), ServedAs.ACTIVE, 200, beside),
        trial=trial_name(world),
    )
    await world.settle()
    assert step(world) is RolloutStep.CANARY

    world.pass_time(300)
    await world.settle()

    assert step(world) is RolloutStep.RESTART


async def test_pods_that_have_not_begun_the_trial_say_nothing_of_it(world: Simulation, canary: Spec) -> None:
    await tried(world, canary)
    tell(world, (candidate(world), ServedAs.CANARY, 50, 50), trial="another")

    await world.settle()

    assert step(world) is RolloutStep.CANARY


async def test_a_promoted_revision_whose_requests_fail_goes_back(world: Simulation, spec: Spec) -> None:
    revision = await promoted(world, spec)
    tell(world, (world.stamp(), ServedAs.ACTIVE, 25, 3))

    await world.settle()

    rollout, active = world.status.rollout, world.status.active
    assert rollout is not None
    assert active is not None
    assert (rollout.step, rollout.reason) == (RolloutStep.ROLLED_BACK, "ErrorsExceeded")
    assert rollout.message == ("6 of 50 live requests failed (12.0%); rollback.maxErrorPercent allows 5 %.")
    assert active.model_id == "smollm2"
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK
    assert "RolledBack" in world.events()


async def test_a_new_process_promotes_nobody_before_pods_have_told(world: Simulation, canary: Spec) -> None:
    """It comes when the last step is over, and knows of no error yet."""
    await world.serve(canary)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    tried, served = candidate(world), world.stamp()
    world.requests.told = None
    world.pass_time(301)
    world.restart()
    await world.settle()
    assert step(world) is RolloutStep.CANARY

    counts = ((tried, ServedAs.CANARY, 100, 90), (served, ServedAs.ACTIVE, 900, 0))
    tell(world, *counts, trial=trial_name(world))
    await world.settle()

    assert step(world) is RolloutStep.ROLLED_BACK
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK


async def test_a_bake_does_not_end_before_pods_have_told(world: Simulation, spec: Spec) -> None:
    revision = await promoted(world, spec)
    await world.validate(revision, score=8000)
    world.requests.told = None
    world.pass_time(3600)
    world.restart()
    await world.settle()
    assert step(world) is RolloutStep.BAKE

    tell(world, (world.stamp(), ServedAs.ACTIVE, 100, 20))
    await world.settle()
    assert step(world) is RolloutStep.ROLLED_BACK


async def test_it_is_watched_after_the_bake_for_as_long_as_the_window(world: Simulation, spec: Spec) -> None:
    spec = copy.deepcopy(spec) | {"rollout": {"rollback": {"windowSeconds": 7200}}}
    revision = await promoted(world, spec)
    tell(world)
    await world.validate(revision, score=8000)
    world.pass_time(3600)
    await world.settle()
    assert step(world) is RolloutStep.DONE
    followed = world.requests.followed
    assert followed is not None
    assert len(followed.pods) == PODS

    tell(world, (world.stamp(), ServedAs.ACTIVE, 100, 20))
    await world.settle()

    assert step(world) is RolloutStep.ROLLED_BACK
    assert world.status.active is not None
    assert world.status.active.model_id == "smollm2"


async def test_a_new_candidate_does_not_end_the_watch(world: Simulation, spec: Spec) -> None:
    revision = await promoted(world, spec)
    await world.validate(revision, score=8000)
    world.pass_time(3600)
    await world.settle()
    candidate = await world.train("model-2", job="support-finetune-2")

    tell(world, (world.stamp(), ServedAs.ACTIVE, 100, 20))
    await world.settle()

    assert step(world) is RolloutStep.ROLLED_BACK
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK
    assert world.status.candidate is not None
    assert world.status.candidate.revision == candidate


@pytest.mark.parametrize("fate", ["on trial", "rejected", "given up"])
async def test_a_trial_does_not_end_the_watch(world: Simulation, canary: Spec, fate: str) -> None:
    first = await tried(world, canary)
    world.pass_time(301)
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    world.pass_time(601)
    await world.validate(first, score=8000)
    assert step(world) is RolloutStep.DONE
    events = world.events().count("RolloutFinished")

    second = await world.train("model-2", job="support-finetune-2")
    await world.evaluate(second, lower=2500)
    assert step(world) is RolloutStep.CANARY
    trial = candidate(world)
    if fate == "rejected":
        world.decide(second, "Rejected")
        await world.settle()
        assert step(world) is RolloutStep.DONE
        assert world.condition("Promoted").status is ConditionStatus.TRUE
    elif fate == "given up":
        counts = ((trial, ServedAs.CANARY, 100, 60), (world.stamp(), ServedAs.ACTIVE, 100, 0))
        tell(world, *counts, trial=trial)
        await world.settle()
        assert world.status.candidate is None
    assert world.events().count("RolloutFinished") == events
    assert world.requests.followed is not None
    assert world.requests.followed.at_once

    tell(world, (world.stamp(), ServedAs.ACTIVE, 100, 60), trial=trial)
    await world.settle()

    assert world.status.rollout is not None
    assert (world.status.rollout.revision, step(world)) == (first, RolloutStep.ROLLED_BACK)
    assert world.status.promotion is None
    assert (world.status.candidate is not None) == (fate == "on trial")


async def test_after_the_window_requests_decide_nothing(world: Simulation, spec: Spec) -> None:
    spec = copy.deepcopy(spec) | {"rollout": {"rollback": {"windowSeconds": 60}}}
    revision = await promoted(world, spec)
    await world.validate(revision, score=8000)
    world.pass_time(3600)
    await world.settle()
    assert step(world) is RolloutStep.DONE

    tell(world, (world.stamp(), ServedAs.ACTIVE, 100, 100))
    await world.settle()

    assert_at_rest(world)
    assert step(world) is RolloutStep.DONE


async def test_what_breaks_with_an_edit_is_not_the_revisions_fault(world: Simulation, spec: Spec) -> None:
    revision = await promoted(world, spec)
    await world.validate(revision, score=8000)
    world.pass_time(3600)
    await world.settle()
    edited = copy.deepcopy(spec)
    edited["agent"]["instructions"] = "You answer in riddles."
    await world.serve(edited)

    tell(world, (world.stamp(), ServedAs.ACTIVE, 100, 100))
    await world.settle()

    assert step(world) is RolloutStep.DONE
    assert_at_rest(world)


async def test_a_pinned_revision_is_not_judged(world: Simulation, spec: Spec) -> None:
    revision = await promoted(world, spec)
    await world.serve(copy.deepcopy(spec) | {"rollout": {"pin": revision}})
    tell(world, (world.stamp(), ServedAs.ACTIVE, 100, 100))

    await world.settle()

    assert world.status.active is not None
    assert world.status.active.revision == revision


async def test_it_can_be_turned_off(world: Simulation, spec: Spec) -> None:
    spec = copy.deepcopy(spec) | {"rollout": {"rollback": {"maxErrorPercent": 100}}}
    revision = await promoted(world, spec)
    tell(world, (world.stamp(), ServedAs.ACTIVE, 100, 100))

    await world.settle()

    assert_at_rest(world)
    assert world.status.active is not None
    assert world.status.active.revision == revision


async def test_the_end_of_a_rollout_tells_how_live_requests_ended(world: Simulation, spec: Spec) -> None:
    revision = await promoted(world, spec)
    tell(world, (world.stamp(), ServedAs.ACTIVE, 100, 1))
    await world.validate(revision, score=8000)
    world.pass_time(3600)
    await world.settle()

    assert world.status.rollout is not None
    assert world.status.rollout.message.endswith(" 2 of 200 live requests failed (1.0%).")


async def test_pods_that_cannot_be_asked_change_nothing_but_are_told_of(
    world: Simulation, spec: Spec
) -> None:
    revision = await promoted(world, spec)
    world.requests.told = Heard(silence="cannot be asked at http://10.0.0.1:8080/served (refused)")
    await world.validate(revision, score=8000)
    world.pass_time(3600)
    await world.settle()

    rollout = world.status.rollout
    assert rollout is not None
    assert rollout.step is RolloutStep.DONE
    assert "Live requests were not all counted: pod support-" in rollout.message
    assert rollout.message.endswith("cannot be asked at http://10.0.0.1:8080/served (refused).")


async def test_a_shadow_ends_once_it_has_seen_enough(world: Simulation, spec: Spec) -> None:
    shadow = {"percent": 20, "minRequests": 40, "timeoutSeconds": 3600}
    await tried(world, copy.deepcopy(spec) | {"rollout": {"shadow": shadow}})
    tried_hash = candidate(world)
    tell(world, (tried_hash, ServedAs.SHADOW, 19, 0), trial=trial_name(world))
    await world.settle()
    assert step(world) is RolloutStep.SHADOW

    tell(world, (tried_hash, ServedAs.SHADOW, 20, 0), trial=trial_name(world))
    await world.settle()

    assert step(world) is RolloutStep.RESTART


async def test_a_shadow_that_fails_never_reaches_a_user(world: Simulation, spec: Spec) -> None:
    shadow = {"percent": 20, "minRequests": 40}
    revision = await tried(world, copy.deepcopy(spec) | {"rollout": {"shadow": shadow}})
    stamp, tried_hash = world.stamp(), candidate(world)
    tell(
        world,
        (tried_hash, ServedAs.SHADOW, 30, 30),
        (stamp, ServedAs.ACTIVE, 300, 0),
        trial=trial_name(world),
    )

    await world.settle()

    assert step(world) is RolloutStep.ROLLED_BACK
    assert world.stamp() == stamp
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK
    assert world.events().count("ShadowAborted") == 1


async def test_a_shadow_is_what_the_spec_asks_for_and_counts_anew_after_an_edit(
    world: Simulation, spec: Spec
) -> None:
    spec = copy.deepcopy(spec) | {"rollout": {"shadow": {"percent": 20, "timeoutSeconds": 3600}}}
    await tried(world, spec)
    world.pass_time(3590)
    await world.settle()

    world.apply_agent(spec | {"agent": {"instructions": "Be brief.", "replicas": PODS}})
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    world.pass_time(20)
    await world.settle()
    assert step(world) is RolloutStep.SHADOW

    spec["rollout"]["shadow"]["percent"] = 80
    world.apply_agent(spec | {"agent": {"instructions": "Be brief.", "replicas": PODS}})
    await world.settle()
    assert world.status.rollout is not None
    assert world.status.rollout.percent == 80
    assert "80 %" in world.condition("Promoted").message


async def test_a_trial_is_not_judged_by_the_one_before(world: Simulation, canary: Spec) -> None:
    """Pods are asked seldom once it is given up, and read the new shares late."""
    revision = await tried(world, canary)
    counts = ((candidate(world), ServedAs.CANARY, 20, 20), (world.stamp(), ServedAs.ACTIVE, 200, 0))
    tell(world, *counts, trial=trial_name(world))
    await world.settle()
    assert step(world) is RolloutStep.ROLLED_BACK

    world.pass_time(30)
    world.decide(revision, "Approved")
    await world.settle()

    assert step(world) is RolloutStep.CANARY
    tell(world, *counts, trial=trial_name(world))
    await world.settle()
    assert step(world) is RolloutStep.ROLLED_BACK
