"""Statuses in which another revision is active, or a rollout has come further. Each is one write."""

from __future__ import annotations

from evolving_operator.api.models import (
    AgentRevisionStatus,
    Decision,
    EvolvingAgentStatus,
    RevisionRef,
    RevisionState,
    RolloutStatus,
    RolloutStep,
)
from evolving_operator.core.observed import ObservedRevision
from evolving_operator.core.pause import UNPAUSED
from evolving_operator.core.proof import first_evaluation
from evolving_operator.core.serving import awaits_pods, never_served, served_rollout, wanted_pods
from evolving_operator.core.situation import TRIALS, Situation
from evolving_operator.core.step import Because, Step


def moved(situation: Situation, to: RevisionRef, because: Because) -> EvolvingAgentStatus:
    """The status in which another revision is active, and its rolling restart begins."""
    rollout = RolloutStatus(
        revision=to.revision,
        step=RolloutStep.RESTART,
        since=situation.timestamp,
        reason=because.reason,
        message=because.message,
    )
    previous = _proven(situation)
    if previous is not None and previous.revision == to.revision:
        previous = proven_before(situation, to)
    update = {
        "active": to,
        "previous": previous,
        "candidate": _other_than(to, situation.status.candidate),
        "rollout": rollout,
        "promotion": None,
    }
    then = situation.status.model_copy(update=update)
    rollout = rollout.model_copy(update={"template": situation.after(then).template_hash})
    return then.model_copy(update={"rollout": rollout})


def _proven(situation: Situation) -> RevisionRef | None:
    """What a rollback of the next revision would return to: the last one that has held its own.

    One that is still on its way when it is given up may be what does not come up.
    """
    status = situation.status
    never_came_up = wanted_pods(situation) > 0 and never_served(situation)
    is_unproven = situation.rollout_under_way or awaits_pods(situation) or never_came_up
    return status.previous if is_unproven else status.active


def is_ruled_out(revision: ObservedRevision) -> bool:
    """Whether no rollback may return to it."""
    return revision.spec.decision is Decision.REJECTED or was_taken_back(revision.status)


def was_taken_back(status: AgentRevisionStatus) -> bool:
    """Whether it was, since it last came to all users."""
    if status.rolled_back_at is None:
        return False
    return status.promoted_at is None or status.rolled_back_at >= status.promoted_at


def proven_before(situation: Situation, served: RevisionRef) -> RevisionRef | None:
    """The last other revision that had held its own, and that nobody has taken back or rejected."""
    proven = [
        (revision.status.proven_at, revision.name)
        for revision in situation.observed.revisions.values()
        if revision.status.proven_at is not None
        and not is_ruled_out(revision)
        and not revision.is_left
        and revision.status.state is not RevisionState.CANDIDATE
        and revision.name != served.revision
    ]
    return ref_of(situation.observed.revisions[max(proven)[1]], situation) if proven else None


def roll_back(situation: Situation, because: Because) -> Step | None:
    """Back to the previous revision. The one that failed is not promoted again by itself."""
    status, served = situation.status, served_rollout(situation)
    if status.previous is None or served is None:
        return None
    return _back_to(situation, status.previous, served, because)


def reject_served(situation: Situation, because: Because) -> Step | None:
    """Back from what no rollout tells of: what a rollback has returned to, or the first base model."""
    active = situation.status.active
    then = None if active is None else proven_before(situation, active)
    if active is None or then is None:
        return None
    served = RolloutStatus(revision=active.revision, step=RolloutStep.DONE, since=active.since)
    return _back_to(situation, then, served, because)


def _back_to(situation: Situation, to: RevisionRef, served: RolloutStatus, because: Because) -> Step:
    status, back = situation.status, to.model_copy(update={"since": situation.timestamp})
    update = {
        "active": back,
        "previous": None,
        "candidate": _other_than(back, status.candidate),
        "rollout": taken_back(situation, served, situation.revision(status.active), because),
        "promotion": None,
    }
    return Step(status.model_copy(update=update))


def taken_back(
    situation: Situation, rollout: RolloutStatus, revision: ObservedRevision | None, because: Because
) -> RolloutStatus:
    """The rollout's end where its revision failed, with which every approval of it until now is spent."""
    return rollout.model_copy(
        update={
            "decided_generation": revision.generation if revision is not None else None,
            **UNPAUSED,
            "step": RolloutStep.ROLLED_BACK,
            "percent": None,
            "template": None,
            "since": situation.timestamp,
            "reason": because.reason,
            "message": because.message[:1000],
        }
    )


def _other_than(served: RevisionRef, candidate: RevisionRef | None) -> RevisionRef | None:
    """The candidate, unless it is what is served now: nothing is proven against itself."""
    return None if candidate is not None and candidate.revision == served.revision else candidate


def at_step(situation: Situation, step: RolloutStep, because: Because) -> Step | None:
    """The rollout of what is served in another step, which begins now, with the template wanted now."""
    rollout = served_rollout(situation)
    if rollout is None:
        return None
    further = rollout.model_copy(
        update={
            **UNPAUSED,
            "step": step,
            "since": situation.timestamp,
            "template": situation.template_hash,
            "reason": because.reason,
            "message": because.message,
        }
    )
    return Step(situation.status.model_copy(update={"rollout": further, "promotion": None}))


def ref_of(revision: ObservedRevision, situation: Situation) -> RevisionRef:
    """How the agent's status names the revision."""
    return RevisionRef(revision=revision.name, model_id=revision.spec.model_id, since=situation.timestamp)


def nominated(situation: Situation, revision: ObservedRevision) -> EvolvingAgentStatus:
    """The status in which a known revision is the candidate."""
    dataset = revision.spec.dataset
    update = {
        **without_trial(situation.status),
        "candidate": ref_of(revision, situation),
        "evaluation": first_evaluation(situation, revision.name, dataset.version if dataset else None),
    }
    return situation.status.model_copy(update=update)


def without_candidate(status: EvolvingAgentStatus) -> dict[str, object]:
    """What changes where nothing is the candidate any more, and its trial ends without a word."""
    return {"candidate": None, **without_trial(status)}


def without_trial(status: EvolvingAgentStatus) -> dict[str, RolloutStatus | None]:
    """What there is to tell of rollouts when a candidate's trial, if there is one, ends without a word."""
    if status.rollout is None or status.rollout.step not in TRIALS:
        return {}
    return {"rollout": status.promotion, "promotion": None}


def with_rollout_of_candidate(
    situation: Situation, rollout: RolloutStatus
) -> dict[str, RolloutStatus | None]:
    """A candidate's rollout is told of, and that of what is served is kept beside it: it is watched on."""
    return {"rollout": rollout, "promotion": served_rollout(situation)}
