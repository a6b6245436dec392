"""The Job that asks the served revision the suites' questions, and what comes of its answers."""

from __future__ import annotations

from evolving_agent.contract.report import ValidationReport
from evolving_operator.api import names
from evolving_operator.api.models import RolloutStatus, RolloutStep
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.job import build_validation_job, suites_digest
from evolving_operator.core.clock import after
from evolving_operator.core.gate import cases_of
from evolving_operator.core.observed import ObservedJob, ObservedRevision
from evolving_operator.core.proof import is_measurable
from evolving_operator.core.serving import somebody_serves
from evolving_operator.core.situation import Situation
from evolving_operator.core.step import Because

# So long a validation Job that the API server refuses is tried again.
_REFUSED_VALIDATION_SECONDS = 300


def validation_job(situation: Situation) -> Manifest | None:
    """The Job that asks the served revision the suites' questions, to be created now."""
    rollout, stamp = situation.status.rollout, situation.active_hash
    if rollout is None or rollout.step is not RolloutStep.BAKE or situation.held or stamp is None:
        return None
    if (
        not somebody_serves(situation)
        or not is_validated(situation, rollout)
        or validation_job_of(situation, rollout) is not None
    ):
        return None
    return build_validation_job(
        situation.context,
        revision=rollout.revision,
        config_hash=stamp,
        dataset_version=_dataset_version(situation, rollout),
        promotion=_promotion(situation, rollout),
    )


def _promotion(situation: Situation, rollout: RolloutStatus) -> str:
    """What a validation is part of: when its revision was promoted, and the pods that it asks."""
    active = situation.status.active
    return f"{active.since if active is not None else ''} {rollout.template}"


def is_outdated(situation: Situation, job: ObservedJob) -> bool:
    """Whether a validation asks other pods, or other cases, than it is to, or is an earlier rollout's.

    It goes, and comes anew.
    """
    rollout = situation.status.rollout
    is_earlier = (
        rollout is not None
        and rollout.step is RolloutStep.BAKE
        and job.promotion not in (None, _promotion(situation, rollout))
    )
    is_current = job.config_hash in (None, situation.active_hash) and job.suites in (
        None,
        suites_digest(situation.context),
    )
    return job.deleting or is_earlier or not is_current


def why_unasked(situation: Situation, rollout: RolloutStatus) -> Because | None:
    """Why there will be no validation: nobody waits for ever for a Job that the API server refuses."""
    name = names.validate_job(rollout.revision)
    refusal = next((item for item in situation.observed.refusals if item.name == name), None)
    if refusal is None:
        return None
    patience = max(situation.spec.rollout.bake_seconds, _REFUSED_VALIDATION_SECONDS)
    if not situation.timers.passed(after(rollout.since, patience)):
        return None
    return Because("NotValidated", f"Job {name} was refused: {refusal.message}")


def is_validated(situation: Situation, rollout: RolloutStatus) -> bool:
    """Whether there is anybody to ask, and anything to ask."""
    return situation.spec.agent.replicas > 0 and is_measurable(
        situation, _dataset_version(situation, rollout)
    )


def validation_job_of(situation: Situation, rollout: RolloutStatus) -> ObservedJob | None:
    return situation.observed.jobs.get(names.validate_job(rollout.revision))


def score_drop(situation: Situation, rollout: RolloutStatus, job: ObservedJob) -> Because | None:
    """The first suite whose score, as served, is too far below that of the verdict."""
    revision = situation.observed.revisions.get(rollout.revision)
    if revision is None or not isinstance(job.report, ValidationReport):
        return None
    promised = _promised(situation, revision)
    limit = situation.spec.rollout.rollback.max_score_drop_bps
    for suite in job.report.suites:
        before, served = promised.get(suite.suite), suite.candidate_bps
        if before is not None and served is not None and before - served > limit:
            return Because(
                "ScoreDropped",
                f"Suite {suite.suite} scored {before / 100:.1f} % in the evaluation, but "
                f"{served / 100:.1f} % as served; maxScoreDropBps allows a drop of {limit / 100:.1f} points.",
            )
    return None


def _promised(situation: Situation, revision: ObservedRevision) -> dict[str, int | None]:
    """The scores of its verdict, by suite, as far as the same cases are asked now."""
    asked = {suite.name: cases_of(suite) for suite in situation.spec.evaluation.effective_suites}
    return {
        item.suite: item.candidate
        for item in revision.status.verdicts
        if item.cases is None or item.cases == asked.get(item.suite)
    }


def validation_outcome(situation: Situation, rollout: RolloutStatus, job: ObservedJob | None) -> Because:
    """A validation that measured nothing keeps the revision, with a warning.

    It passed the gate, and that nobody could be asked says nothing about it: an outage of whoever
    measures never looks like a bad model.
    """
    if job is None or not is_validated(situation, rollout):
        return Because("NotValidated", "Nothing to validate it with.")
    report = job.report
    if not isinstance(report, ValidationReport) or not any(
        suite.candidate_bps is not None for suite in report.suites
    ):
        detail = report.message if report is not None else job.message or "it left no report"
        return Because("NotValidated", f"The validation measured nothing: {detail}")
    scores = ", ".join(
        f"{suite.suite} {suite.candidate_bps / 100:.1f} %"
        for suite in report.suites
        if suite.candidate_bps is not None
    )
    revision = situation.observed.revisions.get(rollout.revision)
    promised = {} if revision is None else _promised(situation, revision)
    judged = {item.suite for item in revision.status.verdicts} if revision is not None else set()
    others = sorted({suite.suite for suite in report.suites} & judged - promised.keys())
    told = f" By other cases than its verdict: {', '.join(others)}." if others else ""
    return Because("Validated", f"As served: {scores}.{told}")


def _dataset_version(situation: Situation, rollout: RolloutStatus) -> str | None:
    """The dataset whose held-out split the verdict was about; without a verdict, what it would have been."""
    revision, evaluation = situation.observed.revisions.get(rollout.revision), situation.status.evaluation
    if revision is not None and revision.status.dataset_version is not None:
        return revision.status.dataset_version
    is_about = evaluation is not None and evaluation.revision == rollout.revision
    return evaluation.dataset_version if evaluation is not None and is_about else None
