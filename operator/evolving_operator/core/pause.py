"""A step whose time is a time of serving: a trial's, or a bake's. It stands still while no pod serves."""

from __future__ import annotations

from datetime import datetime, timedelta

from evolving_operator.api.models import RolloutStatus, RolloutStep
from evolving_operator.core.clock import after, parse_time, rfc3339
from evolving_operator.core.serving import somebody_serves, unready_since
from evolving_operator.core.situation import TRIALS, Situation
from evolving_operator.core.step import Step

_TIMED = TRIALS | {RolloutStep.BAKE}
# What has begun anew has not stood still.
UNPAUSED: dict[str, None] = {"paused_at": None, "paused_seconds": None}


def is_starting(rollout: RolloutStatus) -> bool:
    """Whether pods have still to be told of the trial: its time has not begun."""
    return rollout.step in TRIALS and rollout.reason == f"{rollout.step}Starting"


def served_until(rollout: RolloutStatus, seconds: float) -> datetime:
    """When the step will have had so much time, if pods serve until then."""
    return after(rollout.since, seconds + (rollout.paused_seconds or 0))


def follow_pause(situation: Situation) -> Step | None:
    """Note when the last pod ceases to serve, and when the first one serves again."""
    rollout = situation.status.rollout
    if rollout is None or rollout.step not in _TIMED or is_starting(rollout):
        return None
    serves = somebody_serves(situation)
    if serves == (rollout.paused_at is None):
        return None
    followed = _gone_on(situation, rollout) if serves else _paused(situation, rollout)
    return Step(situation.status.model_copy(update={"rollout": followed}))


def _paused(situation: Situation, rollout: RolloutStatus) -> RolloutStatus:
    """Since when, what was told last may say, or the pods: the operator was away, or is a newer one."""
    since = min(unready_since(situation) or _lost_at(situation) or situation.now, situation.now)
    return rollout.updated(paused_at=rfc3339(max(since, parse_time(rollout.since))))


def _lost_at(situation: Situation) -> datetime | None:
    """When the last of the pods ceased to be ready, if all of them have been."""
    pods = situation.serving_pods
    told = [
        pod.unready_since for pod in pods if pod.unready_since is not None and pod.unready_since > pod.created
    ]
    return max(told) if pods and len(told) == len(pods) else None


def paused_anew(situation: Situation, rollout: RolloutStatus) -> RolloutStatus:
    """The same, but where it stands still, that counts from now on: what has been of it is noted."""
    if rollout.paused_at is None:
        return rollout
    return _gone_on(situation, rollout).updated(paused_at=situation.timestamp)


def _gone_on(situation: Situation, rollout: RolloutStatus) -> RolloutStatus:
    pause = max(situation.now - parse_time(rollout.paused_at or rollout.since), timedelta(0))
    seconds = (rollout.paused_seconds or 0) + int(pause.total_seconds())
    return rollout.updated(paused_at=None, paused_seconds=seconds)
