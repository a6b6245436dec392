"""The candidate's evaluation: which one counts, the Job that measures, the verdict that comes of it.

At most one Job per revision and attempt: the Job's name is the lock. A verdict is first written to the
revision, with its attempt, and only then acted upon.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from evolving_agent.contract.report import EvaluationReport
from evolving_operator.api import names
from evolving_operator.api.models import (
    Decision,
    EvaluationStatus,
    SuiteVerdict,
    VerdictResult,
    VerdictStatus,
)
from evolving_operator.core.approval import is_approved
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.job import build_evaluation_job, comparison_digest
from evolving_operator.core.clock import after, parse_time, rfc3339
from evolving_operator.core.gate import Verdict, judge, judge_again, nothing_to_measure, unmeasured, weakest
from evolving_operator.core.observed import ObservedJob, ObservedRevision
from evolving_operator.core.runs import ending, has_ended
from evolving_operator.core.serving import is_awaited
from evolving_operator.core.situation import Situation
from evolving_operator.core.step import Step

_RETRY_SECONDS = 30
_MAX_RETRY_SECONDS = 3600
_MOST_DOUBLINGS = 7


def first_evaluation(situation: Situation, revision: str, dataset_version: str | None) -> EvaluationStatus:
    """The evaluation with which a candidacy begins. A revision that had a verdict before gets a new one."""
    known = situation.observed.revisions.get(revision)
    last_attempt = known.status.attempt if known is not None else None
    dataset = situation.status.dataset
    return EvaluationStatus(
        revision=revision,
        attempt=0 if last_attempt is None else last_attempt + 1,
        dataset_version=dataset_version or (dataset.version if dataset else None),
    )


def candidate_revision(situation: Situation) -> ObservedRevision | None:
    return situation.revision(situation.status.candidate)


def evaluation(situation: Situation) -> EvaluationStatus | None:
    """The evaluation of the present candidate."""
    candidate, current = situation.status.candidate, situation.status.evaluation
    if candidate is None or current is None or current.revision != candidate.revision:
        return None
    return current


def job_name(current: EvaluationStatus) -> str:
    return names.evaluate_job(current.revision, str(current.attempt) if current.attempt else "")


def evaluation_job_of(situation: Situation) -> ObservedJob | None:
    """The Job of the evaluation that counts, where it has been created."""
    current = evaluation(situation)
    return None if current is None else situation.observed.jobs.get(job_name(current))


def is_measurable(situation: Situation, dataset_version: str | None) -> bool:
    """Whether any suite has cases: its own, or a dataset's held-out split."""
    suites = situation.spec.evaluation.suites
    return dataset_version is not None or any(suite.config_map_ref is not None for suite in suites)


def asks_the_dataset(situation: Situation) -> bool:
    """Whether any case comes of a dataset, so that a newer one has others."""
    return any(suite.config_map_ref is None for suite in situation.spec.evaluation.effective_suites)


def recorded_verdict(situation: Situation) -> ObservedRevision | None:
    """The candidate, where the verdict in its status is the one of the evaluation that counts."""
    revision, current = candidate_revision(situation), evaluation(situation)
    if revision is None or current is None or revision.status.result is None:
        return None
    return revision if revision.status.attempt == current.attempt else None


def verdict_to_record(situation: Situation) -> Verdict | None:
    """The verdict that is due but not in the candidate's status: a new one, or by what is asked for now."""
    current, policy = evaluation(situation), situation.spec.evaluation
    if current is None:
        return None
    recorded = recorded_verdict(situation)
    if recorded is not None:
        return judge_again(policy, recorded.status.verdicts) if _still_counts(situation, recorded) else None
    if not is_measurable(situation, current.dataset_version):
        return nothing_to_measure(policy)
    job = evaluation_job_of(situation)
    if job is None or not has_ended(situation, job) or not _asks_what_is_asked(situation, job):
        return None
    if isinstance(job.report, EvaluationReport):
        return judge(policy, job.report)
    end = ending(job, None)
    return unmeasured(policy, end.reason, end.message)


def verdict_status(revision: str, suites: tuple[SuiteVerdict, ...]) -> VerdictStatus:
    """The weakest suite's numbers, as the agent shows them."""
    suite = weakest(suites)
    return VerdictStatus(
        revision=revision,
        result=suite.result,
        baseline=suite.baseline,
        candidate=suite.candidate,
        delta_bps=suite.delta_bps,
        lower_bps=suite.lower_bps,
        samples=suite.samples,
    )


