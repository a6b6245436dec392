"""When CronJobs run next."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evolving_operator.core.clock import parse_time, rfc3339
from evolving_operator.core.schedule import next_run, schedule_fault

DATA = Path(__file__).parents[2] / "data"

NOON = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "zone", "expected"),
    [
        ("0 3 * * *", None, "2026-03-29T03:00:00+00:00"),
        ("0 12 * * *", None, "2026-03-29T12:00:00+00:00"),  # strictly after now
        ("@daily", None, "2026-03-29T00:00:00+00:00"),
        ("@hourly", None, "2026-03-28T13:00:00+00:00"),
        ("30 4 1 jan *", None, "2027-01-01T04:30:00+00:00"),
        ("0 3 * * *", "Asia/Tokyo", "2026-03-28T18:00:00+00:00"),
        ("0 6 * * *", "Europe/Berlin", "2026-03-29T04:00:00+00:00"),  # summer time has begun that night
    ],
)
def test_the_next_run(schedule: str, zone: str | None, expected: str) -> None:
    assert next_run(schedule, zone, NOON).isoformat() == expected


@pytest.mark.parametrize(
    ("schedule", "zone", "field"),
    [
        ("0 0 30 2 *", None, "spec.training.schedule"),
        ("0 25 * * *", None, "spec.training.schedule"),
        ("0 3 * * *", "Europe/Atlantis", "spec.training.timeZone"),
        ("0 3 * * *", "../etc/passwd", "spec.training.timeZone"),
        ("0 3 * * *", "Local", "spec.training.timeZone"),
        ("a time zone b c", None, "spec.training.schedule"),
    ],
)
def test_a_fault_names_its_field(schedule: str, zone: str | None, field: str) -> None:
    fault = schedule_fault("spec.training", schedule, zone, NOON)

    assert fault is not None
    assert fault.field == field


def test_a_sound_schedule_has_no_fault() -> None:
    assert schedule_fault("spec.training", "*/5 * * * 1-5", "UTC", NOON) is None


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("0 3 * * 7", "'7' is not within 0 to 6 (day of the week, Sunday is 0)"),
        ("0 3 L * *", "'L' is no day of the month"),
        ("0 3 * * 5L", "'5L' is no day of the week"),
        ("0 3 * * 1#2", "'1#2' is no day of the week"),
        ("0 3 * * fri-mon", "'fri-mon' ends before it begins (day of the week)"),
        ("*/0 3 * * *", "'*/0' has no step above 0 (minute)"),
    ],
)
def test_what_the_controller_does_not_know_is_a_fault_in_words(schedule: str, words: str) -> None:
    fault = schedule_fault("spec.training", schedule, None, NOON)

    assert fault is not None
    assert fault.message == words


def test_every_schedule_is_read_and_reckoned_with_as_the_controller_does() -> None:
    """What robfig/cron v3.0.1 answered, `next` being a time, "error" or "never"; many near clock changes."""
    asked = [json.loads(line) for line in (DATA / "cron/controller.jsonl").read_text().splitlines()]

    found = [
        (case["schedule"], case["zone"], case["now"], _answer(case["schedule"], case["zone"], case["now"]))
        for case in asked
    ]

    assert len(asked) > 300
    assert found == [(case["schedule"], case["zone"], case["now"], case["next"]) for case in asked]


def _answer(schedule: str, zone: str, now: str) -> str:
    try:
        return rfc3339(next_run(schedule, zone, parse_time(now)))
    except ValueError as error:
        return "never" if "never comes" in str(error) else "error"
