"""Agents that are gone, and what their providers still have of them: paid by a Job, then forgotten.

No finalizer holds the agent for this: `kubectl delete` never waits for a provider, nor for an operator.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from evolving_agent.contract.base import digest
from evolving_agent.contract.report import ReleaseReport
from evolving_operator.api import names
from evolving_operator.core.builders.base import Manifest, with_applied_hash
from evolving_operator.core.builders.debt import DEBT_KEY
from evolving_operator.core.clock import Timers, rfc3339
from evolving_operator.core.observed import ObservedDebt, ObservedJob, Refusal
from evolving_operator.core.plan import Action, Apply, Create, Delete, ObjectRef
from evolving_operator.core.runs import REPORT_GRACE_SECONDS

_RETRY = timedelta(hours=1)
_MAX_NOTE = 1000


def decide_debts(
    debts: Iterable[ObservedDebt],
    jobs: Mapping[str, ObservedJob],
    living: str | None,
    refusals: Iterable[Refusal],
    timers: Timers,
) -> Iterator[Action]:
    """What is to be done about what agents of one name owe. `living` is the UID of the one that exists."""
    refused = {refusal.name for refusal in refusals if not refusal.is_due}
    for debt in debts:
        job = names.release_job(debt.agent, debt.agent_uid)
        if debt.agent_uid != living and not debt.deleting and job not in refused:
            yield from _settled(debt, jobs.get(job), timers)


def _settled(debt: ObservedDebt, job: ObservedJob | None, timers: Timers) -> Iterator[Action]:
    if job is None:
        if debt.retry_at is None or timers.passed(debt.retry_at):
            yield Create(_job_of(debt))
        return
    if job.finished is None or job.deleting:
        return
    if job.succeeded:
        # Its report goes with it; the two come by different watches.
        grace = timedelta(seconds=REPORT_GRACE_SECONDS)
        if job.report is None and not timers.passed(job.finished + grace):
            return
        yield _event(debt, job, timers.now)
        yield Delete(ObjectRef("v1", "ConfigMap", debt.namespace, debt.name, debt.uid))
        return
    yield Apply(_postponed(debt, job.finished + _RETRY))
    yield _event(debt, job, timers.now)
    yield Delete(ObjectRef("batch/v1", "Job", debt.namespace, job.name, job.uid))


def _postponed(debt: ObservedDebt, until: datetime) -> Manifest:
    """The debt, with the time before which it is not tried again."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": debt.name,
            "namespace": debt.namespace,
            "labels": names.labels(debt.agent, names.COMPONENT_RELEASE),
            "annotations": {
                names.ANNOTATION_AGENT_UID: debt.agent_uid,
                names.ANNOTATION_RETRY_AT: rfc3339(until),
            },
        },
        "data": {DEBT_KEY: debt.job},
    }


def _job_of(debt: ObservedDebt) -> Manifest:
    """The Job as it was written down. It goes with the debt, however that goes."""
    job = json.loads(debt.job)
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": debt.name, "uid": debt.uid}
    return with_applied_hash(job | {"metadata": job["metadata"] | {"ownerReferences": [owner]}})


def _event(debt: ObservedDebt, job: ObservedJob, now: datetime) -> Create:
    report = job.report if isinstance(job.report, ReleaseReport) else None
    said = (
        f"{report.reason}: {report.message}" if report is not None else f"{job.reason} {job.message}".strip()
    )
    reason, note = "Released", f"The provider has forgotten the deleted agent {debt.agent}. {said}"
    if not job.succeeded:
        reason = "ReleaseFailed"
        note = (
            f"The deleted agent {debt.agent} still has jobs, models or files at its provider. {said}. It is "
            f"tried again in an hour; `kubectl delete configmap {debt.name}` gives it up."
        )
    about = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": debt.name,
        "namespace": debt.namespace,
        "uid": debt.uid,
    }
    return Create(
        {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{debt.name}.{digest([debt.uid, reason, job.uid], 16)}",
                "namespace": debt.namespace,
                "labels": {names.LABEL_AGENT: debt.agent},
            },
            "eventTime": rfc3339(now).replace("Z", ".000000Z"),
            "type": "Normal" if job.succeeded else "Warning",
            "reason": reason,
            "action": "Release",
            "note": note[:_MAX_NOTE],
            "reportingController": names.MANAGED_BY,
            "reportingInstance": names.MANAGED_BY,
            "regarding": about,
        }
    )
