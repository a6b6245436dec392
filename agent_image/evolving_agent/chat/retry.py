"""Whether a model endpoint is asked again, and after how long."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 8.0


def pause_before_retry(failures: int, retry_after: float | None, deadline: float | None) -> float | None:
    """Seconds to wait after so many failures in a row; None where the deadline leaves no time to.

    What the server asks for (`retry_after`) is waited at least. Else exponential backoff; half of it is
    jitter, so that requests that were refused together do not come back together. `deadline` is a time of
    `time.monotonic()`.
    """
    backoff = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** (failures - 1))
    jitter = random.random()  # noqa: S311 (spreads load, hides nothing)
    if retry_after is not None:
        pause = retry_after + jitter * min(retry_after, FIRST_PAUSE_SECONDS) / 2
    else:
        pause = backoff * (1 + jitter) / 2
    if deadline is not None and time.monotonic() + pause >= deadline:
        return None
    return pause


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """What a refusal says about when to come back: milliseconds, seconds or a date; None for nothing."""
    if (millis := _number(headers.get("retry-after-ms"))) is not None:
        return millis / 1000
    said = headers.get("retry-after")
    if (seconds := _number(said)) is not None:
        return seconds
    try:
        at = parsedate_to_datetime(said or "")
    except ValueError:
        return None
    aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def _number(text: str | None) -> float | None:
    """A number of at least 0; None for anything else."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
