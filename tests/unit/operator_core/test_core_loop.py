"""The loop as the operator drives it: from a base model to a promoted revision, and back."""

from __future__ import annotations

import json
from typing import Any

from evolving_agent.contract.report import Outcome
from evolving_operator.api import names
from evolving_operator.api.models import ConditionStatus, RevisionState, RolloutStep, VerdictResult
from evolving_operator.testing.simulation import Simulation, training_report

Spec = dict[str, Any]


def config_file(world: Simulation) -> dict[str, Any]:
    raw = world.cluster.get("ConfigMap", "support-config")
    assert raw is not None
    parsed: dict[str, Any] = json.loads(raw["data"]["agent_config.json"])
    return parsed


async def test_a_new_agent_serves_its_base_model(world: Simulation, spec: Spec) -> None:
    world.apply_agent(spec)
    await world.settle()

    base = names.revision("support", "smollm2", "", "Base", "")
    assert world.status.active is not None
    assert world.status.active.revision == base
    assert world.revision_status(base).state is RevisionState.ACTIVE
    assert config_file(world)["model"] == "smollm2"
    assert world.stamp() in config_file(world)["configs"]
    assert world.condition("Ready").reason == "Starting"

    world.node.roll_out("support")
    await world.settle()

    assert world.condition("Ready").status is ConditionStatus.TRUE
    assert world.condition("Promoted").reason == "ServesBaseModel"
    assert world.status.ready_replicas == 2
    assert world.status.selector == (
        "app.kubernetes.io/component=agent,app.kubernetes.io/instance=support,"
        "app.kubernetes.io/name=evolving-agent"
    )
    assert world.status.next_curation_time == "2026-03-03T01:00:00Z"
    assert world.status.next_training_time == "2026-03-03T03:00:00Z"


