"""When a model endpoint is asked again: what it asks for, backoff with jitter, and the caller's deadline."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolving_agent.chat.retry import MAX_PAUSE_SECONDS, pause_before_retry, retry_after_seconds


@given(st.integers(1, 50))
def test_pauses_grow_to_a_bound_and_half_of_each_is_jitter(failures: int) -> None:
    backoff = min(MAX_PAUSE_SECONDS, 0.5 * 2 ** (failures - 1))

    pause = pause_before_retry(failures, None, None)

    assert pause is not None
    assert backoff / 2 <= pause <= backoff


@given(st.integers(1, 50), st.floats(0, 3600))
def test_what_the_server_asks_for_is_waited_at_least(failures: int, asked: float) -> None:
    pause = pause_before_retry(failures, asked, None)

    assert pause is not None
    assert asked <= pause <= asked + 0.25


def test_a_pause_beyond_the_deadline_is_none() -> None:
    soon = time.monotonic() + 10

    assert pause_before_retry(1, 60.0, soon) is None
    assert pause_before_retry(1, 1.0, soon) is not None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "7", "retry-after-ms": "20"}, 0.02),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
    ],
)
def test_what_a_refusal_says(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers) == seconds


def test_a_date_is_the_time_until_then() -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(minutes=2), usegmt=True)

    assert retry_after_seconds({"retry-after": then}) == pytest.approx(120, abs=30)
