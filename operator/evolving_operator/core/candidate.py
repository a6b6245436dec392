# ruff: noqa: PLR0911 - an ordered policy returns at the first rule that applies
"""How a candidate is nominated, given up, tried on live requests, or promoted."""

from __future__ import annotations

from evolving_agent.contract.learning import OnInconclusive
from evolving_operator.api.models import (
    Approval,
    Decision,
    RevisionRef,
    RevisionState,
    RolloutStatus,
    VerdictResult,
)
from evolving_operator.core.approval import is_approved
from evolving_operator.core.live_traffic import why_trial_fails
from evolving_operator.core.moves import (
    moved,
    nominated,
    taken_back,
    with_rollout_of_candidate,
    without_candidate,
    without_trial,
)
from evolving_operator.core.observed import ObservedRevision
from evolving_operator.core.proof import candidate_revision, recorded_verdict, verdict_status
from evolving_operator.core.serving import crash_loop, is_awaited, never_served, somebody_serves, wanted_pods
from evolving_operator.core.situation import Situation
from evolving_operator.core.step import Because, Step
from evolving_operator.core.trial import is_as_asked_for, next_trial


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
        dropped = {**without_candidate(status), "last_verdict": shown}
        return Step(status.model_copy(update=dropped))
    if is_awaited(situation) or situation.pinned or situation.spec.suspend:
        return None
    because = why_promotable(situation, revision)
    if because is None:
        return None
    trial = None if never_served(situation) else next_trial(situation, ref)
    if (trial is not None and trial == status.rollout) or awaits_settled_pods(situation, revision):
        return None
    if trial is None:
        return _promoted(situation, ref, revision, because)
    return Step(status.model_copy(update=with_rollout_of_candidate(situation, trial)))


def awaits_settled_pods(situation: Situation, revision: ObservedRevision) -> bool:
    """Whether a candidate that may come further waits until all pods run what is wanted.

    What is broken already would be taken for its fault, and nobody is tried where nobody serves. Nobody waits
    for a model that never served; nor does a person's word, which may be the cure, unless there is a trial.
    """
    if never_served(situation):
        return False
    is_tried = situation.spec.rollout.shadow is not None or situation.spec.rollout.canary is not None
    if situation.settled:
        return is_tried and not somebody_serves(situation)
    return is_tried or not is_approved(situation, revision)


def awaits_person(situation: Situation) -> bool:
    """Whether all is known of the candidate that there is to know, and nothing goes on by itself."""
    revision = candidate_revision(situation)
    if revision is None or (recorded_verdict(situation) is None and not is_approved(situation, revision)):
        return False
    return situation.pinned or why_promotable(situation, revision) is None


def awaits_pods_to_be_tried(situation: Situation) -> bool:
    """Whether a candidate is to be tried on live requests, and no pod is to serve."""
    revision = candidate_revision(situation)
    if revision is None or wanted_pods(situation) > 0 or why_promotable(situation, revision) is None:
        return False
    return awaits_settled_pods(situation, revision)


def awaits_word(situation: Situation) -> bool:
    """Whether a base model that would replace one that never served waits for a person's approval."""
    revision = candidate_revision(situation)
    return (
        revision is not None
        and revision.spec.training is None
        and situation.spec.rollout.approval is Approval.MANUAL
        and not is_approved(situation, revision)
        and never_served(situation)
    )


def end_trial(situation: Situation) -> Step | None:
    """A trial ends with its candidate, while nothing may be promoted or served, where another is asked for.

    Later it begins anew.
    """
    trial, revision = situation.trial, candidate_revision(situation)
    if trial is None:
        return None
    may_go_on = revision is not None and revision.name == trial.revision
    may_go_on = may_go_on and not situation.pinned and not situation.spec.suspend
    may_go_on = may_go_on and is_as_asked_for(situation, trial) and situation.spec.agent.replicas > 0
    if revision is None or not may_go_on or why_promotable(situation, revision) is None:
        return Step(situation.status.model_copy(update=without_trial(situation.status)))
    failing = crash_loop(situation, since=trial.since) or why_trial_fails(situation)
    return None if failing is None else _abort(situation, trial, revision, failing)


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


def nominate(situation: Situation) -> Step | None:
    """The next candidate: what a person has approved, before all else; then what waits, the newest first."""
    candidate, active = candidate_revision(situation), situation.status.active
    options = [
        revision
        for revision in situation.observed.revisions.values()
        if revision is not candidate
        and revision.spec.base == situation.spec.model.base
        and not revision.is_left
        and (active is None or revision.name != active.revision)
    ]
    options.sort(key=lambda revision: (revision.created, revision.name), reverse=True)
    approved = next((revision for revision in options if is_approved(situation, revision)), None)
    comes_first = candidate is None or not is_approved(situation, candidate)
    if approved is not None and comes_first and not is_awaited(situation):
        return Step(nominated(situation, approved))
    # What is held for want of evidence makes room for what has not been measured yet.
    is_held = candidate is not None and comes_first and _is_inconclusive(situation, candidate)
    waiting = [item for item in options if item.status.state is RevisionState.WAITING]
    if is_held:
        waiting = [item for item in waiting if item.status.result is None]
    is_free = is_held or situation.status.candidate is None
    return Step(nominated(situation, waiting[0])) if waiting and is_free else None


def _is_inconclusive(situation: Situation, candidate: ObservedRevision) -> bool:
    is_measured = recorded_verdict(situation) is not None
    return is_measured and candidate.status.result is VerdictResult.INCONCLUSIVE


def _abort(situation: Situation, trial: RolloutStatus, revision: ObservedRevision, because: Because) -> Step:
    """End a trial and quarantine its candidate: users go on with what they had, and no pod is replaced."""
    aborted = taken_back(situation, trial, revision, because)
    told = with_rollout_of_candidate(situation, aborted)
    return Step(situation.status.model_copy(update={"candidate": None, **told}))


def _promoted(situation: Situation, ref: RevisionRef, revision: ObservedRevision, because: Because) -> Step:
    promoted = moved(situation, ref.model_copy(update={"since": situation.timestamp}), because)
    shown = situation.status.last_verdict
    if recorded_verdict(situation) is not None:
        shown = verdict_status(revision.name, revision.status.verdicts)
    return Step(promoted.model_copy(update={"last_verdict": shown}))