async def test_a_converged_agent_is_left_alone(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.cluster.writes.clear()

    delay = await world.settle()
    world.restart()
    await world.settle()

    assert world.cluster.writes == []
    assert delay is not None  # the next schedule is known


async def test_without_curation_and_training_nothing_is_scheduled(world: Simulation) -> None:
    await world.serve({"model": {"base": "smollm2"}, "agent": {"instructions": "Answer."}})

    assert world.cluster.all("CronJob") == []
    assert world.cluster.all("PodDisruptionBudget") == []
    assert world.condition("DatasetReady").reason == "CurationDisabled"
    assert world.condition("Trained").reason == "TrainingDisabled"


async def test_a_better_model_is_promoted(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    old_stamp = world.stamp()

    # a training run's model becomes the candidate, and is evaluated once
    revision = await world.train()
    assert world.status.candidate is not None
    assert world.status.candidate.revision == revision
    assert world.jobs(names.COMPONENT_EVALUATE) == [names.evaluate_job(revision, "")]
    assert len(config_file(world)["configs"]) == 2
    assert world.stamp() == old_stamp
    assert world.condition("Evaluated").reason == "Evaluating"

    # its verdict lets it go live
    await world.evaluate(revision, lower=2500)
    assert world.status.active is not None
    assert world.status.active.revision == revision
    assert world.status.candidate is None
    assert world.status.previous is not None
    assert world.stamp() != old_stamp
    assert config_file(world)["model"] == "smollm2-ft-1"
    assert config_file(world)["previous_model"] == "smollm2"
    assert old_stamp in config_file(world)["configs"]  # for pods that start again in the middle
    assert world.status.rollout is not None
    assert world.status.rollout.step is RolloutStep.RESTART
    assert world.condition("Promoted").reason == "RollingOut"
    assert "rolledOut" not in config_file(world)  # a pod has to prove its model before it is ready

    # the rolling restart ends, and what is served is validated
    world.node.roll_out("support")
    await world.settle()
    assert world.status.rollout.step is RolloutStep.BAKE
    assert config_file(world)["rolledOut"] == world.stamp()
    assert world.jobs(names.COMPONENT_VALIDATE) == [names.validate_job(revision)]

    await world.validate(revision, score=7900)
    assert world.status.rollout.step is RolloutStep.BAKE  # it has to bake for a while
    world.pass_time(600)
    await world.settle()

    assert world.status.rollout.step is RolloutStep.DONE
    assert world.condition("Promoted").status is ConditionStatus.TRUE
    assert world.revision_status(revision).state is RevisionState.ACTIVE
    assert world.revision_status(revision).result is VerdictResult.PASSED
    assert world.revision_status(revision).delta_bps == 4000
    assert world.status.last_verdict is not None
    assert world.status.last_verdict.candidate == 8000
    for event in ("CandidateFound", "VerdictPassed", "Promoted", "RolledOut", "RolloutFinished"):
        assert world.events().count(event) == 1


async def test_a_model_that_is_no_better_is_rejected(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()

    await world.evaluate(revision, lower=-900, delta=-100)

    assert world.status.candidate is None
    assert world.status.active is not None
    assert world.status.active.model_id == "smollm2"
    assert world.revision_status(revision).state is RevisionState.REJECTED
    assert world.condition("Evaluated").reason == "VerdictFailed"
    assert "40.0 % → 39.0 %" in world.condition("Evaluated").message


async def test_an_inconclusive_verdict_holds_until_there_is_a_newer_dataset(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    revision = await world.train()

    await world.evaluate(revision, lower=-500, delta=300)
    assert world.condition("Promoted").reason == "Held"
    assert "waits for a newer dataset" in world.condition("Promoted").message
    assert world.status.candidate is not None

    await world.curate("d2")
    assert names.evaluate_job(revision, "1") in world.jobs(names.COMPONENT_EVALUATE)
    await world.evaluate(revision, lower=100, delta=300)
    assert world.status.active is not None
    assert world.status.active.revision == revision


async def test_no_newer_dataset_is_waited_for_where_no_suite_asks_its_cases(
    world: Simulation, spec: Spec
) -> None:
    own = {"name": "holdout", "configMapRef": {"name": "cases", "key": "cases.jsonl"}}
    await world.serve(spec | {"evaluation": {"suites": [own]}})
    await world.curate("d1")
    revision = await world.train()
    await world.evaluate(revision, lower=-500, delta=300)

    await world.curate("d2")

    # the same cases would give the same verdict, day after day
    assert world.jobs(names.COMPONENT_EVALUATE) == [names.evaluate_job(revision, "")]
    told = world.condition("Promoted")
    assert told.reason == "Held"
    assert "None of its suites asks a dataset's cases" in told.message
    assert "evolvingagents.io/run: evaluate" in told.message

    # and with a suite that does, one is waited for
    world.apply_agent(spec | {"evaluation": {"suites": [{"name": "holdout"}]}})
    await world.settle()
    assert world.jobs(names.COMPONENT_EVALUATE) == [names.evaluate_job(revision, "1")]
    await world.evaluate(revision, lower=-500, delta=300)
    assert "waits for a newer dataset" in world.condition("Promoted").message
    await world.curate("d3")
    assert world.status.evaluation is not None
    assert world.status.evaluation.dataset_version == "d3"


async def test_an_inconclusive_verdict_can_be_made_to_reject(world: Simulation, spec: Spec) -> None:
    await world.serve(spec | {"evaluation": {"onInconclusive": "Reject"}})
    revision = await world.train()

    await world.evaluate(revision, lower=-500, delta=300)

    assert world.status.candidate is None
    assert world.revision_status(revision).state is RevisionState.REJECTED


async def test_an_evaluation_that_measured_nothing_is_repeated_later(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    first = names.evaluate_job(revision, "")

    world.node.finish_job(first, None, failed=("BackoffLimitExceeded", "three pods failed"))
    await world.settle()
    assert world.revision_status(revision).result is None  # its pod's report may yet be seen
    world.pass_time(30)
    await world.settle()
    assert world.revision_status(revision).result is VerdictResult.ERROR
    assert "three pods failed" in world.revision_status(revision).verdicts[0].message
    assert world.jobs(names.COMPONENT_EVALUATE) == []
    told = world.condition("Evaluated")
    assert (told.reason, "three pods failed" in told.message) == ("AwaitsRetry", True)
    assert "see Evaluated" in world.condition("Promoted").message
    assert world.events().count("VerdictError") == 1

    world.pass_time(30)
    await world.settle()
    assert world.jobs(names.COMPONENT_EVALUATE) == [names.evaluate_job(revision, "1")]
    world.node.finish_job(names.evaluate_job(revision, "1"), None, failed=("DeadlineExceeded", "too slow"))
    world.pass_time(60)
    await world.settle()
    assert "DeadlineExceeded" in world.condition("Evaluated").message
    assert world.events().count("VerdictError") == 2
    world.pass_time(60)
    await world.settle()
    await world.evaluate(revision, lower=100)
    assert world.status.active is not None
    assert world.status.active.revision == revision


async def test_manual_approval_waits_for_a_person(world: Simulation, spec: Spec) -> None:
    await world.serve(spec | {"rollout": {"approval": "Manual"}})
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    assert world.condition("Promoted").reason == "AwaitsApproval"

    world.decide(revision, "Approved")
    await world.settle()

    assert world.status.active is not None
    assert world.status.active.revision == revision


async def test_a_person_can_reject_what_passed(world: Simulation, spec: Spec) -> None:
    await world.serve(spec | {"rollout": {"approval": "Manual"}})
    revision = await world.train()
    await world.evaluate(revision, lower=2500)

    world.decide(revision, "Rejected")
    await world.settle()

    assert world.status.candidate is None
    assert world.revision_status(revision).state is RevisionState.REJECTED


async def test_a_shadow_sees_requests_before_its_promotion(world: Simulation, spec: Spec) -> None:
    await world.serve(spec | {"rollout": {"shadow": {"percent": 20, "timeoutSeconds": 300}}})
    revision = await world.train()
    await world.evaluate(revision, lower=2500)

    assert world.status.rollout is not None
    assert world.status.rollout.step is RolloutStep.SHADOW
    shadow = config_file(world)["traffic"]["shadow"]
    assert shadow["percent"] == 20
    assert config_file(world)["configs"][shadow["config"]]["revision"] == revision
    assert world.status.active is not None
    assert world.status.active.revision != revision

    world.pass_time(300)
    await world.settle()

    assert world.status.active.revision == revision
    assert "shadow" not in config_file(world)["traffic"]


async def test_a_restart_that_gets_stuck_goes_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    old_stamp = world.stamp()
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    assert world.stamp() != old_stamp

    world.node.stick("support", {"state": {"waiting": {"reason": "ErrImagePull", "message": "no image"}}})
    await world.settle()
    assert world.status.active is not None
    assert world.status.active.revision == revision
    assert world.condition("Degraded").reason == "ImagePullFailed"
    world.pass_time(600)
    await world.settle()

    assert world.status.active.model_id == "smollm2"
    assert world.stamp() == old_stamp
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK
    assert "ProgressDeadlineExceeded" in str(world.revision_status(revision).rollback_reason)
    assert world.condition("Promoted").reason == "RolledBack"
    assert "RolledBack" in world.events()

    # and it stays back, even when the same training reports again
    world.node.roll_out("support")
    world.pass_time(60)
    world.node.start_job("support", names.COMPONENT_FINETUNE, "support-finetune-2")
    world.node.finish_job("support-finetune-2", training_report("smollm2-ft-1"))
    await world.settle()
    assert world.status.candidate is None
    assert world.status.active.model_id == "smollm2"


async def test_a_crash_loop_goes_back_without_waiting_for_the_deadline(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)

    waiting = {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}
    world.node.stick("support", waiting, restarts=3)
    await world.settle()

    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK


async def test_a_served_revision_that_fails_its_validation_goes_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)  # promised 80 %
    world.node.roll_out("support")
    await world.settle()

    await world.validate(revision, score=7400)

    assert world.status.active is not None
    assert world.status.active.model_id == "smollm2"
    assert world.status.rollout is not None
    assert world.status.rollout.reason == "ScoreDropped"
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK


async def test_only_a_later_approval_brings_a_quarantined_revision_back(
    world: Simulation, spec: Spec
) -> None:
    # given a revision that was approved, promoted, and taken back
    await world.serve(spec | {"rollout": {"approval": "Manual"}})
    revision = await world.train()
    world.decide(revision, "Approved")
    await world.settle()
    world.pass_time(700)
    await world.settle()
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK
    world.node.roll_out("support")
    await world.settle()
    assert world.status.candidate is None

    # when a person thinks again, and approves it anew
    world.decide(revision, "Auto")
    await world.settle()
    assert world.status.candidate is None
    world.decide(revision, "Approved")
    await world.settle()

    # then it is promoted
    assert world.status.active is not None
    assert world.status.active.revision == revision
    assert world.revision_status(revision).state is RevisionState.ACTIVE


async def test_a_failed_training_is_told_and_changes_nothing(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_FINETUNE, "support-finetune-1")
    await world.settle()
    assert world.condition("Trained").reason == "TrainingRunning"

    report = training_report("x").model_copy(
        update={"outcome": Outcome.FAILED, "reason": "QuotaExceeded", "message": "the provider said no"}
    )
    world.node.finish_job("support-finetune-1", report, failed=("PodFailurePolicy", "exit 42"))
    await world.settle()

    assert world.condition("Trained").status is ConditionStatus.FALSE
    assert world.condition("Trained").reason == "TrainingFailed"
    assert "QuotaExceeded: the provider said no" in world.condition("Trained").message
    assert world.status.active is not None
    assert world.status.active.model_id == "smollm2"
    assert world.condition("Ready").status is ConditionStatus.TRUE


async def test_a_dataset_is_taken_in(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)

    await world.curate("d7", examples=123)

    assert world.status.dataset is not None
    assert (world.status.dataset.version, world.status.dataset.examples) == ("d7", 123)
    assert world.condition("DatasetReady").status is ConditionStatus.TRUE


async def test_a_newer_model_takes_the_candidates_place(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    first = await world.train("model-1", job="support-finetune-1")

    second = await world.train("model-2", job="support-finetune-2")

    assert world.status.candidate is not None
    assert world.status.candidate.revision == second
    assert world.revision_status(first).state is RevisionState.RETIRED
    assert world.jobs(names.COMPONENT_EVALUATE) == [names.evaluate_job(second, "")]


async def test_a_rejected_revision_that_a_person_approves_is_promoted(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=-900, delta=-100)
    assert world.revision_status(revision).state is RevisionState.REJECTED

    world.decide(revision, "Approved")
    await world.settle()

    assert world.status.active is not None
    assert world.status.active.revision == revision


async def test_an_approved_revision_that_fails_again_at_once_is_not_tried_for_ever(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    waiting = {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}
    world.node.stick("support", waiting, restarts=3)
    await world.settle()

    world.decide(revision, "Approved")  # the crashing pod is still there
    await world.settle()

    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK
    assert world.status.candidate is None
