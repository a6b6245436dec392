"""A canary: the candidate answers a growing share of conversations, and goes back without a restart."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.api.models import ConditionStatus, RevisionState
from evolving_operator.core.clock import rfc3339
from evolving_operator.testing.simulation import Simulation
from support.autoscaling import autoscale
from support.refusing import refused

Spec = dict[str, Any]
CRASHING = {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}
CANARY = {"steps": [{"percent": 10, "pauseSeconds": 300}, {"percent": 50, "pauseSeconds": 600}]}


@pytest.fixture
def spec(spec: Spec) -> Spec:
    return copy.deepcopy(spec) | {"rollout": {"canary": copy.deepcopy(CANARY)}}


def traffic(world: Simulation) -> dict[str, Any]:
    raw = world.cluster.get("ConfigMap", "support-config")
    assert raw is not None
    file = json.loads(raw["data"]["agent_config.json"])
    shares: dict[str, Any] = file["traffic"]
    assert shares.pop("trial", None) is not None or not shares
    for share in shares.values():
        assert share["config"] in file["configs"]
    return shares


def place(world: Simulation) -> tuple[str, int | None]:
    rollout = world.status.rollout
    return ("", None) if rollout is None else (str(rollout.step), rollout.percent)


async def begin(world: Simulation, spec: Spec) -> str:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    assert place(world) == ("Canary", 10)
    return revision


async def expect_the_whole_first_step(world: Simulation) -> None:
    world.pass_time(299)
    await world.settle()
    assert place(world) == ("Canary", 10)
    world.pass_time(1)
    await world.settle()
    assert place(world) == ("Canary", 50)


async def test_its_share_grows_step_by_step_and_then_all_pods_are_replaced(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    stamp = world.stamp()
    revision = await world.train()
    await world.evaluate(revision, lower=2500)

    assert place(world) == ("Canary", 10)
    assert traffic(world)["canary"]["percent"] == 10
    assert world.stamp() == stamp  # the pods read the shares again: none is replaced
    assert world.condition("Promoted").reason == "CanaryRunning"
    assert world.condition("Progressing").reason == "CanaryRunning"

    await expect_the_whole_first_step(world)
    assert traffic(world)["canary"]["percent"] == 50

    world.pass_time(600)
    await world.settle()
    assert place(world) == ("Restart", None)
    assert traffic(world) == {}
    assert world.stamp() != stamp
    assert world.status.active is not None
    assert world.status.active.revision == revision
    assert world.events().count("CanaryStep") == 2


async def test_it_follows_a_shadow(world: Simulation, spec: Spec) -> None:
    spec["rollout"]["shadow"] = {"percent": 20, "timeoutSeconds": 100}
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    assert place(world) == ("Shadow", 20)
    assert set(traffic(world)) == {"shadow"}

    world.pass_time(100)
    await world.settle()

    assert place(world) == ("Canary", 10)
    assert set(traffic(world)) == {"canary"}


async def test_a_person_ends_it_at_once(world: Simulation, spec: Spec) -> None:
    revision = await begin(world, spec)
    stamp = world.stamp()

    world.decide(revision, "Rejected")
    await world.settle()

    assert traffic(world) == {}
    assert world.stamp() == stamp
    assert world.status.candidate is None
    assert world.revision_status(revision).state is RevisionState.REJECTED


async def test_pods_that_crash_in_it_take_its_candidate_back(world: Simulation, spec: Spec) -> None:
    revision = await begin(world, spec)
    stamp = world.stamp()

    world.node.stick("support", CRASHING, restarts=3)
    await world.settle()

    assert traffic(world) == {}
    assert world.stamp() == stamp
    assert place(world) == ("RolledBack", None)
    assert world.status.candidate is None
    assert world.status.active is not None
    assert world.status.active.model_id == "smollm2"
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK
    assert world.condition("Promoted").reason == "RolledBack"
    assert world.events().count("CanaryAborted") == 1


async def test_pods_that_crashed_before_are_not_its_candidates_fault(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.stick("support", CRASHING, restarts=40)
    await world.settle()
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    assert place(world) == ("", None)
    assert world.condition("Promoted").reason == "AwaitsPods"

    world.node.roll_out("support")
    await world.settle()
    assert place(world) == ("Canary", 10)


async def test_pods_that_crash_by_the_users_own_edit_are_not_its_candidates_fault(
    world: Simulation, spec: Spec
) -> None:
    revision = await begin(world, spec)
    world.apply_agent(spec | {"agent": {**spec["agent"], "image": "example/agent:broken"}})
    await world.settle()
    world.node.stick("support", CRASHING, restarts=3)
    await world.settle()
    world.pass_time(3600)
    await world.settle()
    assert world.revision_status(revision).state is RevisionState.CANDIDATE

    world.apply_agent(spec)
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    assert place(world) == ("Canary", 10)


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": {"instructions": "Be brief.", "replicas": 2}},
        {"agent": {"instructions": "You route requests.", "replicas": 2, "image": "example/agent:9"}},
    ],
)
async def test_what_the_user_changes_meanwhile_is_tried_from_the_beginning(
    world: Simulation, spec: Spec, changes: Spec
) -> None:
    await begin(world, spec)
    world.pass_time(300)
    await world.settle()
    assert place(world) == ("Canary", 50)

    world.apply_agent(spec | changes)
    await world.settle()
    assert place(world) == ("", None)
    assert world.condition("Promoted").reason == "AwaitsPods"
    world.node.roll_out("support")
    await world.settle()

    assert place(world) == ("Canary", 10)
    assert traffic(world)["canary"]["percent"] == 10


@pytest.mark.parametrize("rollout", [{"pin": names.revision("support", "smollm2", "", "Base", "")}, None])
async def test_it_ends_while_nothing_may_be_promoted_and_begins_anew(
    world: Simulation, spec: Spec, rollout: Spec | None
) -> None:
    await begin(world, spec)
    world.pass_time(300)
    await world.settle()

    held = {"suspend": True} if rollout is None else {"rollout": {**spec["rollout"], **rollout}}
    world.apply_agent(spec | held)
    await world.settle()
    assert traffic(world) == {}
    assert place(world) == ("", None)

    world.apply_agent(spec)
    await world.settle()
    assert place(world) == ("Canary", 10)


async def test_a_new_process_goes_on_with_it(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    world.pass_time(200)
    world.restart()
    await world.settle()
    assert place(world) == ("Canary", 10)

    world.pass_time(100)
    await world.settle()

    assert place(world) == ("Canary", 50)


async def test_a_newer_candidate_begins_its_own(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    second = await world.train("model-2", job="support-finetune-2")
    assert traffic(world) == {}

    await world.evaluate(second, lower=2500)

    assert place(world) == ("Canary", 10)
    assert world.status.rollout is not None
    assert world.status.rollout.revision == second


async def test_it_goes_no_further_on_pods_that_are_lost(world: Simulation, spec: Spec) -> None:
    """They would be taken for its candidate's fault at the restart that follows."""
    revision = await begin(world, spec)
    world.node.stick("support", {"state": {"waiting": {"reason": "ContainerCreating"}}})
    await world.settle()
    for _ in range(3):
        world.pass_time(3600)
        await world.settle()
    assert place(world) == ("Canary", 10)
    assert world.revision_status(revision).state is RevisionState.CANDIDATE

    world.node.roll_out("support")
    await world.settle()
    assert place(world) == ("Canary", 50)


