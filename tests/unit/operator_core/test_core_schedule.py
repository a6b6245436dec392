"""When CronJobs run next."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from evolving_operator.core.schedule import next_run, schedule_fault

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
    ],
)
def test_a_fault_names_its_field(schedule: str, zone: str | None, field: str) -> None:
    fault = schedule_fault("spec.training", schedule, zone, NOON)

    assert fault is not None
    assert fault.field == field


def test_a_sound_schedule_has_no_fault() -> None:
    assert schedule_fault("spec.training", "*/5 * * * 1-5", "UTC", NOON) is None
