# ruff: noqa: PLR0911 - an ordered policy returns at the first rule that applies
"""How far the agent has come in learning: DatasetReady, Trained, Evaluated and Promoted."""

from __future__ import annotations

from evolving_operator.api import names
from evolving_operator.api.models import (
    Approval,
    ConditionStatus,
    RolloutStep,
    RunState,
    RunStatus,
    VerdictResult,
)
from evolving_operator.core.approval import is_approved
from evolving_operator.core.candidate import (
    awaits_pods_to_be_tried,
    awaits_settled_pods,
    awaits_word,
    why_promotable,
)
from evolving_operator.core.conditions import Finding, condition, false, true, unknown
from evolving_operator.core.gate import weakest
from evolving_operator.core.health import some_not_ready
from evolving_operator.core.observed import ObservedRevision
from evolving_operator.core.pod_problems import why_blocked
from evolving_operator.core.proof import (
    asks_the_dataset,
    candidate_revision,
    evaluation,
    evaluation_job_of,
    is_measurable,
    recorded_verdict,
    why_unmeasured,
)
from evolving_operator.core.serving import is_awaited
from evolving_operator.core.situation import Situation

_PAUSED = "But no pod serves now: its time stands still."
_HELD_FOR_A_DATASET = "It waits for a newer dataset, or for a person's spec.decision."
_HELD_FOR_CASES = (
    "None of its suites asks a dataset's cases, so a newer one would not help. It waits for other suites, "
    f"for more cases (then annotate {names.ANNOTATION_RUN}: {names.COMPONENT_EVALUATE}), or for a person's "
    "spec.decision."
)


def dataset_ready(situation: Situation) -> Finding:
    dataset, run = situation.status.dataset, situation.status.curation
    if run is not None and run.state is RunState.FAILED:
        return false("CurationFailed", _why(run))
    if (
        run is not None
        and run.state is RunState.RUNNING
        and (blocked := why_blocked(situation, run.job)) is not None
    ):
        return blocked if dataset is None else true(blocked.reason, blocked.message)
    if dataset is not None:
        said = run.message if run is not None and run.state is RunState.SUCCEEDED else ""
        return true("DatasetWritten", said or f"Dataset {dataset.version} has {dataset.examples} examples.")
    if run is not None and run.state is RunState.SKIPPED:
        return false(run.reason, run.message)
    if run is not None and run.state is RunState.RUNNING:
        return false("CurationRunning", f"Job {run.job} is curating.")
    if situation.spec.curation is None:
        return false("CurationDisabled", "There is no spec.curation: experience is kept, but not curated.")
    return false("NotCurated", "No curation has run yet.")


def trained(situation: Situation) -> Finding:
    """The outcome of the newest training run. A skipped one takes back nothing."""
    run = situation.status.training
    if run is None:
        if situation.spec.training is None:
            return false("TrainingDisabled", "There is no spec.training: nothing is trained.")
        return false("NotTrained", "No training has run yet.")
    before = condition(situation.status.conditions, "Trained")
    was_trained = before is not None and before.status is ConditionStatus.TRUE
    if run.state is RunState.FAILED:
        return false("TrainingFailed", _why(run))
    if run.state is RunState.SUCCEEDED:
        return true("TrainingSucceeded", run.message or f"Job {run.job} trained a model.")
    if run.state is RunState.SKIPPED:
        return true(run.reason, run.message) if was_trained else false(run.reason, run.message)
    blocked = why_blocked(situation, run.job)
    if blocked is not None:
        return true(blocked.reason, blocked.message) if was_trained else blocked
    message = f"Job {run.job} is training."
    return true("TrainingRunning", message) if was_trained else false("TrainingRunning", message)


def evaluated(situation: Situation) -> Finding:
    """The verdict on the candidate or, where there is none, on the last one that had one."""
    candidate, current = candidate_revision(situation), evaluation(situation)
    if candidate is None and (made := _being_made(situation)):
        return unknown("Evaluating", f"{made} is about to be evaluated.")
    if candidate is None or current is None:
        return _last_verdict(situation)
    if recorded_verdict(situation) is not None and candidate.status.result is not None:
        return _verdict(candidate)
    job = evaluation_job_of(situation)
    if job is not None and job.finished is None and (blocked := why_blocked(situation, job.name)) is not None:
        return unknown(blocked.reason, blocked.message)
    if job is not None:
        return unknown("Evaluating", f"Job {job.name} compares {candidate.name} with what is served.")
    if is_approved(situation, candidate):
        return unknown("NotNeeded", f"{candidate.name} was approved by a person.")
    if situation.spec.suspend:
        return unknown("Suspended", "spec.suspend: the candidate is not evaluated.")
    if is_awaited(situation):
        return unknown("AwaitsRollout", f"{candidate.name} is evaluated when the present rollout has ended.")
    if current.retry_at is not None:
        again = f"{candidate.name} is evaluated again after {current.retry_at}."
        return unknown("AwaitsRetry", f"{again} {why_unmeasured(candidate)}".rstrip())
    if not is_measurable(situation, current.dataset_version):
        return unknown("NothingToMeasure", "There are no validation queries.")
    return unknown("Evaluating", f"{candidate.name} is about to be evaluated.")