async def test_its_time_counts_from_when_pods_can_know_of_it(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    with refused(world, "ConfigMap"):
        await world.evaluate(revision, lower=2500)
        for _ in range(20):
            world.pass_time(60)
            await world.settle()
        assert place(world) == ("Canary", 10)
        assert traffic(world) == {}
        assert "is to answer 10 % of the conversations" in world.condition("Promoted").message

    world.pass_time(60)
    await world.settle()
    assert traffic(world)["canary"]["percent"] == 10
    assert "answers 10 % of the conversations" in world.condition("Promoted").message
    await expect_the_whole_first_step(world)


async def test_its_time_does_not_run_while_nobody_serves(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    world.node.lose_readiness("support")
    await world.settle()
    world.pass_time(3600)
    await world.settle()
    assert place(world) == ("Canary", 10)

    world.node.roll_out("support")
    await world.settle()
    await expect_the_whole_first_step(world)


async def test_its_time_stands_still_while_an_autoscaler_wants_no_pod(world: Simulation, spec: Spec) -> None:
    """As one that scales to none whenever nobody asks: the step goes on where it was."""
    await begin(world, spec)
    for _ in range(2):
        world.pass_time(140)
        await world.settle()
        autoscale(world, 0)
        await world.settle()
        world.pass_time(3600)
        await world.settle()
        assert place(world) == ("Canary", 10)
        autoscale(world, 2)
        await world.settle()

    world.pass_time(19)
    await world.settle()
    assert place(world) == ("Canary", 10)
    world.pass_time(1)
    await world.settle()
    assert place(world) == ("Canary", 50)
    assert "CanaryEnded" not in world.events()


async def test_its_time_stood_still_though_an_older_operator_did_not_note_it(
    world: Simulation, spec: Spec
) -> None:
    await begin(world, spec)
    world.pass_time(60)
    world.node.lose_readiness("support")
    await world.settle()
    raw = world.cluster.get(names.AGENT_KIND, "support")
    assert raw is not None
    del raw["status"]["rollout"]["pausedAt"]
    world.cluster.put(raw)
    world.pass_time(3600)
    world.restart()
    await world.settle()
    assert "its time stands still" in world.condition("Promoted").message

    world.node.roll_out("support")
    await world.settle()
    world.pass_time(239)
    await world.settle()
    assert place(world) == ("Canary", 10)


async def test_it_stands_still_though_the_clock_is_set_back(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    world.node.lose_readiness("support")
    await world.settle()
    world.pass_time(-3600)
    await world.settle()
    world.pass_time(2400)
    await world.settle()

    world.node.roll_out("support")
    await world.settle()
    await expect_the_whole_first_step(world)


async def test_a_clock_that_was_ahead_in_a_pause_does_not_make_it_last(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    world.node.lose_readiness("support")
    await world.settle()
    world.pass_time(30 * 86_400)
    world.node.roll_out("support")
    await world.settle()

    world.pass_time(-30 * 86_400)
    await world.settle()
    await expect_the_whole_first_step(world)


async def test_it_has_not_been_served_though_the_clock_was_ahead_when_pods_were_lost(
    world: Simulation, spec: Spec
) -> None:
    await begin(world, spec)
    world.pass_time(86_400)
    world.node.lose_readiness("support")
    await world.settle()
    world.pass_time(-86_400)
    await world.settle()
    world.pass_time(3600)
    await world.settle()

    world.node.roll_out("support")
    await world.settle()
    await expect_the_whole_first_step(world)


async def test_it_stands_still_though_the_operator_was_away(world: Simulation, spec: Spec) -> None:
    """Pods tell since when they have not been ready."""
    await begin(world, spec)
    world.pass_time(60)
    await world.settle()
    world.watch_is_frozen = True
    world.pass_time(60)
    world.node.lose_readiness("support", since=world.now)
    world.pass_time(3600)
    world.watch_is_frozen = False
    world.restart()
    await world.settle()

    world.node.roll_out("support")
    await world.settle()
    world.pass_time(179)
    await world.settle()
    assert place(world) == ("Canary", 10)
    world.pass_time(1)
    await world.settle()
    assert place(world) == ("Canary", 50)


async def test_a_candidate_whose_pods_start_for_longer_than_they_serve_is_given_up(
    world: Simulation, spec: Spec
) -> None:
    """Each run that ends began while the one before was down: it is a run of the trial all the same."""
    spec["agent"]["replicas"] = 1
    await begin(world, spec)
    began = rfc3339(world.now)
    for restarts in range(1, 5):
        world.node.lose_readiness("support")
        (pod,) = world.node.pods("support", "agent")
        ended = {"terminated": {"exitCode": 1, "startedAt": began, "finishedAt": rfc3339(world.now)}}
        pod["status"]["containerStatuses"] = [
            {"name": "agent", "restartCount": restarts, **CRASHING, "lastState": ended}
        ]
        world.cluster.put(pod)
        await world.settle()
        if place(world) == ("RolledBack", None):
            break
        world.pass_time(10)
        began = rfc3339(world.now)
        world.pass_time(120)
        world.node.roll_out("support")
        await world.settle()
        world.pass_time(1)
        await world.settle()

    assert place(world) == ("RolledBack", None)


async def test_a_candidate_that_takes_all_pods_down_again_and_again_is_given_up(
    world: Simulation, spec: Spec
) -> None:
    """With one pod, each crash leaves nobody who serves."""
    spec["agent"]["replicas"] = 1
    revision = await begin(world, spec)
    for restarts in range(1, 5):
        world.node.roll_out("support")
        await world.settle()
        world.pass_time(10)
        world.node.lose_readiness("support")
        (pod,) = world.node.pods("support", "agent")
        pod["status"]["containerStatuses"] = [{"name": "agent", "restartCount": restarts, **crashed(world)}]
        world.cluster.put(pod)
        await world.settle()

    assert place(world) == ("RolledBack", None)
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK


async def test_an_edit_of_what_is_learned_does_not_begin_it_anew(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    world.pass_time(299)
    world.apply_agent(spec | {"curation": {"schedule": "0 5 * * *", "minScore": 5}})
    await world.settle()
    world.pass_time(1)
    await world.settle()

    assert place(world) == ("Canary", 50)


async def test_who_scales_to_none_tries_nobody_until_there_are_pods(world: Simulation, spec: Spec) -> None:
    revision = await begin(world, spec)

    world.apply_agent(spec | {"agent": spec["agent"] | {"replicas": 0}})
    await world.settle()
    world.node.roll_out("support")
    for _ in range(3):
        world.pass_time(3600)
        await world.settle()
    assert traffic(world) == {}
    assert world.status.candidate is not None
    assert world.condition("Promoted").reason == "AwaitsPods"

    world.apply_agent(spec)
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    assert place(world) == ("Canary", 10)
    assert world.status.candidate.revision == revision


async def test_crashes_of_before_are_not_its_candidates(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    before = crashed(world)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)

    world.node.stick("support", before, restarts=6)
    await world.settle()
    assert place(world) == ("Canary", 10)

    world.node.stick("support", crashed(world), restarts=7)
    await world.settle()
    assert place(world) == ("RolledBack", None)


async def test_a_shadow_that_takes_the_pods_down_ends(world: Simulation, spec: Spec) -> None:
    spec["rollout"] = {"shadow": {"percent": 20, "timeoutSeconds": 100}}
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    assert place(world) == ("Shadow", 20)

    world.node.stick("support", CRASHING, restarts=3)
    await world.settle()

    assert place(world) == ("RolledBack", None)
    assert traffic(world) == {}


def crashed(world: Simulation) -> Spec:
    """A container in a crash loop, whose last run began now."""
    began = rfc3339(world.now)
    return {**CRASHING, "lastState": {"terminated": {"exitCode": 1, "startedAt": began, "finishedAt": began}}}


async def test_where_no_pod_is_to_serve_nothing_is_on_its_way(world: Simulation, spec: Spec) -> None:
    spec |= {"rollout": {"canary": {"steps": [{"percent": 10}]}}}
    await world.serve(spec)
    world.apply_agent(spec | {"agent": spec["agent"] | {"replicas": 0}})
    await world.settle()
    world.node.roll_out("support")
    await world.evaluate(await world.train(), lower=2000)

    told = [world.condition(kind) for kind in ("Progressing", "Promoted")]
    assert [(item.status, item.reason) for item in told] == [(ConditionStatus.FALSE, "AwaitsPods")] * 2
