"""What a revision that fails goes back to: something that has served, never what a person has given up."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.api.models import ConditionStatus, RevisionState, RolloutStatus, RolloutStep
from evolving_operator.testing.simulation import Simulation
from support.autoscaling import autoscale
from support.refusing import refused

Spec = dict[str, Any]
BASE = names.revision("support", "smollm2", "", "Base", "")
SUITE = {"name": "holdout", "configMapRef": {"name": "cases", "key": "cases.jsonl"}}
CRASH = {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}


async def apply(world: Simulation, spec: Spec) -> None:
    world.apply_agent(spec)
    await world.settle()


async def roll_out(world: Simulation) -> None:
    world.node.roll_out("support")
    await world.settle()


async def crash(world: Simulation, restarts: int = 5) -> None:
    world.node.stick("support", CRASH, restarts=restarts)
    await world.settle()


async def lose_pods_to_quota(world: Simulation) -> None:
    """No pod is ready any more, and none can be created."""
    world.node.lose_readiness("support")
    world.node.refuse_pods("support", "exceeded quota")
    await world.settle()


async def begin_rollout(world: Simulation, spec: Spec) -> str:
    """A revision has passed, and is on its way to the pods."""
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    assert rollout_of(world).step is RolloutStep.RESTART
    return revision


def rollout_of(world: Simulation) -> RolloutStatus:
    assert world.status.rollout is not None
    return world.status.rollout


def active(world: Simulation) -> str:
    assert world.status.active is not None
    return world.status.active.revision


def with_replicas(spec: Spec, replicas: int) -> Spec:
    return spec | {"agent": spec["agent"] | {"replicas": replicas}}


@pytest.mark.parametrize("baking", [False, True], ids=["restarting", "baking"])
async def test_what_a_pin_took_off_its_way_is_not_what_is_returned_to(
    world: Simulation, spec: Spec, *, baking: bool
) -> None:
    # given a revision that has not yet held its own, and a person who returns to the base model
    revision = await begin_rollout(world, spec)
    if baking:
        await roll_out(world)
    await apply(world, spec | {"rollout": {"pin": BASE}})
    assert active(world) == BASE

    # when the person lets go, and pods crash
    await apply(world, spec)
    await crash(world)
    world.pass_time(3600)
    await world.settle()

    # then it does not come back by itself
    assert world.status.previous is None
    assert active(world) == BASE
    assert world.revision_status(revision).state is RevisionState.RETIRED


async def test_below_what_a_pin_took_off_its_way_lies_what_served(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    first = await world.promote("model-1")
    second = await world.train("model-2", job="support-finetune-2")
    await world.evaluate(second, lower=2500)
    await apply(world, spec | {"rollout": {"pin": BASE}})  # while the second is on its way
    assert world.status.previous is not None
    assert world.status.previous.revision == first

    await apply(world, spec)
    await crash(world)

    assert active(world) == first


async def test_a_mistyped_base_model_is_not_returned_to(world: Simulation, spec: Spec) -> None:
    """Its author mends the spec; what keeps the pods from coming up is told, and mended by him too."""
    await apply(world, spec | {"model": {"base": "smolm2"}})
    await crash(world)
    await apply(world, spec)
    assert active(world) == BASE

    await crash(world)  # a Secret is wrong as well
    world.pass_time(3600)
    await world.settle()
    assert active(world) == BASE
    assert world.status.previous is None
    assert world.condition("Degraded").status is ConditionStatus.TRUE

    await roll_out(world)
    assert world.condition("Ready").status is ConditionStatus.TRUE
    world.pass_time(3600)
    await world.settle()
    assert rollout_of(world).step is RolloutStep.DONE
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_a_base_model_that_is_mistyped_twice_is_mended_all_the_same(
    world: Simulation, spec: Spec
) -> None:
    """The second typo is on its way with nothing to go back to: who waits for its end waits for ever."""
    for base in ("smolm2", "smollm-2"):
        world.apply_agent(spec | {"model": {"base": base}})
        await world.settle()
        await crash(world)
        world.pass_time(3600)
        await world.settle()
    assert active(world) == names.revision("support", "smollm-2", "", "Base", "")

    await apply(world, spec)
    await roll_out(world)

    assert active(world) == BASE
    assert rollout_of(world).step is RolloutStep.BAKE


async def test_a_revision_whose_pods_are_taken_away_while_it_bakes_is_validated_once_there_are_any(
    world: Simulation, spec: Spec
) -> None:
    revision = await begin_rollout(world, spec)
    await roll_out(world)
    await apply(world, with_replicas(spec, 0))
    await roll_out(world)
    assert (rollout_of(world).step, rollout_of(world).reason) == (RolloutStep.DONE, "ScaledToZero")
    world.pass_time(3600)
    await world.settle()

    await apply(world, with_replicas(spec, 2))
    await roll_out(world)

    assert rollout_of(world).step is RolloutStep.BAKE
    assert world.jobs("validate") == [names.validate_job(revision)]
    assert world.condition("Promoted").reason == "Promoted"


async def test_what_came_to_no_pod_has_not_served_anybody(world: Simulation, spec: Spec) -> None:
    revision = await begin_rollout(world, spec)
    await apply(world, with_replicas(spec, 0))
    await roll_out(world)
    assert rollout_of(world).reason == "ScaledToZero"
    assert world.revision_status(revision).promoted_at is None

    await apply(world, with_replicas(spec, 2))
    await roll_out(world)
    assert world.revision_status(revision).promoted_at is not None


async def test_a_served_base_model_whose_record_was_deleted_is_not_replaced_without_a_gate(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)

    # the record comes back, and tells no more that it has served; another edit is still rolled out
    world.cluster.remove(names.REVISION_KIND, BASE)
    world.apply_agent(with_replicas(spec, 3) | {"model": {"base": "qwen3"}})
    await world.settle()

    assert active(world) == BASE
    assert world.condition("Promoted").reason == "Held"


async def test_a_revision_that_came_to_no_pod_is_watched_once_there_are_any(
    world: Simulation, spec: Spec
) -> None:
    """Somebody scales to zero to stop the bleeding: that is no proof that the revision comes up."""
    revision = await begin_rollout(world, spec)
    await crash(world, restarts=1)
    await apply(world, with_replicas(spec, 0))
    await roll_out(world)
    assert (rollout_of(world).step, rollout_of(world).reason) == (RolloutStep.DONE, "ScaledToZero")
    assert world.condition("Progressing").status is ConditionStatus.FALSE

    await apply(world, spec)
    assert rollout_of(world).step is RolloutStep.RESTART
    await crash(world)

    assert active(world) == BASE
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK


async def test_a_revision_that_came_to_no_pod_is_validated_once_there_are_any(
    world: Simulation, spec: Spec
) -> None:
    revision = await begin_rollout(world, spec)
    await apply(world, with_replicas(spec, 0))
    await roll_out(world)

    await apply(world, spec)
    await roll_out(world)
    assert rollout_of(world).step is RolloutStep.BAKE
    await world.validate(revision, score=1000)

    assert active(world) == BASE
    assert rollout_of(world).reason == "ScoreDropped"


async def test_two_revisions_that_came_to_no_pod_lead_back_to_what_served(
    world: Simulation, spec: Spec
) -> None:
    await begin_rollout(world, spec)
    await apply(world, with_replicas(spec, 0))
    await roll_out(world)
    second = await world.train("model-2", job="support-finetune-2")
    await world.evaluate(second, lower=2500)
    await roll_out(world)
    assert active(world) == second

    await apply(world, spec)
    await crash(world)

    assert active(world) == BASE


@pytest.mark.parametrize("baking", [False, True], ids=["restarting", "baking"])
async def test_a_person_rejects_what_is_on_its_way(world: Simulation, spec: Spec, *, baking: bool) -> None:
    revision = await begin_rollout(world, spec)
    if baking:
        await roll_out(world)

    world.decide(revision, "Rejected")
    await world.settle()

    assert active(world) == BASE
    assert rollout_of(world).reason == "Rejected"
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK

    # another word of the same person brings it back
    await roll_out(world)
    world.decide(revision, "Approved")
    await world.settle()
    assert active(world) == revision


async def test_a_pin_is_stronger_than_a_rejection(world: Simulation, spec: Spec) -> None:
    revision = await begin_rollout(world, spec)
    await apply(world, spec | {"rollout": {"pin": revision}})

    world.decide(revision, "Rejected")
    await world.settle()
    await roll_out(world)

    assert active(world) == revision
    assert rollout_of(world).step is RolloutStep.DONE


@pytest.mark.parametrize("what", ["deadline", "crash"])
async def test_an_edit_that_comes_with_the_bad_news_has_its_chance(
    world: Simulation, spec: Spec, what: str
) -> None:
    """What is told of the Deployment before the edit is no news of the edit."""
    revision = await begin_rollout(world, spec)
    await crash(world, restarts=2)

    if what == "deadline":
        world.node.exceed_deadline("support")
    mended = spec | {"agent": spec["agent"] | {"image": "example/agent:mended"}}
    await apply(world, mended)
    assert active(world) == revision

    await roll_out(world)
    assert rollout_of(world).step is RolloutStep.BAKE


async def test_where_there_is_nothing_to_return_to_a_worse_score_is_told_and_ends_the_rollout(
    world: Simulation, spec: Spec
) -> None:
    # given a revision with a verdict, pinned while another one was on its way, and let go again
    spec = spec | {"evaluation": {"suites": [SUITE]}}
    await world.serve(spec)
    first = await world.promote("model-1")
    second = await world.train("model-2", job="support-finetune-2")
    await world.evaluate(second, lower=2500)
    world.decide(BASE, "Rejected")
    await apply(world, spec | {"rollout": {"pin": first}})
    await apply(world, spec)
    assert world.status.previous is None

    await roll_out(world)
    assert rollout_of(world).step is RolloutStep.BAKE
    await world.validate(first, score=100)

    assert active(world) == first
    assert rollout_of(world).step is RolloutStep.DONE
    assert rollout_of(world).reason == "ScoreDropped"


async def test_a_rollback_never_returns_to_what_a_person_has_rejected(world: Simulation, spec: Spec) -> None:
    # given two trained revisions that have served one after the other
    await world.serve(spec)
    first = await world.promote("model-1")
    second = await world.train("model-2", job="support-finetune-2")
    await world.evaluate(second, lower=2500)
    await roll_out(world)

    # when a person rejects the one that a rollback would return to
    world.decide(first, "Rejected")
    await world.settle()

    # then it returns to what served before that
    assert world.status.previous is not None
    assert world.status.previous.revision == BASE
    assert "WayBackChanged" in world.events()
    await world.validate(second, score=100)
    assert active(world) == BASE
    assert world.revision_status(first).state is RevisionState.RETIRED


async def test_where_all_that_has_served_was_rejected_there_is_no_way_back(
    world: Simulation, spec: Spec
) -> None:
    revision = await begin_rollout(world, spec)

    world.decide(BASE, "Rejected")
    await world.settle()
    assert world.status.previous is None
    await crash(world)

    assert active(world) == revision
    assert world.condition("Degraded").status is ConditionStatus.TRUE


async def test_a_clock_that_is_set_back_neither_hides_a_rollback_nor_makes_it_last(
    world: Simulation, spec: Spec
) -> None:
    revision = await begin_rollout(world, spec)
    await roll_out(world)
    assert rollout_of(world).step is RolloutStep.BAKE
    world.pass_time(-30 * 86_400)

    await world.validate(revision, score=1000)

    assert active(world) == BASE
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK
    await roll_out(world)
    second = await world.train("model-2", job="support-finetune-2")
    await world.evaluate(second, lower=2500)
    assert active(world) == second
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK


async def test_a_rollout_from_the_future_ends_in_time(world: Simulation, spec: Spec) -> None:
    revision = await begin_rollout(world, spec)
    await roll_out(world)
    world.pass_time(-365 * 86_400)

    await world.validate(revision, score=8000)
    world.pass_time(600)
    await world.settle()

    assert rollout_of(world).step is RolloutStep.DONE


async def test_an_attempt_of_the_future_is_not_waited_for(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    first = names.evaluate_job(revision, "")
    world.node.finish_job(first, None, failed=("BackoffLimitExceeded", "three pods failed"))
    world.pass_time(30)
    await world.settle()
    assert world.jobs(names.COMPONENT_EVALUATE) == []

    world.pass_time(-365 * 86_400)
    await world.settle()

    assert world.jobs(names.COMPONENT_EVALUATE) == [names.evaluate_job(revision, "1")]


async def test_what_is_dead_for_all_of_its_bake_goes_back(world: Simulation, spec: Spec) -> None:
    revision = await begin_rollout(world, spec)
    await roll_out(world)
    world.node.lose_readiness("support")
    await world.settle()

    world.pass_time(599)
    await world.settle()
    assert rollout_of(world).step is RolloutStep.BAKE
    world.pass_time(1)
    await world.settle()

    assert active(world) == BASE
    assert rollout_of(world).reason == "PodsNotReady"
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK


async def test_a_bake_does_not_end_while_nobody_serves(world: Simulation, spec: Spec) -> None:
    revision = await begin_rollout(world, spec | {"rollout": {"bakeSeconds": 60}})
    await roll_out(world)
    world.node.lose_readiness("support")
    await world.validate(revision, score=8000)
    world.pass_time(120)
    await world.settle()
    assert rollout_of(world).step is RolloutStep.BAKE

    await roll_out(world)
    assert rollout_of(world).step is RolloutStep.DONE


async def test_what_was_pinned_away_from_its_bake_has_not_held_its_own(world: Simulation, spec: Spec) -> None:
    first = await begin_rollout(world, spec)
    await roll_out(world)
    assert rollout_of(world).step is RolloutStep.BAKE
    await apply(world, spec | {"rollout": {"pin": BASE}})
    await roll_out(world)
    await apply(world, spec)
    second = await world.promote("model-2", job="support-finetune-2")

    world.decide(BASE, "Rejected")
    await world.settle()

    assert active(world) == second
    assert world.revision_status(first).proven_at is None
    assert world.status.previous is None


async def test_a_pin_that_was_a_slip_costs_no_way_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    first = await world.promote("model-1")
    second = await world.promote("model-2", job="support-finetune-2")
    assert world.status.previous is not None
    assert world.status.previous.revision == first

    for pin in (BASE, second):
        await apply(world, spec | {"rollout": {"pin": pin}})
    await roll_out(world)
    await apply(world, spec)

    assert active(world) == second
    assert world.status.previous.revision == first


async def test_who_rejects_what_is_served_takes_it_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.promote()
    assert rollout_of(world).step is RolloutStep.DONE

    world.decide(revision, "Rejected")
    await world.settle()

    assert active(world) == BASE
    assert rollout_of(world).reason == "Rejected"


async def test_where_a_rejection_leads_nowhere_it_is_said(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)

    world.decide(BASE, "Rejected")
    await world.settle()

    assert active(world) == BASE
    conditions = {item.type: item for item in world.revision_status(BASE).conditions}
    assert "spec.rollout.pin" in conditions["Approved"].message


async def test_a_pin_that_holds_what_is_rejected_is_told_of(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.promote()
    await apply(world, spec | {"rollout": {"pin": revision}})

    world.decide(revision, "Rejected")
    await world.settle()

    conditions = {item.type: item for item in world.revision_status(revision).conditions}
    assert "spec.rollout.pin holds it" in conditions["Approved"].message


async def test_a_rejection_that_is_taken_back_gives_the_way_back_again(world: Simulation, spec: Spec) -> None:
    await begin_rollout(world, spec)

    for decision in ("Rejected", "Auto"):
        world.decide(BASE, decision)
        await world.settle()
    await crash(world)

    assert active(world) == BASE


@pytest.mark.parametrize("baking", [False, True], ids=["restarting", "baking"])
async def test_what_leads_nowhere_holds_nobody_up(world: Simulation, spec: Spec, *, baking: bool) -> None:
    """Its way back was rejected, and its pods are dead."""
    await begin_rollout(world, spec)
    if baking:
        await roll_out(world)
    world.decide(BASE, "Rejected")
    await world.settle()
    world.node.lose_readiness("support")
    second = await world.train("model-2", job="support-finetune-2")
    world.pass_time(700)
    await world.settle()

    world.decide(second, "Approved")
    await world.settle()

    assert active(world) == second


async def test_what_was_given_up_lately_is_no_way_back(world: Simulation, spec: Spec) -> None:
    """It had held its own once: it was served, pinned away, and failed when it was tried once more."""
    canary = {"canary": {"steps": [{"percent": 10, "pauseSeconds": 300}]}}
    await world.serve(spec)
    first = await world.promote("model-1")
    second = await world.promote("model-2", job="support-finetune-2")
    world.decide(first, "Approved")
    await apply(world, spec | {"rollout": canary})
    assert rollout_of(world).step is RolloutStep.CANARY
    await crash(world)
    assert world.status.previous is not None
    assert world.status.previous.revision == BASE
    assert active(world) == second


async def test_a_bake_is_not_judged_by_what_was_told_before_the_operator_was_away(
    world: Simulation, spec: Spec
) -> None:
    revision = await begin_rollout(world, spec)
    await roll_out(world)
    world.node.lose_readiness("support")
    await world.settle()
    world.pass_time(3600)
    world.node.lose_readiness("support", since=world.now)
    world.restart()
    await world.settle()

    assert rollout_of(world).step is RolloutStep.BAKE
    assert active(world) == revision


async def test_scaling_does_not_give_a_stuck_restart_more_time(world: Simulation, spec: Spec) -> None:
    revision = await begin_rollout(world, spec)
    world.node.stick("support")
    await world.settle()
    for replicas in (3, 2):
        world.pass_time(300)
        await apply(world, with_replicas(spec, replicas))

    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK
    assert active(world) == BASE


async def test_what_held_its_own_last_is_returned_to(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    first = await world.promote("model-1")
    second = await world.promote("model-2", job="support-finetune-2")
    world.pass_time(3600)
    await apply(world, spec | {"rollout": {"pin": first}})
    await roll_out(world)
    assert rollout_of(world).step is RolloutStep.DONE

    proven = [world.revision_status(name).proven_at for name in (first, second)]
    assert proven == sorted(proven, key=str, reverse=True)


async def test_an_operator_that_did_not_note_it_leaves_a_way_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    await world.promote()
    for raw in world.cluster.all(names.REVISION_KIND):
        raw["status"].pop("provenAt", None)
        world.cluster.put(raw)
    world.restart()
    await world.settle()

    assert all(world.revision_status(name).proven_at for name in world.revisions())


async def test_a_validation_of_an_earlier_promotion_counts_for_nothing(world: Simulation, spec: Spec) -> None:
    revision = await begin_rollout(world, spec)
    name = names.validate_job(revision)
    world.node.start_job("support", names.COMPONENT_VALIDATE, name)
    raw = world.cluster.get("Job", name)
    assert raw is not None
    raw["metadata"]["annotations"] = {names.ANNOTATION_PROMOTION: "2025-01-01T00:00:00Z"}
    world.cluster.put(raw)
    await roll_out(world)

    anew = world.cluster.get("Job", name)
    assert anew is not None
    assert anew["metadata"]["uid"] != raw["metadata"]["uid"]


async def test_an_edit_of_the_pods_in_a_bake_is_validated_anew(world: Simulation, spec: Spec) -> None:
    """What asked while they restarted measured something else."""
    revision = await begin_rollout(world, spec)
    await roll_out(world)
    await apply(world, spec | {"agent": spec["agent"] | {"image": "example/agent:2"}})
    await world.validate(revision, score=100)
    await roll_out(world)

    assert active(world) == revision
    assert not world.is_finished(names.validate_job(revision))


async def test_one_blip_pushes_no_bake_aside(world: Simulation, spec: Spec) -> None:
    """Its way back was rejected, and another revision waits."""
    first = await begin_rollout(world, spec | {"rollout": {"bakeSeconds": 3600}})
    await roll_out(world)
    world.decide(BASE, "Rejected")
    second = await world.train("model-2", job="support-finetune-2")
    world.decide(second, "Approved")
    await world.settle()
    world.node.lose_readiness("support")
    await world.settle()
    assert active(world) == first

    world.pass_time(601)
    await world.settle()
    assert active(world) == second


async def test_what_a_quota_holds_is_not_pushed_aside(world: Simulation, spec: Spec) -> None:
    first = await begin_rollout(world, spec)
    world.decide(BASE, "Rejected")
    world.node.stick("support")
    world.node.refuse_pods("support", "exceeded quota")
    await world.settle()
    second = await world.train("model-2", job="support-finetune-2")
    world.decide(second, "Approved")
    world.pass_time(3600)
    await world.settle()

    assert active(world) == first


async def test_no_model_is_blamed_for_a_quota_that_is_lifted_in_its_bake(
    world: Simulation, spec: Spec
) -> None:
    revision = await begin_rollout(world, spec)
    await roll_out(world)
    await lose_pods_to_quota(world)
    world.pass_time(3600)
    await world.settle()

    world.node.refuse_pods("support", None)
    await world.settle()
    world.pass_time(599)
    await world.settle()
    assert active(world) == revision

    await roll_out(world)
    assert rollout_of(world).step is RolloutStep.BAKE


async def test_no_model_is_blamed_for_a_deployment_that_is_refused_in_its_bake(
    world: Simulation, spec: Spec
) -> None:
    revision = await begin_rollout(world, spec)
    await roll_out(world)
    world.cluster.remove("Deployment", "support")
    with refused(world, "Deployment"):
        for _ in range(15):
            world.pass_time(60)
            await world.settle()
        assert active(world) == revision
        assert world.condition("Degraded").reason == "Forbidden"


async def test_a_moment_in_which_nobody_serves_does_not_hold_a_bake_for_ever(
    world: Simulation, spec: Spec
) -> None:
    """The quota stands on: what it refuses are pods that an autoscaler wants beside those that serve."""
    revision = await begin_rollout(world, spec)
    await roll_out(world)
    await world.validate(revision, score=8000)
    world.node.refuse_pods("support", "exceeded quota")
    world.node.lose_readiness("support")
    await world.settle()
    assert rollout_of(world).reason == "PodsRefused"
    assert "watched on once there are pods" in world.condition("Progressing").message

    world.node.roll_out("support")
    world.node.refuse_pods("support", "exceeded quota")
    for _ in range(2):
        world.pass_time(3600)
        await world.settle()

    assert rollout_of(world).step is RolloutStep.DONE
    assert world.is_finished(names.validate_job(revision))


async def test_one_pod_of_two_is_enough_after_a_quota_was_lifted(world: Simulation, spec: Spec) -> None:
    revision = await begin_rollout(world, spec)
    await roll_out(world)
    await world.validate(revision, score=8000)
    await lose_pods_to_quota(world)
    world.node.refuse_pods("support", None)
    await roll_out(world)
    deployment = world.node.deployment("support")
    deployment["status"] |= {"readyReplicas": 1, "availableReplicas": 1}
    world.cluster.put(deployment)
    await world.settle()

    for _ in range(2):
        world.pass_time(3600)
        await world.settle()

    assert active(world) == revision
    assert rollout_of(world).step is RolloutStep.DONE


async def test_no_model_is_blamed_for_an_edit_that_comes_while_none_can_be_created(
    world: Simulation, spec: Spec
) -> None:
    revision = await begin_rollout(world, spec)
    await roll_out(world)
    await lose_pods_to_quota(world)

    slip = {"podTemplate": {"spec": {"nodeSelector": {"disk": "sdd"}}}}
    await apply(world, spec | {"agent": spec["agent"] | slip})
    world.node.refuse_pods("support", None)
    world.node.stick("support")
    await world.settle()
    world.pass_time(3600)
    await world.settle()

    assert active(world) == revision


async def test_a_bakes_time_stands_still_while_an_autoscaler_wants_no_pod(
    world: Simulation, spec: Spec
) -> None:
    revision = await begin_rollout(world, spec | {"rollout": {"bakeSeconds": 3600}})
    await roll_out(world)
    await world.validate(revision, score=8000)
    world.pass_time(1800)
    await world.settle()
    autoscale(world, 0)
    await world.settle()
    world.pass_time(86_400)
    await world.settle()
    autoscale(world, 2)
    await world.settle()

    world.pass_time(1739)  # the validation took the first minute
    await world.settle()
    assert rollout_of(world).step is RolloutStep.BAKE
    world.pass_time(1)
    await world.settle()
    assert rollout_of(world).step is RolloutStep.DONE


async def test_a_bake_ends_though_its_only_pod_blinks_under_a_quota(world: Simulation, spec: Spec) -> None:
    revision = await begin_rollout(world, spec | {"rollout": {"bakeSeconds": 600}})
    await roll_out(world)
    await world.validate(revision, score=8000)
    for _ in range(3):
        world.node.refuse_pods("support", "exceeded quota")
        world.node.lose_readiness("support")
        await world.settle()
        world.pass_time(5)
        world.node.roll_out("support")
        world.node.refuse_pods("support", "exceeded quota")
        await world.settle()
        world.pass_time(300)
        await world.settle()

    assert rollout_of(world).step is RolloutStep.DONE


async def test_what_was_held_in_its_bake_and_edited_holds_no_cure_up(world: Simulation, spec: Spec) -> None:
    """The base model never served: there is no way back."""
    await apply(world, spec)
    first = await world.train()
    world.decide(first, "Approved")
    await world.settle()
    await roll_out(world)
    assert rollout_of(world).step is RolloutStep.BAKE
    await lose_pods_to_quota(world)
    assert rollout_of(world).reason == "PodsRefused"

    slip = {"podTemplate": {"spec": {"nodeSelector": {"disk": "sdd"}}}}
    await apply(world, spec | {"agent": spec["agent"] | slip})
    world.node.refuse_pods("support", None)
    world.node.stick("support")
    second = await world.train("model-2", job="support-finetune-2")
    world.decide(second, "Approved")
    await world.settle()
    world.pass_time(3600)
    await world.settle()

    assert active(world) == second


async def test_a_pin_ends_no_bake_that_nobody_serves(world: Simulation, spec: Spec) -> None:
    revision = await begin_rollout(world, spec)
    await roll_out(world)
    world.node.lose_readiness("support")
    await world.settle()

    for rollout in ({"pin": revision}, {}):
        await apply(world, spec | {"rollout": rollout})
    await roll_out(world)

    assert rollout_of(world).step is RolloutStep.BAKE
    assert world.revision_status(revision).proven_at is None


async def test_what_a_pin_brought_to_no_pod_is_not_proven(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    await apply(world, with_replicas(spec, 0) | {"rollout": {"pin": revision}})
    await roll_out(world)

    assert active(world) == revision
    assert world.revision_status(revision).promoted_at is None
    assert world.revision_status(revision).proven_at is None


async def test_what_was_taken_back_and_came_up_by_a_pin_has_served(world: Simulation, spec: Spec) -> None:
    """So nothing takes its place without a gate when its pods are lost for a moment; nor is it proven."""
    revision = await begin_rollout(world, spec)
    world.node.stick("support")
    world.pass_time(601)
    await world.settle()
    await roll_out(world)
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK
    await apply(world, spec | {"rollout": {"pin": revision}})
    await roll_out(world)
    world.pass_time(3600)
    await apply(world, spec)

    world.node.lose_readiness("support")
    await apply(world, spec | {"model": {**spec["model"], "base": "qwen3"}})

    assert active(world) == revision
    assert world.revision_status(revision).proven_at is None
    await roll_out(world)
    await apply(world, spec | {"rollout": {"canary": {"steps": [{"percent": 10, "pauseSeconds": 60}]}}})
    second = await world.train("model-2", job="support-finetune-2")
    await world.evaluate(second, lower=2500)
    assert rollout_of(world).step is RolloutStep.CANARY
    assert world.revision_status(revision).proven_at is None


async def test_who_is_scaled_to_none_in_a_bake_holds_nobody_up(world: Simulation, spec: Spec) -> None:
    await begin_rollout(world, spec)
    await roll_out(world)
    autoscale(world, 0)
    await world.settle()
    assert "watched on once there are pods" in world.condition("Progressing").message

    second = await world.train("model-2", job="support-finetune-2")
    world.decide(second, "Approved")
    await world.settle()

    assert active(world) == second


async def test_no_model_is_blamed_where_no_pod_is_wanted(world: Simulation, spec: Spec) -> None:
    """The Deployment's controller is away, and nobody tells whether the last pods are gone."""
    await world.serve(spec)
    autoscale(world, 0)
    await world.settle()
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    assert rollout_of(world).step is RolloutStep.RESTART

    world.pass_time(3600)
    await world.settle()
    assert active(world) == revision
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_who_rejects_what_a_rollback_has_returned_to_goes_further_back(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    first = await world.promote("model-1")
    second = await world.promote("model-2", job="support-finetune-2")
    world.decide(second, "Rejected")
    await world.settle()
    assert active(world) == first

    world.decide(first, "Rejected")
    await world.settle()

    assert active(world) == BASE
    assert world.revision_status(first).state is RevisionState.ROLLED_BACK
    approved = {item.type: item for item in world.revision_status(first).conditions}["Approved"]
    assert approved.message == "spec.decision is Rejected."


async def test_a_pin_proves_nothing_of_what_was_taken_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    first = await world.promote("model-1")
    second = await world.train("model-2", job="support-finetune-2")
    await world.evaluate(second, lower=2500)
    await roll_out(world)
    await world.validate(second, score=100)
    await roll_out(world)
    assert world.revision_status(second).state is RevisionState.ROLLED_BACK

    for pin in (second, first):
        world.pass_time(600)
        await apply(world, spec | {"rollout": {"pin": pin}})
        await roll_out(world)
    await apply(world, spec)

    assert world.status.previous is not None
    assert world.status.previous.revision == BASE


async def test_pods_that_are_replaced_are_dead_as_long_as_nobody_serves(
    world: Simulation, spec: Spec
) -> None:
    await begin_rollout(world, spec)
    await roll_out(world)
    for _ in range(3):
        world.node.roll_out("support")  # new pods, of now
        world.node.lose_readiness("support", since=world.now)
        await world.settle()
        world.pass_time(300)
    await world.settle()

    assert active(world) == BASE