def promoted(situation: Situation) -> Finding:
    """Where the newest revision stands on its way to the users."""
    status, rollout = situation.status, situation.status.rollout
    if status.candidate is not None and not situation.rollout_under_way:
        return _awaiting(situation)
    if rollout is not None and rollout.step is RolloutStep.ROLLED_BACK:
        return false("RolledBack", f"{rollout.revision} was taken back. {rollout.reason}: {rollout.message}")
    if rollout is not None and rollout.step is RolloutStep.RESTART:
        return false("RollingOut", f"{rollout.revision} is on its way to the users. {rollout.message}")
    if status.active is None:
        return false("NothingServed", "Nothing is served yet.")
    active = situation.revision(status.active)
    # A base revision that has just been made may not have been seen yet.
    is_base = active.spec.training is None if active else status.active.revision == situation.base_revision
    if is_base and rollout is None:
        return false("ServesBaseModel", f"The base model {status.active.model_id} is served.")
    return true("Promoted", f"{status.active.revision} ({status.active.model_id}) is served.")


def _being_made(situation: Situation) -> str:
    """The candidate, where it became one by this very decision: its AgentRevision is yet to be seen."""
    ref = situation.status.candidate
    return ref.revision if ref is not None and ref.since == situation.timestamp else ""


def _awaiting(situation: Situation) -> Finding:
    """Why the candidate is not served yet."""
    candidate = candidate_revision(situation)
    if candidate is None and (made := _being_made(situation)):
        return false("AwaitsVerdict", f"{made} is to be evaluated: see Evaluated.")
    if candidate is None:
        return false("CandidateMissing", "The candidate's AgentRevision was deleted.")
    if situation.pinned:
        return false("Pinned", f"spec.rollout.pin holds {situation.spec.rollout.pin}.")
    if situation.spec.suspend:
        return false("Suspended", "spec.suspend: nothing is promoted.")
    rollout = situation.status.rollout
    if rollout is not None and rollout.step in (RolloutStep.SHADOW, RolloutStep.CANARY):
        said = rollout.message if rollout.paused_at is None else f"{rollout.message} {_PAUSED}"
        if (stuck := some_not_ready(situation)) is not None:
            said = f"{said} It goes no further until all serving pods are ready. {stuck.message}"
        return false("Shadowing" if rollout.step is RolloutStep.SHADOW else "CanaryRunning", said)
    if awaits_pods_to_be_tried(situation):
        told = f"{candidate.name} is to be tried on live requests, and no pod is to serve."
        return false("AwaitsPods", told)
    if why_promotable(situation, candidate) is not None and awaits_settled_pods(situation, candidate):
        return false(
            "AwaitsPods",
            f"{candidate.name} may be promoted. It waits until all serving pods run what is to be served "
            "now: what is broken already would be taken for its fault.",
        )
    if awaits_word(situation):
        return false(
            "AwaitsApproval",
            f"{candidate.name} is to replace a base model that never served: there is nothing to compare it "
            "with. It waits for a person: set its spec.decision.",
        )
    if recorded_verdict(situation) is None:
        return false("AwaitsVerdict", f"{candidate.name} is to be evaluated: see Evaluated.")
    if candidate.status.result is VerdictResult.PASSED and situation.spec.rollout.approval is Approval.MANUAL:
        return false(
            "AwaitsApproval",
            f"{candidate.name} passed the gate and waits for a person: set its spec.decision.",
        )
    if candidate.status.result is VerdictResult.INCONCLUSIVE:
        awaited = _HELD_FOR_A_DATASET if asks_the_dataset(situation) else _HELD_FOR_CASES
        return false("Held", f"The verdict on {candidate.name} is inconclusive. {awaited}")
    return false(f"Verdict{candidate.status.result}", f"The verdict on {candidate.name} does not promote it.")


def _verdict(revision: ObservedRevision) -> Finding:
    suite = weakest(revision.status.verdicts)
    message = f"{revision.name}, suite {suite.suite}: {suite.message}"
    if revision.status.result is VerdictResult.PASSED:
        return true("VerdictPassed", message)
    if revision.status.result is VerdictResult.FAILED:
        return false("VerdictFailed", message)
    return unknown(f"Verdict{revision.status.result}", message)


def _last_verdict(situation: Situation) -> Finding:
    verdict = situation.status.last_verdict
    if verdict is None:
        return unknown("NoCandidate", "There has been no candidate.")
    revision = situation.observed.revisions.get(verdict.revision)
    if revision is not None and revision.status.result is not None:
        return _verdict(revision)
    message = f"The last verdict, on {verdict.revision}: {verdict.result}."
    if verdict.result is VerdictResult.PASSED:
        return true("VerdictPassed", message)
    if verdict.result is VerdictResult.FAILED:
        return false("VerdictFailed", message)
    return unknown(f"Verdict{verdict.result}", message)


def _why(run: RunStatus) -> str:
    return f"{run.reason}: {run.message} (Job {run.job})"
