"""Statuses in which another revision is active, or a rollout has come further. Each is one write."""

from __future__ import annotations

from evolving_operator.api.models import EvolvingAgentStatus, RevisionRef, RolloutStatus, RolloutStep
from evolving_operator.core.observed import ObservedRevision
from evolving_operator.core.serving import awaits_pods, never_served
from evolving_operator.core.situation import Situation
from evolving_operator.core.step import Because, Step
from evolving_operator.core.trial import TRIALS


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
        previous = None
    update = {"active": to, "previous": previous, "rollout": rollout}
    then = situation.status.model_copy(update=update)
    rollout = rollout.model_copy(update={"template": situation.after(then).template_hash})
    return then.model_copy(update={"rollout": rollout})


def _proven(situation: Situation) -> RevisionRef | None:
    """What a rollback of the next revision would return to: the last one that has held its own.

    One that is still on its way when it is given up may be what does not come up.
    """
    status, replicas = situation.status, situation.spec.agent.replicas
    never_came_up = replicas > 0 and never_served(situation)
    is_unproven = situation.rollout_under_way or awaits_pods(situation) or never_came_up
    return status.previous if is_unproven else status.active


def roll_back(situation: Situation, because: Because) -> Step | None:
    """Back to the previous revision. The one that failed is not promoted again by itself."""
    status = situation.status
    if status.previous is None or status.rollout is None:
        return None
    rollout = status.rollout.model_copy(
        update={
            "step": RolloutStep.ROLLED_BACK,
            "since": situation.timestamp,
            "template": None,
            "reason": because.reason,
            "message": because.message[:1000],
        }
    )
    back = status.previous.model_copy(update={"since": situation.timestamp})
    return Step(status.model_copy(update={"active": back, "previous": None, "rollout": rollout}))


def at_step(situation: Situation, step: RolloutStep, because: Because) -> Step | None:
    """The rollout in another step, which begins now, with the pod template that is wanted now."""
    rollout = situation.status.rollout
    if rollout is None:
        return None
    further = rollout.model_copy(
        update={
            "step": step,
            "since": situation.timestamp,
            "template": situation.template_hash,
            "reason": because.reason,
            "message": because.message,
        }
    )
    return Step(situation.status.model_copy(update={"rollout": further}))


def ref_of(revision: ObservedRevision, situation: Situation) -> RevisionRef:
    """How the agent's status names the revision."""
    return RevisionRef(revision=revision.name, model_id=revision.spec.model_id, since=situation.timestamp)


def without_trial(status: EvolvingAgentStatus) -> RolloutStatus | None:
    """The rollout, unless it is the trial of a candidate that is being dropped."""
    rollout = status.rollout
    return None if rollout is not None and rollout.step in TRIALS else rollout
