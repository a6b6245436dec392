"""How the serving pods fare."""

from __future__ import annotations

from datetime import datetime

from evolving_operator.api.models import ConditionStatus, RolloutStatus, RolloutStep
from evolving_operator.core.clock import CLOCKS_DIFFER, after, parse_time, rfc3339
from evolving_operator.core.conditions import condition
from evolving_operator.core.observed import ObservedPod, Trouble
from evolving_operator.core.situation import CRASH_LOOP_RESTARTS, Situation
from evolving_operator.core.step import Because

# Why a rolling restart waits, for as long as it lasts, and its deadline with it.
PODS_REFUSED, NOT_APPLIED = "PodsRefused", "NotApplied"
HELD = frozenset({PODS_REFUSED, NOT_APPLIED})
# Reasons of a rollout that has ended: to no pod at all, and by a person's word.
NO_PODS, PINNED = "ScaledToZero", "Pinned"


def crash_loop(situation: Situation, since: str | None = None) -> Because | None:
    """Why a pod of what is to be served ends again and again: in runs that began later than `since`."""
    for pod in situation.serving_pods:
        if pod.stamp != situation.active_hash or pod.restarts < CRASH_LOOP_RESTARTS:
            continue
        if pod.trouble is None or pod.trouble.is_others:
            continue
        if since is not None and pod.began is not None and pod.began < parse_time(since):
            continue
        if pod.report is not None:
            return Because(pod.report.reason, f"Pod {pod.name} gives up: {pod.report.message}")
        return Because(pod.trouble.reason, f"Pod {pod.name} crashes again and again: {pod.trouble.message}")
    return None


def first_trouble(situation: Situation) -> Trouble | None:
    """What keeps a pod of what is to be served from serving."""
    own = (pod for pod in situation.serving_pods if pod.stamp == situation.active_hash)
    return next((pod.trouble for pod in own if pod.trouble is not None), None)


def pods_refused(situation: Situation) -> str | None:
    """Why the API server takes no new pod, in its words: neither a revision's fault nor mended by another."""
    deployment = situation.observed.deployment
    return None if deployment is None or deployment.stale else deployment.pods_refused


def wanted_pods(situation: Situation) -> int:
    """How many are to serve, by the user's word or an autoscaler's."""
    deployment = situation.observed.deployment
    if deployment is None or not situation.is_autoscaled:
        return situation.spec.agent.replicas
    return deployment.wanted


def nobody_serves(situation: Situation) -> bool:
    """Whether pods are wanted and none is ready."""
    deployment = situation.observed.deployment
    return wanted_pods(situation) > 0 and (deployment is None or deployment.ready == 0)


def somebody_serves(situation: Situation) -> bool:
    """Whether a pod is ready, and is to be there."""
    deployment = situation.observed.deployment
    return wanted_pods(situation) > 0 and deployment is not None and deployment.ready > 0


def never_served(situation: Situation) -> bool:
    """Whether no pod of what is active has ever been ready. A record that comes anew forgets; pods tell."""
    active, deployment = situation.revision(situation.status.active), situation.observed.deployment
    is_served = deployment is not None and deployment.ready > 0
    return active is not None and active.status.promoted_at is None and not is_served


def served_rollout(situation: Situation) -> RolloutStatus | None:
    """How what is served came to its users; None where nothing tells, as of the first base model."""
    active, rollout = situation.status.active, situation.status.promotion or situation.status.rollout
    if active is None or rollout is None or rollout.step is RolloutStep.ROLLED_BACK:
        return None
    return rollout if rollout.revision == active.revision else None


def awaits_pods(situation: Situation) -> bool:
    """Whether what is served was rolled out to no pod at all: it has still to show that it comes up."""
    rollout = served_rollout(situation)
    return rollout is not None and (rollout.step, rollout.reason) == (RolloutStep.DONE, NO_PODS)


def is_awaited(situation: Situation) -> bool:
    """Whether another revision has to wait for the rollout under way.

    Not where it has nothing to go back to and no pod comes up, nor where an autoscaler has scaled it to none:
    it might be waited for for ever.
    """
    status, rollout = situation.status, situation.status.rollout
    if rollout is None or not situation.rollout_under_way or wanted_pods(situation) == 0:
        return False
    return status.previous is not None or not _leads_nowhere(situation, rollout)


def _leads_nowhere(situation: Situation, rollout: RolloutStatus) -> bool:
    if rollout.step is RolloutStep.BAKE:
        return is_dead(situation)
    seconds = situation.spec.rollout.progress_deadline_seconds
    is_late = rollout.reason not in HELD and situation.timers.passed(after(rollout.since, seconds))
    return never_served(situation) or is_late


def is_dead(situation: Situation) -> bool:
    """Whether no pod has been ready for as long as a rolling restart may take, though pods can be created."""
    since, seconds = unready_since(situation), situation.spec.rollout.progress_deadline_seconds
    rollout = situation.status.rollout
    if since is None or not nobody_serves(situation) or pods_refused(situation):
        return False
    if rollout is not None and rollout.step is RolloutStep.BAKE:
        # Where its pods are to be others by now, the hold is not followed any more.
        if rollout.reason in HELD and rollout.template == situation.template_hash:
            return False
        # Nor is a model to blame where its pods, which have all run it, find no node, volume or image by now.
        own = [pod for pod in situation.serving_pods if pod.stamp == situation.active_hash]
        running = [pod for pod in own if not (pod.idle or _finds_no_node(pod))]
        if own and not running:
            return False
        since = max(since, parse_time(rollout.paused_at or rollout.since))  # or since they could be created
        begun = [pod.started for pod in running if pod.started is not None and pod.restarts == 0]
        if begun and len(begun) == len(running):  # or since the first of them has begun
            since = max(since, min(begun))
    return situation.timers.passed(after(rfc3339(since), seconds))


def _finds_no_node(pod: ObservedPod) -> bool:
    return pod.trouble is not None and pod.trouble.reason == "Unschedulable"


def unready_since(situation: Situation) -> datetime | None:
    """Since when no pod has been ready, by what was told last and by the pods; None where one is."""
    ready = condition(situation.status.conditions, "Ready")
    if ready is None or ready.status is not ConditionStatus.FALSE:
        return None
    # One that was never ready has not lost it: it says since when it is there.
    told = [
        pod.unready_since
        for pod in situation.serving_pods
        if pod.unready_since is not None and pod.unready_since > pod.created + CLOCKS_DIFFER
    ]
    return max([parse_time(ready.last_transition_time), *told])
