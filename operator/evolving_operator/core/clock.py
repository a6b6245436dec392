"""Times as Kubernetes writes them, and the earliest time at which an agent needs another look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

# By so much the clocks of the API server and of the operator's node may differ.
CLOCKS_DIFFER = timedelta(seconds=60)


def rfc3339(moment: datetime) -> str:
    """UTC, whole seconds: `2026-01-31T12:00:00Z`. Expects an aware datetime."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").removesuffix("+00:00") + "Z"


_LONG_AGO = datetime.fromtimestamp(0, UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)


def parse_time(text: str) -> datetime:
    """The aware datetime of an RFC 3339 text, with or without fractions.

    Whoever writes to a status or an annotation can write what is no time there, or none that Python knows,
    as of the year 0: that was long ago.
    """
    try:
        moment = datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
    except ValueError:
        return _LONG_AGO
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def after(text: str, seconds: float) -> datetime:
    """The moment `seconds` after an RFC 3339 time."""
    try:
        return parse_time(text) + timedelta(seconds=seconds)
    except OverflowError:
        return _NEVER


class Timers:
    """Collects, within one decision, the times to look again; only the earliest one matters."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.earliest: datetime | None = None

    def passed(self, moment: datetime) -> bool:
        """Whether the moment has come; if not, the agent is looked at again when it does."""
        if moment <= self.now:
            return True
        if self.earliest is None or moment < self.earliest:
            self.earliest = moment
        return False
