"""A verdict is about what is served, by the suites of the spec: what is asked for later is what counts."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.api.models import RevisionState, RolloutStep, VerdictResult
from evolving_operator.testing.simulation import Simulation, evaluation_report, training_report

Spec = dict[str, Any]
BASE = names.revision("support", "smollm2", "", "Base", "")
SUITE = {"name": "holdout", "configMapRef": {"name": "cases", "key": "cases.jsonl"}}
MANUAL = {"approval": "Manual"}


def suites(**changes: Any) -> Spec:
    """Of an evaluation with one suite."""
    return {"evaluation": {"suites": [SUITE | changes]}}


async def apply(world: Simulation, spec: Spec) -> None:
    world.apply_agent(spec)
    await world.settle()


def evaluations(world: Simulation) -> list[str]:
    return world.jobs(names.COMPONENT_EVALUATE)


def active(world: Simulation) -> str:
    assert world.status.active is not None
    return world.status.active.revision


async def test_where_nothing_could_be_measured_a_suite_that_is_added_is_asked(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    other = spec | {"model": {"base": "qwen3"}}
    await apply(world, other)
    assert world.condition("Promoted").reason == "Held"
    assert evaluations(world) == []

    await apply(world, other | suites())

    candidate = names.revision("support", "qwen3", "", "Base", "")
    assert evaluations(world) == [names.evaluate_job(candidate, "1")]
    await world.evaluate(candidate, lower=2000)
    world.node.roll_out("support")
    await world.settle()
    assert active(world) == candidate


@pytest.mark.parametrize(
    "changed",
    [
        {"confidencePercent": 99},  # the Job reckons the bound with what it read at its start
        {"configMapRef": {"name": "cases", "key": "harder.jsonl"}},
        {"name": "other"},
    ],
    ids=["confidence", "cases", "name"],
)
@pytest.mark.parametrize("ends", ["later", "at once"])
async def test_an_evaluation_by_other_suites_does_not_count(
    world: Simulation, spec: Spec, changed: Spec, ends: str
) -> None:
    await world.serve(spec | suites())
    revision = await world.train()
    [job] = evaluations(world)

    if ends == "at once":  # the operator sees the edit and the end of the Job in one look
        world.node.finish_job(job, evaluation_report(revision, lower=2000))
    await apply(world, spec | suites(**changed))

    assert world.revision_status(revision).result is None
    assert active(world) == BASE
    assert evaluations(world) == [names.evaluate_job(revision, "1")]
    assert [world.is_finished(name) for name in evaluations(world)] == [False]


async def test_thresholds_are_no_reason_to_measure_again(world: Simulation, spec: Spec) -> None:
    """A candidate that is held for too few samples passes as soon as so few are enough."""
    await world.serve(spec | suites())
    revision = await world.train()
    await world.evaluate(revision, lower=2000, samples=20)
    assert world.revision_status(revision).verdicts[0].reason == "TooFewSamples"
    jobs = evaluations(world)

    await apply(world, spec | suites(minSamples=20))

    assert world.revision_status(revision).result is VerdictResult.PASSED
    assert active(world) == revision
    assert evaluations(world) == jobs


async def test_what_passed_fails_by_stricter_thresholds(world: Simulation, spec: Spec) -> None:
    await world.serve(spec | suites() | {"rollout": MANUAL})
    revision = await world.train()
    await world.evaluate(revision, lower=2000, delta=2500)
    assert world.condition("Promoted").reason == "AwaitsApproval"

    await apply(world, spec | suites(minDeltaBps=3000) | {"rollout": MANUAL})
    await apply(world, spec | suites(minDeltaBps=3000))

    assert world.revision_status(revision).state is RevisionState.REJECTED
    assert world.revision_status(revision).verdicts[0].reason == "NotBetter"
    assert active(world) == BASE


async def test_a_candidate_on_trial_is_to_pass_the_suite_that_was_added(
    world: Simulation, spec: Spec
) -> None:
    canary = {"rollout": {"canary": {"steps": [{"percent": 10, "pauseSeconds": 600}]}}}
    await world.serve(spec | suites() | canary)
    revision = await world.train()
    await world.evaluate(revision, lower=2000)
    assert world.status.rollout is not None
    assert world.status.rollout.step is RolloutStep.CANARY

    second = {"name": "safety", "configMapRef": {"name": "cases", "key": "safety.jsonl"}}
    await apply(world, spec | canary | {"evaluation": {"suites": [SUITE, second]}})
    world.pass_time(3600)
    await world.settle()

    assert world.status.rollout is None
    assert active(world) == BASE
    assert world.condition("Promoted").reason == "AwaitsVerdict"
    assert evaluations(world) == [names.evaluate_job(revision, "1")]


async def test_who_beat_one_revision_has_not_beaten_another(world: Simulation, spec: Spec) -> None:
    # given a candidate that is better than the base model, to which a person had returned
    await world.serve(spec)
    first = await world.promote("model-1")
    await apply(world, spec | {"rollout": {"pin": BASE}})
    world.node.roll_out("support")
    await world.settle()
    second = await world.train("model-2", job="support-finetune-2")
    await world.evaluate(second, lower=2000)
    assert world.revision_status(second).incumbent == BASE

    # when the person thinks again, and lets go
    await apply(world, spec | {"rollout": {"pin": first}})
    world.node.roll_out("support")
    await world.settle()
    await apply(world, spec)

    # then the candidate is compared with what is served now
    assert active(world) == first
    assert evaluations(world) == [names.evaluate_job(second, "1")]
    await world.evaluate(second, lower=-900, delta=-100)
    assert active(world) == first
    assert world.revision_status(second).state is RevisionState.REJECTED


@pytest.mark.parametrize("step", [RolloutStep.RESTART, RolloutStep.BAKE], ids=str)
async def test_another_candidate_does_not_cancel_the_validation_of_what_was_promoted(
    world: Simulation, spec: Spec, step: RolloutStep
) -> None:
    """By the held-out part of its own dataset, though another dataset is the candidate's."""
    await world.serve(spec)
    await world.curate("d1")
    first = await world.train()
    await world.evaluate(first, lower=2500)
    if step is RolloutStep.BAKE:
        world.node.roll_out("support")
        await world.settle()
    await world.train("model-2", job="support-finetune-2")
    world.node.roll_out("support")
    await world.settle()
    assert world.jobs(names.COMPONENT_VALIDATE) == [names.validate_job(first)]

    await world.validate(first, score=100)

    assert active(world) == BASE
    assert world.status.rollout is not None
    assert world.status.rollout.reason == "ScoreDropped"


