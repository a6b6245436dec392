"""Cron expressions as the CronJob controller reads them and reckons with them.

It takes less than most crons (no `L`, no `#`, Sunday is 0 and not 7) and more than some (`?`), and where the
clock goes forward or back it does as nobody else. What a schedule means is what that controller does
(robfig/cron v3, `ParseStandard`): a CronJob that the API server refuses must be refused here, and the other
way round, and the time that a status tells is the time at which a Job is made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

_SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NUMBER = re.compile(r"\+?[0-9]{1,18}", re.ASCII)
_YEARS = 5  # a schedule that finds no time within so many never comes
_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True)
class _Field:
    name: str
    lowest: int
    highest: int
    names: tuple[str, ...] = ()


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 6, _WEEKDAYS),
)


@dataclass(frozen=True)
class Cron:
    """When to run; weekdays begin with Sunday, which is 0."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    needs_both_days: bool  # of the month and of the week; else either will do

    def next_after(self, now: datetime, zone: tzinfo = UTC) -> datetime | None:
        """The first time strictly after `now`, in UTC; None where there is none within five years."""
        clock = _Clock(zone)
        # Runs are on full minutes, so the next full minute is the first that can be one.
        moment = clock.local(int(now.timestamp()) // _MINUTE * _MINUTE + _MINUTE)
        last_year = clock.local(int(now.timestamp()) + 1).year + _YEARS
        moved = False  # from here on a larger part that is moved need not set the smaller ones back
        while moment.year <= last_year:
            while moment.month not in self.months:
                if not moved:
                    moved, moment = True, clock.at(moment.replace(day=1, hour=0, minute=0))
                moment = clock.at(_month_later(moment))
                if moment.month == 1:
                    break
            if moment.month not in self.months:
                continue
            wrapped = False
            while not wrapped and not self._is_a_day(moment):
                if not moved:
                    moved, moment = True, clock.at(moment.replace(hour=0, minute=0))
                moment = clock.at(moment + timedelta(days=1))
                if moment.hour != 0:  # there is no midnight on the day that summer time begins
                    hours = 24 - moment.hour if moment.hour > 12 else -moment.hour
                    moment = clock.later(moment, hours * _HOUR)
                wrapped = moment.day == 1
            while not wrapped and moment.hour not in self.hours:
                if not moved:
                    moved, moment = True, clock.at(moment.replace(minute=0))
                moment = clock.later(moment, _HOUR)
                wrapped = moment.hour == 0
            while not wrapped and moment.minute not in self.minutes:
                moved, moment = True, clock.later(moment, _MINUTE)
                wrapped = moment.minute == 0
            if not wrapped:
                return moment.astimezone(UTC)
        return None

    def _is_a_day(self, moment: datetime) -> bool:
        in_month, in_week = moment.day in self.days, moment.isoweekday() % 7 in self.weekdays
        return in_month and in_week if self.needs_both_days else in_month or in_week


@lru_cache(maxsize=1024)
def parse_cron(expression: str) -> Cron:
    """Five fields or a shorthand. Raises ValueError, in words for the author of the schedule."""
    parts = _SHORTHANDS.get(expression, expression).split()
    if len(parts) != len(_FIELDS):
        raise ValueError(
            f"{expression!r} has {len(parts)} fields, not five: minute, hour, day of the month, month, day "
            "of the week"
        )
    minutes, hours, days, months, weekdays = (
        _values(part, field) for part, field in zip(parts, _FIELDS, strict=True)
    )
    needs_both_days = _has_star(parts[2]) or _has_star(parts[4])
    return Cron(minutes, hours, days, months, weekdays, needs_both_days)


def _values(part: str, field: _Field) -> frozenset[int]:
    return frozenset(value for term in part.split(",") if term for value in _range(term, field))


def _range(term: str, field: _Field) -> range:
    bounds, *steps = term.split("/")
    first, *last = bounds.split("-")
    if first in ("*", "?"):
        start, end = field.lowest, field.highest
    elif len(last) > 1:
        raise ValueError(f"{term!r} is no range ({field.name})")
    else:
        start = _number(first, field)
        end = _number(last[0], field) if last else field.highest if steps else start
    if len(steps) > 1:
        raise ValueError(f"{term!r} has more than one step ({field.name})")
    step = _step(steps[0], term, field) if steps else 1
    if not field.lowest <= start <= field.highest or not field.lowest <= end <= field.highest:
        told = ", Sunday is 0" if field.names is _WEEKDAYS else ""
        raise ValueError(f"{term!r} is not within {field.lowest} to {field.highest} ({field.name}{told})")
    if start > end:
        raise ValueError(f"{term!r} ends before it begins ({field.name})")
    return range(start, end + 1, step)


def _number(text: str, field: _Field) -> int:
    if text.lower() in field.names:
        return field.names.index(text.lower()) + field.lowest
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no {field.name}")
    return int(text)


def _step(text: str, term: str, field: _Field) -> int:
    if _NUMBER.fullmatch(text) is None or int(text) == 0:
        raise ValueError(f"{term!r} has no step above 0 ({field.name})")
    return int(text)


def _has_star(part: str) -> bool:
    """Whether one of the terms lets every day be one: `*/2` does not."""
    for term in part.split(","):
        bounds, *steps = term.split("/")
        if bounds.split("-")[0] in ("*", "?") and all(int(step) == 1 for step in steps):
            return True
    return False


def _month_later(moment: datetime) -> datetime:
    """The same day of the next month; of a day that it has not, so many days after its first."""
    first = moment.replace(year=moment.year + moment.month // 12, month=moment.month % 12 + 1, day=1)
    return first + timedelta(days=moment.day - 1)


class _Clock:
    """Local times as Go's library makes them, those included that come twice or never."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone

    def local(self, seconds: int) -> datetime:
        """The local time so many seconds after 1970."""
        return datetime.fromtimestamp(seconds, self._zone)

    def later(self, moment: datetime, seconds: int) -> datetime:
        """After so many seconds have passed, whatever the clock shows then."""
        return self.local(int(moment.timestamp()) + seconds)

    def at(self, shown: datetime) -> datetime:
        """When the clock shows this."""
        seconds = int(shown.replace(tzinfo=UTC).timestamp())
        offset = self._offset(seconds)
        if offset:
            offset = self._offset(seconds - offset)
        return self.local(seconds - offset)

    def _offset(self, seconds: int) -> int:
        offset = self.local(seconds).utcoffset()
        return 0 if offset is None else int(offset.total_seconds())
