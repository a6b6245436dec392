"""When a CronJob runs next, as the CronJob controller reckons."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from evolving_operator.core.cron import parse_cron
from evolving_operator.core.observed import InvalidField


def next_run(schedule: str, time_zone: str | None, now: datetime) -> datetime:
    """The first time strictly after `now`, in UTC. Without a zone UTC counts, as in most control planes.

    Raises ValueError, in words for the author of the schedule, where there is none.
    """
    # The same for all of a minute, and asked for several times at each look at an agent.
    moment = _next_run(schedule, time_zone, now.astimezone(UTC).replace(second=0, microsecond=0))
    if moment is None:
        raise ValueError(f"{schedule!r} never comes")
    return moment


@lru_cache(maxsize=4096)
def _next_run(schedule: str, time_zone: str | None, minute: datetime) -> datetime | None:
    return parse_cron(schedule).next_after(minute, _zone(time_zone))


def _zone(name: str | None) -> tzinfo:
    """Raises ValueError where there is no such zone."""
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no IANA time zone") from error


def schedule_fault(field: str, schedule: str, time_zone: str | None, now: datetime) -> InvalidField | None:
    """What no pattern can see in a schedule (30 February, an unknown time zone); None where it is sound."""
    try:
        _zone(time_zone)
    except ValueError as error:
        return InvalidField(f"{field}.timeZone", str(error))
    try:
        next_run(schedule, time_zone, now)
    except ValueError as error:
        return InvalidField(f"{field}.schedule", str(error))
    return None