async def test_a_score_by_other_cases_takes_nothing_back(world: Simulation, spec: Spec) -> None:
    """The verdict promised nothing of them."""
    await world.serve(spec | suites())
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    world.node.roll_out("support")
    await world.settle()

    await apply(world, spec | suites(configMapRef={"name": "cases", "key": "harder.jsonl"}))
    await world.validate(revision, score=100)
    world.pass_time(601)
    await world.settle()

    assert active(world) == revision
    assert world.status.rollout is not None
    assert (world.status.rollout.step, world.status.rollout.reason) == (RolloutStep.DONE, "Validated")
    assert "other cases" in world.status.rollout.message


async def test_nobody_is_promoted_on_top_of_a_rollout_that_is_stuck(world: Simulation, spec: Spec) -> None:
    """It would be taken for the candidate's fault."""
    await world.serve(spec)
    broken = spec | {"agent": {**spec["agent"], "image": "example/agent:broken"}}
    await apply(world, broken)
    world.node.stick("support", {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}})
    world.pass_time(1200)
    world.node.exceed_deadline("support")
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    world.pass_time(1200)
    await world.settle()
    assert (active(world), world.condition("Promoted").reason) == (BASE, "AwaitsPods")

    await apply(world, spec)
    world.node.roll_out("support")
    await world.settle()
    assert active(world) == revision


async def test_what_is_held_makes_room_for_what_has_not_been_measured(world: Simulation, spec: Spec) -> None:
    """A base model was taken up in the place of what had been trained from it, and nothing can measure it."""
    other = names.revision("support", "qwen3", "", "Base", "")
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    await apply(world, spec | {"model": {"base": "qwen3"}})
    world.node.start_job("support", "finetune", "support-finetune-2")
    world.pass_time(60)
    world.node.finish_job("support-finetune-2", training_report("qwen3-ft", base="qwen3"))
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    await world.validate(revision, score=8000)
    world.pass_time(3600)
    await world.settle()

    assert world.revision_status(other).result is VerdictResult.INCONCLUSIVE
    assert world.revision_status(other).state is RevisionState.WAITING
    assert world.status.candidate is not None
    assert world.status.candidate.model_id == "qwen3-ft"
    await world.evaluate(world.status.candidate.revision, lower=-900, delta=-100)
    assert world.status.candidate.revision == other


async def test_a_base_model_that_was_not_judged_has_its_turn_after_what_was_trained_from_it(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    await world.curate("d1")
    await apply(world, spec | {"model": {"base": "qwen3"}})
    world.node.roll_out("support")
    other = names.revision("support", "qwen3", "", "Base", "")
    world.node.start_job("support", "finetune", "support-finetune-1")
    world.pass_time(60)
    world.node.finish_job("support-finetune-1", training_report("qwen3-ft", base="qwen3"))
    await world.settle()
    assert world.status.candidate is not None
    assert world.status.candidate.model_id == "qwen3-ft"
    assert world.revision_status(other).state is RevisionState.WAITING

    world.decide(world.status.candidate.revision, "Rejected")
    await world.settle()
    assert world.status.candidate.revision == other
    await world.evaluate(other, lower=2500)
    assert active(world) == other
