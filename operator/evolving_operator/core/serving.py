"""How the serving pods fare."""

from __future__ import annotations

from evolving_operator.api.models import RolloutStep
from evolving_operator.core.observed import Trouble
from evolving_operator.core.situation import CRASH_LOOP_RESTARTS, Situation
from evolving_operator.core.step import Because

NO_PODS = "ScaledToZero"  # the reason of a rollout to no pod at all


def crash_loop(situation: Situation) -> Because | None:
    """Why a pod of what is to be served ends again and again."""
    for pod in situation.serving_pods:
        if pod.stamp != situation.active_hash or pod.restarts < CRASH_LOOP_RESTARTS or pod.trouble is None:
            continue
        if pod.report is not None:
            return Because(pod.report.reason, f"Pod {pod.name} gives up: {pod.report.message}")
        return Because(pod.trouble.reason, f"Pod {pod.name} crashes again and again: {pod.trouble.message}")
    return None


def first_trouble(situation: Situation) -> Trouble | None:
    """What keeps a pod from serving; one of what is to be served first."""
    return next((pod.trouble for pod in situation.serving_pods if pod.trouble is not None), None)


def never_served(situation: Situation) -> bool:
    """Whether no pod of what is active has ever been ready. A record that comes anew forgets; pods tell."""
    active, deployment = situation.revision(situation.status.active), situation.observed.deployment
    is_served = deployment is not None and deployment.ready > 0
    return active is not None and active.status.promoted_at is None and not is_served


def awaits_pods(situation: Situation) -> bool:
    """Whether what is served was rolled out to no pod at all: it has still to show that it comes up."""
    rollout, active = situation.status.rollout, situation.status.active
    return (
        rollout is not None
        and active is not None
        and (rollout.step, rollout.reason) == (RolloutStep.DONE, NO_PODS)
        and rollout.revision == active.revision
    )
