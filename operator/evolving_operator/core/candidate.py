"""How a candidate is given up, tried on live requests, or promoted."""

from __future__ import annotations

from evolving_agent.contract.learning import OnInconclusive
from evolving_operator.api.models import (
    Approval,
    Decision,
    RevisionRef,
    RevisionState,
    RolloutStatus,
    RolloutStep,
    VerdictResult,
)
from evolving_operator.core.live_traffic import why_failing
from evolving_operator.core.moves import moved, ref_of, without_trial
from evolving_operator.core.observed import ObservedRevision
from evolving_operator.core.proof import (
    candidate_revision,
    first_evaluation,
    recorded_verdict,
    verdict_status,
)
from evolving_operator.core.serving import crash_loop, never_served
from evolving_operator.core.situation import Situation
from evolving_operator.core.step import Because, Step
from evolving_operator.core.trial import next_trial, trial_of


def advance_candidate(situation: Situation) -> Step | None:
    """Give the candidate up, try it on live requests, or promote it; None while it has to wait."""
    status, ref = situation.status, situation.status.candidate
    if ref is None:
        return None
    revision = candidate_revision(situation)
    if revision is None or why_rejected(situation, revision) is not None:
        shown = status.last_verdict
        if revision is not None and recorded_verdict(situation) is not None:
            shown = verdict_status(revision.name, revision.status.verdicts)
        dropped = {"candidate": None, "rollout": without_trial(status), "last_verdict": shown}
        return Step(status.model_copy(update=dropped))
    if situation.rollout_under_way or situation.pinned or situation.spec.suspend:
        return None
    because = why_promotable(situation, revision)
    if because is None:
        return None
    trial = next_trial(situation, ref)
    if trial is None:
        return _promoted(situation, ref, revision, because)
    return None if trial == status.rollout else Step(status.model_copy(update={"rollout": trial}))


def end_trial(situation: Situation) -> Step | None:
    """A trial ends with its candidate, and while nothing may be promoted; later it begins anew."""
    status, rollout = situation.status, trial_of(situation)
    if rollout is None:
        return None
    revision = candidate_revision(situation)
    is_on = revision is not None and revision.name == rollout.revision
    is_on = is_on and not situation.pinned and not situation.spec.suspend
    if is_on and revision is not None and why_promotable(situation, revision) is not None:
        failing = crash_loop(situation) if rollout.step is RolloutStep.CANARY else None
        failing = failing or why_failing(situation)
        return None if failing is None else _abort(situation, rollout, failing)
    return Step(status.model_copy(update={"rollout": None}))


def why_rejected(situation: Situation, revision: ObservedRevision) -> Because | None:
    """Why the candidate is given up."""
    if revision.spec.decision is Decision.REJECTED:
        return Because("Rejected", f"{revision.name} was rejected by a person.")
    if revision.spec.decision is Decision.APPROVED or recorded_verdict(situation) is None:
        return None
    result = revision.status.result
    gives_up = situation.spec.evaluation.on_inconclusive is OnInconclusive.REJECT
    if result is VerdictResult.FAILED or (result is VerdictResult.INCONCLUSIVE and gives_up):
        return Because(f"Verdict{result}", f"{revision.name} did not pass the gate.")
    return None


def why_promotable(situation: Situation, revision: ObservedRevision) -> Because | None:
    """What entitles the candidate to be promoted: the gate, a person, or an incumbent that never served."""
    if revision.spec.decision is Decision.APPROVED:
        return Because("Approved", f"{revision.name} was approved by a person.")
    if situation.spec.rollout.approval is Approval.MANUAL:
        return None
    if recorded_verdict(situation) is not None and revision.status.result is VerdictResult.PASSED:
        return Because("VerdictPassed", f"{revision.name} passed the gate.")
    if revision.spec.training is None and never_served(situation):
        return Because(
            "IncumbentNeverServed",
            f"{revision.name} replaces a base model that never became ready: nothing to compare it with.",
        )
    return None


def reconsider(situation: Situation) -> Step | None:
    """A revision that the gate or a rollback had ruled out, and that a person approved after that."""
    if situation.status.candidate is not None or situation.rollout_under_way:
        return None
    for revision in situation.observed.revisions.values():
        if revision.spec.decision is not Decision.APPROVED or not _approval_is_news(revision):
            continue
        if revision.spec.base != situation.spec.model.base:
            continue
        dataset = revision.spec.dataset
        update = {
            "candidate": ref_of(revision, situation),
            "evaluation": first_evaluation(situation, revision.name, dataset.version if dataset else None),
        }
        return Step(situation.status.model_copy(update=update))
    return None


def _approval_is_news(revision: ObservedRevision) -> bool:
    is_ruled_out = revision.status.state in (RevisionState.REJECTED, RevisionState.ROLLED_BACK)
    decided = revision.status.decided_generation
    return is_ruled_out and decided is not None and revision.generation > decided


def _abort(situation: Situation, rollout: RolloutStatus, because: Because) -> Step:
    """End a canary and quarantine its candidate: users go on with what they had, and no pod is replaced."""
    aborted = rollout.model_copy(
        update={
            "step": RolloutStep.ROLLED_BACK,
            "percent": None,
            "template": None,
            "since": situation.timestamp,
            "reason": because.reason,
            "message": because.message[:1000],
        }
    )
    return Step(situation.status.model_copy(update={"candidate": None, "rollout": aborted}))


def _promoted(situation: Situation, ref: RevisionRef, revision: ObservedRevision, because: Because) -> Step:
    promoted = moved(situation, ref.model_copy(update={"since": situation.timestamp}), because)
    shown = situation.status.last_verdict
    if recorded_verdict(situation) is not None:
        shown = verdict_status(revision.name, revision.status.verdicts)
    return Step(promoted.model_copy(update={"candidate": None, "last_verdict": shown}))
