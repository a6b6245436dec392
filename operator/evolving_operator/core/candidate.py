# ruff: noqa: PLR0911 - an ordered policy returns at the first rule that applies
"""How a candidate is given up, tried on live requests, or promoted."""

from __future__ import annotations

from evolving_agent.contract.learning import OnInconclusive
from evolving_operator.api.models import (
    Approval,
    Decision,
    RevisionRef,
    RolloutStatus,
    RolloutStep,
    VerdictResult,
)
from evolving_operator.core.approval import is_approved, is_asked_back
from evolving_operator.core.live_traffic import why_trial_fails
from evolving_operator.core.moves import moved, nominated, with_rollout_of_candidate, without_trial
from evolving_operator.core.observed import ObservedRevision
from evolving_operator.core.proof import (
    candidate_revision,
    recorded_verdict,
    verdict_status,
)
from evolving_operator.core.serving import crash_loop, is_awaited, never_served
from evolving_operator.core.situation import Situation
from evolving_operator.core.step import Because, Step
from evolving_operator.core.trial import is_as_asked_for, next_trial, trial_of


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
        dropped = {"candidate": None, **without_trial(status), "last_verdict": shown}
        return Step(status.model_copy(update=dropped))
    if is_awaited(situation) or situation.pinned or situation.spec.suspend:
        return None
    because = why_promotable(situation, revision)
    if because is None or awaits_settled_pods(situation, revision):
        return None
    trial = next_trial(situation, ref)
    if trial is None:
        return _promoted(situation, ref, revision, because)
    if trial == status.rollout:
        return None
    return Step(status.model_copy(update=with_rollout_of_candidate(situation, trial)))


def awaits_settled_pods(situation: Situation, revision: ObservedRevision) -> bool:
    """Whether a candidate that may be promoted waits until all pods run what is wanted.

    What is broken already would be taken for its fault. Nobody waits for a model that never served; nor does
    a person's word, which may be the cure, unless there is a trial to begin.
    """
    if situation.settled or trial_of(situation) is not None:
        return False
    is_tried = situation.spec.rollout.shadow is not None or situation.spec.rollout.canary is not None
    return not never_served(situation) and (is_tried or not is_approved(situation, revision))


def awaits_person(situation: Situation) -> bool:
    """Whether the candidate has been measured, or may not be promoted, and nothing goes on by itself."""
    revision = candidate_revision(situation)
    is_measured = recorded_verdict(situation) is not None
    return revision is not None and (
        situation.pinned or (is_measured and why_promotable(situation, revision) is None)
    )


def end_trial(situation: Situation) -> Step | None:
    """A trial ends with its candidate, while nothing may be promoted, and where the spec asks for another.

    Later it begins anew.
    """
    status, rollout = situation.status, trial_of(situation)
    if rollout is None:
        return None
    revision = candidate_revision(situation)
    is_on = revision is not None and revision.name == rollout.revision
    is_on = is_on and not situation.pinned and not situation.spec.suspend
    is_on = is_on and is_as_asked_for(situation, rollout)
    if is_on and revision is not None and why_promotable(situation, revision) is not None:
        failing = crash_loop(situation) if rollout.step is RolloutStep.CANARY else None
        failing = failing or why_trial_fails(situation)
        return None if failing is None else _abort(situation, rollout, failing)
    return Step(status.model_copy(update=without_trial(status)))


def why_rejected(situation: Situation, revision: ObservedRevision) -> Because | None:
    """Why the candidate is given up."""
    if revision.spec.decision is Decision.REJECTED:
        return Because("Rejected", f"{revision.name} was rejected by a person.")
    if is_approved(situation, revision) or recorded_verdict(situation) is None:
        return None
    result = revision.status.result
    gives_up = situation.spec.evaluation.on_inconclusive is OnInconclusive.REJECT
    if result is VerdictResult.FAILED or (result is VerdictResult.INCONCLUSIVE and gives_up):
        return Because(f"Verdict{result}", f"{revision.name} did not pass the gate.")
    return None


def why_promotable(situation: Situation, revision: ObservedRevision) -> Because | None:
    """What entitles the candidate to be promoted: the gate, a person, or an incumbent that never served."""
    if is_approved(situation, revision):
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
    """A person approved what had been ruled out or replaced: it comes before what was learned since."""
    candidate = candidate_revision(situation)
    if is_awaited(situation) or (candidate is not None and is_approved(situation, candidate)):
        return None
    for revision in situation.observed.revisions.values():
        is_meant = is_asked_back(revision) and revision.spec.base == situation.spec.model.base
        if is_meant and revision is not candidate:
            return Step(nominated(situation, revision))
    return None


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
    told = with_rollout_of_candidate(situation, aborted)
    return Step(situation.status.model_copy(update={"candidate": None, **told}))


def _promoted(situation: Situation, ref: RevisionRef, revision: ObservedRevision, because: Because) -> Step:
    promoted = moved(situation, ref.model_copy(update={"since": situation.timestamp}), because)
    shown = situation.status.last_verdict
    if recorded_verdict(situation) is not None:
        shown = verdict_status(revision.name, revision.status.verdicts)
    return Step(promoted.model_copy(update={"candidate": None, "last_verdict": shown}))
