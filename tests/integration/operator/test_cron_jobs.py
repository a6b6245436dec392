"""Scheduled runs and runs on demand, with the CronJob and Job controllers of a real control plane.

Nobody waits for a schedule: a CronJob that is told that its last run was long ago is due at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from evolving_agent.contract.report import CurationReport, DatasetRef, Outcome
from evolving_operator.api import names
from support.cluster import eventually
from support.kubelet import Kubelet
from support.operator_process import Place, StartOperator

pytestmark = pytest.mark.cluster

Raw = dict[str, Any]

CURATE, FINETUNE = "support-curate", "support-finetune"
SPEC: Raw = {
    "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
    "agent": {"instructions": "You route requests."},
    # On leap days only: what runs is what a test makes due.
    "curation": {"schedule": "30 2 29 2 *", "timeZone": "America/New_York"},
    "training": {
        "schedule": "0 3 29 2 *",
        "timeZone": "Asia/Kolkata",
        "backend": {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}},
        "activeDeadlineSeconds": 7200,
    },
}
REPORT = CurationReport(
    run_id="c",
    outcome=Outcome.SUCCEEDED,
    reason="DatasetWritten",
    message="",
    dataset=DatasetRef(version="d1", digest="digest", examples=100, holdout=10),
)


def apply(place: Place, **changes: Any) -> None:
    """The agent, with other parts of its spec; None leaves one out."""
    spec = {key: value for key, value in (SPEC | changes).items() if value is not None}
    metadata = {"name": "support"}
    place.apply(
        {"apiVersion": names.API_VERSION, "kind": names.AGENT_KIND, "metadata": metadata, "spec": spec}
    )


def patch(place: Place, change: Raw) -> None:
    place.kubectl("patch", "evolvingagent/support", "--type=merge", "-p", json.dumps(change))


def ask(place: Place, run: str | None, **spec: Any) -> None:
    """For a run on demand; with parts of the spec, in the same write."""
    patch(place, {"metadata": {"annotations": {names.ANNOTATION_RUN: run}}, "spec": spec})


def cron_jobs(place: Place) -> dict[str, Raw]:
    """The specs, by name."""
    return {raw["metadata"]["name"]: raw["spec"] for raw in place.get("cronjobs")["items"]}


def jobs(place: Place, component: str) -> dict[str, Raw]:
    """Those that are not on their way out, by name."""
    listed = place.get("jobs", "-l", f"{names.LABEL_COMPONENT}={component}")["items"]
    return {raw["metadata"]["name"]: raw for raw in listed if "deletionTimestamp" not in raw["metadata"]}


def status(place: Place) -> Raw:
    found: Raw = place.get("evolvingagent", "support").get("status", {})
    return found


def settle(place: Place) -> None:
    """Until the operator has dealt with the spec as it is now."""

    def is_current() -> bool:
        agent = place.get("evolvingagent", "support")
        return bool(agent.get("status", {}).get("observedGeneration") == agent["metadata"]["generation"])

    eventually(is_current, timeout=30, message="the operator has seen the spec")


def make_due(place: Place, cron_job: str, ago: timedelta = timedelta(minutes=50)) -> None:
    """As if its last run had been so long ago."""
    last = (datetime.now(UTC) - ago).strftime("%Y-%m-%dT%H:%M:%SZ")
    told = json.dumps({"status": {"lastScheduleTime": last}})
    place.kubectl("patch", "cronjob", cron_job, "--subresource=status", "--type=merge", "-p", told)


def scheduled(place: Place, cron_job: str, component: str) -> Raw:
    """The one Job of a CronJob that is due."""
    make_due(place, cron_job)
    eventually(lambda: jobs(place, component), timeout=30, message=f"a Job of {cron_job}")
    ((_, job),) = jobs(place, component).items()
    return job


def hourly(part: str, minutes_ago: int = 20) -> Raw:
    """A block whose last run would have been so long ago: the controller names the Job by that time."""
    minute = (datetime.now(UTC) - timedelta(minutes=minutes_ago)).minute
    return {**SPEC[part], "schedule": f"{minute} * * * *", "timeZone": "UTC"}


def has_time_zone(place: Place, zone: str | None) -> Callable[[], bool]:
    return lambda: cron_jobs(place)[CURATE].get("timeZone") == zone


def test_schedules_time_zones_and_limits_reach_the_cron_jobs(
    place: Place, start_operator: StartOperator
) -> None:
    operator = start_operator()
    apply(place)
    eventually(lambda: set(cron_jobs(place)) == {CURATE, FINETUNE}, timeout=30, message="both CronJobs")

    found = cron_jobs(place)
    for name, schedule, zone, deadline in (
        (CURATE, "30 2 29 2 *", "America/New_York", 4 * 3600),
        (FINETUNE, "0 3 29 2 *", "Asia/Kolkata", 7200),
    ):
        assert (found[name]["schedule"], found[name]["timeZone"]) == (schedule, zone)
        assert found[name]["suspend"] is False
        assert found[name]["concurrencyPolicy"] == "Forbid"
        assert found[name]["successfulJobsHistoryLimit"] == found[name]["failedJobsHistoryLimit"] == 3
        assert found[name]["jobTemplate"]["spec"]["activeDeadlineSeconds"] == deadline
    settle(place)
    # 2:30 in New York in winter, and 3:00 in India, which is half an hour off all others.
    assert status(place)["nextCurationTime"].endswith("-02-29T07:30:00Z")
    assert status(place)["nextTrainingTime"].endswith("-02-28T21:30:00Z")

    apply(place, curation={"schedule": "45 4 29 2 *"})
    eventually(has_time_zone(place, None), timeout=30, message="no time zone any more")
    assert cron_jobs(place)[CURATE]["schedule"] == "45 4 29 2 *"
    settle(place)
    assert status(place)["nextCurationTime"].endswith("-02-29T04:45:00Z")
    assert operator.errors() == []


def test_a_run_is_due_by_the_clock_of_its_time_zone(place: Place, start_operator: StartOperator) -> None:
    start_operator()
    due = datetime.now(ZoneInfo("Asia/Tokyo")) - timedelta(minutes=20)  # in UTC: nine hours off
    apply(
        place,
        curation={"schedule": f"{due.minute} {due.hour} * * *", "timeZone": "Asia/Tokyo"},
        training=None,
    )
    eventually(lambda: CURATE in cron_jobs(place), timeout=30, message="the CronJob")

    job = scheduled(place, CURATE, names.COMPONENT_CURATE)

    when = datetime.fromisoformat(
        job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"]
    )
    assert when == due.replace(second=0, microsecond=0)
    assert when.utcoffset() == timedelta(hours=9)


def test_a_scheduled_run_runs_alone_and_its_report_is_taken_in(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    start_operator()
    apply(place, training=hourly("training"), curation=hourly("curation"))
    eventually(lambda: len(cron_jobs(place)) == 2, timeout=30, message="both CronJobs")

    training = scheduled(place, FINETUNE, names.COMPONENT_FINETUNE)
    assert training["spec"]["activeDeadlineSeconds"] == 7200
    assert training["metadata"]["annotations"][names.ANNOTATION_BASE] == "smollm2"

    curation = scheduled(place, CURATE, names.COMPONENT_CURATE)["metadata"]["name"]
    apply(place, training=hourly("training"), curation=hourly("curation", minutes_ago=10))
    settle(place)
    make_due(place, CURATE)
    eventually(
        lambda: "JobAlreadyActive" in {event["reason"] for event in place.get("events")["items"]},
        timeout=30,
        message="the controller's word that the next run is forbidden while one runs",
    )
    assert set(jobs(place, names.COMPONENT_CURATE)) == {curation}

    kubelet.end_job(curation, REPORT)
    eventually(
        lambda: status(place).get("dataset", {}).get("version") == "d1", timeout=30, message="the dataset"
    )
    eventually(
        lambda: len(jobs(place, names.COMPONENT_CURATE)) == 2, timeout=30, message="then the next run begins"
    )


def test_a_suspended_agent_lets_a_run_end_and_begins_none(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    operator = start_operator()
    apply(place, curation=hourly("curation"))
    eventually(lambda: len(cron_jobs(place)) == 2, timeout=30, message="both CronJobs")
    running = scheduled(place, CURATE, names.COMPONENT_CURATE)["metadata"]

    patch(place, {"spec": {"suspend": True}})
    eventually(
        lambda: all(spec["suspend"] for spec in cron_jobs(place).values()),
        timeout=30,
        message="both CronJobs are suspended",
    )
    ask(place, "finetune:while-suspended")
    eventually(
        lambda: "RunRefused" in {event["reason"] for event in place.get("events")["items"]},
        timeout=30,
        message="an Event that tells why nothing is run",
    )
    settle(place)
    assert "nextCurationTime" not in status(place)
    assert jobs(place, names.COMPONENT_FINETUNE) == {}
    assert jobs(place, names.COMPONENT_CURATE)[running["name"]]["metadata"]["uid"] == running["uid"]
    kubelet.end_job(running["name"], REPORT)
    eventually(
        lambda: status(place).get("dataset", {}).get("version") == "d1",
        timeout=30,
        message="what the run brought",
    )

    patch(place, {"spec": {"suspend": False, "curation": hourly("curation", minutes_ago=10)}})
    eventually(
        lambda: not any(spec["suspend"] for spec in cron_jobs(place).values()),
        timeout=30,
        message="both CronJobs go on",
    )
    make_due(place, CURATE)
    eventually(lambda: len(jobs(place, names.COMPONENT_CURATE)) == 2, timeout=30, message="the next run")
    assert operator.errors() == []


def test_a_nonce_is_run_once_whoever_dies_in_between(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    operator = start_operator()
    apply(place)
    eventually(lambda: len(cron_jobs(place)) == 2, timeout=30, message="both CronJobs")
    first, second = (names.on_demand_job("support", "curate", f"curate:{nonce}") for nonce in (1, 2))

    operator.kill()
    ask(place, "curate:1")
    operator = start_operator()
    eventually(lambda: set(jobs(place, "curate")) == {first}, timeout=30, message="the run asked for")
    uid = jobs(place, "curate")[first]["metadata"]["uid"]
    eventually(lambda: status(place).get("lastRun") == "curate:1", timeout=30, message="it is noted")

    # the same once more, of another process: the Job that there is stays the only one
    operator.kill()
    operator = start_operator()
    ask(place, None, model={"base": "smollm2", "maxOutputTokens": 100})
    settle(place)
    ask(place, "curate:1", model={"base": "smollm2", "maxOutputTokens": 101})
    settle(place)
    assert {name: raw["metadata"]["uid"] for name, raw in jobs(place, "curate").items()} == {first: uid}

    # and not even when the Job is gone: whatever comes next comes after the nonce that was seen again
    kubelet.end_job(first, REPORT)
    eventually(
        lambda: status(place).get("curation", {}).get("state") == "Succeeded", timeout=30, message="its end"
    )
    place.kubectl("delete", "job", first)
    operator.kill()
    operator = start_operator()
    ask(place, "curate:1", model={"base": "smollm2", "maxOutputTokens": 102})
    settle(place)
    ask(place, "curate:2")
    eventually(lambda: second in jobs(place, "curate"), timeout=30, message="the next run asked for")
    assert set(jobs(place, "curate")) == {second}
    assert operator.errors() == []


def test_what_is_no_longer_asked_for_goes_with_its_runs(place: Place, start_operator: StartOperator) -> None:
    operator = start_operator()
    apply(place, curation=hourly("curation"), training=hourly("training"))
    eventually(lambda: len(cron_jobs(place)) == 2, timeout=30, message="both CronJobs")
    scheduled(place, FINETUNE, names.COMPONENT_FINETUNE)
    curation = scheduled(place, CURATE, names.COMPONENT_CURATE)["metadata"]["name"]

    apply(place, curation=hourly("curation"), training=None)
    eventually(lambda: set(cron_jobs(place)) == {CURATE}, timeout=30, message="no training any more")
    eventually(
        lambda: jobs(place, names.COMPONENT_FINETUNE) == {}, timeout=30, message="its run is cancelled"
    )
    assert set(jobs(place, names.COMPONENT_CURATE)) == {curation}

    apply(place, curation=None, training=None)
    eventually(lambda: cron_jobs(place) == {}, timeout=30, message="no schedule at all")
    eventually(lambda: jobs(place, names.COMPONENT_CURATE) == {}, timeout=30, message="no run at all")
    assert operator.errors() == []
