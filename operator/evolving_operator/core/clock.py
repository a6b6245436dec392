"""Times as Kubernetes writes them, and the earliest time at which an agent needs another look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def rfc3339(moment: datetime) -> str:
    """UTC, whole seconds: `2026-01-31T12:00:00Z`. Expects an aware datetime."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").removesuffix("+00:00") + "Z"


def parse_time(text: str) -> datetime:
    """The aware datetime of an RFC 3339 text, with or without fractions. Raises ValueError."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def after(text: str, seconds: float) -> datetime:
    """The moment `seconds` after an RFC 3339 time."""
    return parse_time(text) + timedelta(seconds=seconds)


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