def why_unmeasured(revision: ObservedRevision) -> str:
    """Why the last evaluation measured nothing; "" where that is not known, or it did."""
    if revision.status.result is not VerdictResult.ERROR:
        return ""
    suite = weakest(revision.status.verdicts)
    return f"Suite {suite.suite} was not measured. {suite.reason}: {suite.message}"


def evaluation_job(situation: Situation) -> Manifest | None:
    """The Job to create now: once per attempt, when nothing keeps the candidate from being measured."""
    current, revision, status = evaluation(situation), candidate_revision(situation), situation.status
    if current is None or revision is None or status.active is None or status.candidate is None:
        return None
    is_wanted = (
        not situation.spec.suspend
        and not is_awaited(situation)
        and revision.spec.decision is not Decision.REJECTED
        and not is_approved(situation, revision)
        and recorded_verdict(situation) is None
        and is_measurable(situation, current.dataset_version)
        and evaluation_job_of(situation) is None
    )
    if not is_wanted:
        return None
    if current.retry_at is not None and _is_to_wait_until(situation, parse_time(current.retry_at)):
        return None
    return build_evaluation_job(
        situation.context,
        revision=current.revision,
        candidate_hash=situation.config_of(status.candidate).hash,
        incumbent_hash=situation.config_of(status.active).hash,
        dataset_version=current.dataset_version,
        attempt=str(current.attempt) if current.attempt else "",
    )


def _is_to_wait_until(situation: Situation, moment: datetime) -> bool:
    """Nobody waits longer than ever was asked for: then the clock has been set back."""
    is_asked_for = moment <= situation.now + timedelta(seconds=_MAX_RETRY_SECONDS)
    return is_asked_for and not situation.timers.passed(moment)


def renew_evaluation(situation: Situation) -> Step | None:
    """A new attempt where the last one cannot count: it measured nothing, too little, or something else."""
    current = evaluation(situation)
    if current is None or situation.status.active is None:
        return None
    renewed = (
        _after_an_error(situation, current)
        or _with_a_newer_dataset(situation, current)
        or _with_changed_settings(situation, current)
    )
    return None if renewed is None else Step(situation.status.model_copy(update={"evaluation": renewed}))


def next_attempt(current: EvaluationStatus) -> EvaluationStatus:
    return current.model_copy(update={"attempt": current.attempt + 1, "errors": 0, "retry_at": None})


def _after_an_error(situation: Situation, current: EvaluationStatus) -> EvaluationStatus | None:
    revision = recorded_verdict(situation)
    if revision is None or revision.status.result is not VerdictResult.ERROR:
        return None
    delay = min(_RETRY_SECONDS * 2 ** min(current.errors, _MOST_DOUBLINGS), _MAX_RETRY_SECONDS)
    retry_at = rfc3339(after(situation.timestamp, delay))
    return next_attempt(current).model_copy(update={"errors": current.errors + 1, "retry_at": retry_at})


def _with_a_newer_dataset(situation: Situation, current: EvaluationStatus) -> EvaluationStatus | None:
    revision, dataset = recorded_verdict(situation), situation.status.dataset
    if revision is None or revision.status.result is not VerdictResult.INCONCLUSIVE or dataset is None:
        return None
    if dataset.version == current.dataset_version or not asks_the_dataset(situation):
        return None
    return next_attempt(current).model_copy(update={"dataset_version": dataset.version})


def _with_changed_settings(situation: Situation, current: EvaluationStatus) -> EvaluationStatus | None:
    """A comparison of configurations that nobody is going to serve any more, or by other suites.

    A verdict that there is already outlives an edit of the instructions, but neither other suites nor
    another incumbent.
    """
    recorded = recorded_verdict(situation)
    if recorded is not None:
        return None if _still_counts(situation, recorded) else next_attempt(current)
    job = evaluation_job_of(situation)
    return None if job is None or _asks_what_is_asked(situation, job) else next_attempt(current)


def _asks_what_is_asked(situation: Situation, job: ObservedJob) -> bool:
    """Whether the evaluation compares what is to be compared, by the suites of the spec."""
    candidate, active = situation.status.candidate, situation.status.active
    if candidate is None or active is None:
        return True
    suites = comparison_digest(situation.context)
    compared = (job.candidate_hash, job.incumbent_hash, job.suites or suites)
    return compared == (situation.config_of(candidate).hash, situation.config_of(active).hash, suites)


def _still_counts(situation: Situation, revision: ObservedRevision) -> bool:
    """Whether the verdict in a candidate's status is about what is served now, by the suites of the spec."""
    active, status = situation.status.active, revision.status
    return status.asked in (None, comparison_digest(situation.context)) and (
        active is None or status.incumbent in (None, active.revision)
    )
