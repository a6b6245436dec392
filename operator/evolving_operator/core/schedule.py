"""When a CronJob runs next, as the CronJob controller reckons."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from evolving_operator.core.observed import InvalidField

# The controller's shorthands, which the library does not know.
_SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def next_run(schedule: str, time_zone: str | None, now: datetime) -> datetime:
    """The first time strictly after `now`, in UTC. Without a zone UTC counts, as in most control planes.

    Raises ValueError, in words for the author of the schedule, where there is none.
    """
    try:
        zone = ZoneInfo(time_zone) if time_zone else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{time_zone!r} is no IANA time zone") from error
    try:
        moment = next(CronSim(_SHORTHANDS.get(schedule, schedule), now.astimezone(zone)))
    except CronSimError as error:
        raise ValueError(f"{schedule!r} never comes: {str(error).lower()}") from error
    except StopIteration as error:
        raise ValueError(f"{schedule!r} never comes") from error
    return moment.astimezone(UTC)


def schedule_fault(field: str, schedule: str, time_zone: str | None, now: datetime) -> InvalidField | None:
    """What no pattern can see in a schedule (30 February, an unknown time zone); None where it is sound."""
    try:
        next_run(schedule, time_zone, now)
    except ValueError as error:
        leaf = "timeZone" if "time zone" in str(error) else "schedule"
        return InvalidField(f"{field}.{leaf}", str(error))
    return None
