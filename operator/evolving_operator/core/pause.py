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
    """Since when, what was told last may say: of a time in which the operator was away, or an older one."""
    since = unready_since(situation) or situation.now
    return rollout.updated(paused_at=rfc3339(max(since, parse_time(rollout.since))))


def _gone_on(situation: Situation, rollout: RolloutStatus) -> RolloutStatus:
    pause = max(situation.now - parse_time(rollout.paused_at or rollout.since), timedelta(0))
    seconds = (rollout.paused_seconds or 0) + int(pause.total_seconds())
    return rollout.updated(paused_at=None, paused_seconds=seconds)
