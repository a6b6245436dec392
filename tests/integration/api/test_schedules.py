"""A schedule that a CronJob may have is sound, and no other: as the API server itself says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from evolving_operator.core.schedule import schedule_fault
from support.cluster import RunningCluster

pytestmark = pytest.mark.cluster

NOW = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)


def cron_job(schedule: str, time_zone: str | None) -> dict[str, Any]:
    container = {"name": "job", "image": "job:1"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "scheduled"},
        "spec": {
            "schedule": schedule,
            "jobTemplate": {"spec": {"template": template}},
            **({"timeZone": time_zone} if time_zone is not None else {}),
        },
    }


@pytest.mark.parametrize(
    ("schedule", "time_zone"),
    [
        ("@daily", None),
        ("0 3 ? * ?", None),
        ("0 3 * JAN-mar sun", None),
        ("0 3 * * 7", None),
        ("0 3 L * *", None),
        ("0 3 * * 5L", None),
        ("0 3 * * 1#2", None),
        ("0 3 1W * *", None),
        ("0 3 * * fri-mon", None),
        ("*/90 3 * * *", None),
        ("5/10 +3 * * *", None),
        ("*/0 3 * * *", None),
        ("60 3 * * *", None),
        ("0 3 0 * *", None),
        ("0 3 * * *", "Europe/Berlin"),
        ("0 3 * * *", "UTC"),
        ("0 3 * * *", "Local"),
        ("0 3 * * *", "Europe/Atlantis"),
        ("0 3 * * *", "../etc/passwd"),
    ],
)
def test_what_the_api_server_takes_is_sound(
    api: RunningCluster, namespace: str, schedule: str, time_zone: str | None
) -> None:
    fault = schedule_fault("spec.training", schedule, time_zone, NOW)
    manifest = json.dumps(cron_job(schedule, time_zone))

    if fault is None:
        api.kubectl("create", "-n", namespace, "--dry-run=server", "-f", "-", stdin=manifest)
    else:
        with pytest.raises(AssertionError, match=fault.field.rpartition(".")[2]):
            api.kubectl("create", "-n", namespace, "--dry-run=server", "-f", "-", stdin=manifest)
