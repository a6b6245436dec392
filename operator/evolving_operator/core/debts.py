"""Agents that are gone, and what their providers still have of them: paid by a Job, then forgotten.

No finalizer holds the agent for this: `kubectl delete` never waits for a provider, nor for an operator.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Set
from datetime import datetime, timedelta

from evolving_agent.contract import env
from evolving_agent.contract.base import digest
from evolving_agent.contract.learning import BackendType
from evolving_agent.contract.report import ReleaseReport
from evolving_operator.api import names
from evolving_operator.api.models import DeletionPolicy
from evolving_operator.core.announcements import note_of
from evolving_operator.core.builders.base import Manifest, with_applied_hash
from evolving_operator.core.builders.debt import DEBT_KEY, proxies, release_job, taken_from
from evolving_operator.core.clock import Timers, rfc3339
from evolving_operator.core.observed import ObservedDebt, ObservedJob, ObservedRevision, Refusal
from evolving_operator.core.plan import Action, Apply, Create, Delete, ObjectRef
from evolving_operator.core.runs import REPORT_GRACE_SECONDS, has_lingered
from evolving_operator.core.situation import Situation

_RETRY = timedelta(hours=1)
_REFUSED_AT_ONCE = 3  # so many times a release is tried, seconds apart, before it is told and put off
_VARIABLES = frozenset({env.RUN_ID, env.API_KEY})  # of the Job, beside whose it is and where it asks


def served_by(
    living: str, revisions: Iterable[ObservedRevision], jobs: Iterable[ObservedJob]
) -> frozenset[str | None]:
    """UIDs of the agents whose models at a provider the living one uses: its own, and those of whoever its
    revisions were made for, and its trainings train for. `--cascade=orphan` and backups leave both to another
    agent of the name.

    None among them is one that nobody knows: it may be any.
    """
    trained = (
        revision
        for revision in revisions
        if not revision.is_left
        and revision.spec.training is not None
        and revision.spec.training.backend == BackendType.OPENAI
    )
    training = (job for job in jobs if job.component == names.COMPONENT_FINETUNE and job.made_for)
    return frozenset({living, *(item.made_for for item in trained), *(job.made_for for job in training)})


def unwanted_debts(situation: Situation) -> Iterator[Delete]:
    """Under `deletionPolicy: Retain` nothing is to be forgotten that the agent uses."""
    observed = situation.observed
    if situation.spec.deletion_policy is not DeletionPolicy.RETAIN or not observed.debts:
        return
    kept = served_by(observed.agent.uid, observed.revisions.values(), observed.jobs.values())
    for debt in observed.debts:
        if not debt.deleting and _is_owed_by(debt, kept):
            yield Delete(ObjectRef("v1", "ConfigMap", debt.namespace, debt.name, debt.uid))


def _is_owed_by(debt: ObservedDebt, uids: Set[str | None]) -> bool:
    return any(uid is None or debt.is_of(uid) for uid in uids)


def decide_debts(
    debts: Iterable[ObservedDebt],
    jobs: Mapping[str, ObservedJob],
    living: Set[str | None],
    refusals: Iterable[Refusal],
    timers: Timers,
) -> Iterator[Action]:
    """What is to be done about what agents of one name owe. `living`: of those nothing is due (`served_by`);
    what has begun to release for one, since it was thought to be gone, is stopped.
    """
    refused = {refusal.name: refusal for refusal in refusals}
    for debt in debts:
        is_living = _is_owed_by(debt, living)
        is_untouchable = debt.name in refused and not refused[debt.name].is_due
        if is_living:
            yield from _called_off(debt, jobs.values(), refused)
        if is_living or debt.deleting or is_untouchable:
            continue
        is_waiting = debt.retry_at is not None and not timers.passed(debt.retry_at)
        try:
            wanted = _job_of(debt)
        except ValueError as error:
            if not is_waiting:
                said = f"What the deleted agent {debt.agent} owes its provider cannot be read: {error}"
                yield from _put_off(debt, said, timers.now)
            continue
        name = wanted["metadata"]["name"]
        if name in jobs:
            yield from _settled(debt, jobs[name], timers)
        elif is_waiting:
            continue
        elif name in refused and refused[name].count < _REFUSED_AT_ONCE:
            if refused[name].is_due:  # a quota, a webhook: it may be over in a moment
                yield Create(wanted)
        elif name in refused:
            yield from _put_off(debt, f"{_still_there(debt)}: {refused[name].message}", timers.now)
        else:
            yield Create(wanted)


def _called_off(
    debt: ObservedDebt, jobs: Iterable[ObservedJob], refused: Mapping[str, Refusal]
) -> Iterator[Action]:
    for job in jobs:
        is_the_debts = job.component == names.COMPONENT_RELEASE and debt.uid in job.owners
        is_untouchable = job.name in refused and not refused[job.name].is_due
        if is_the_debts and not job.deleting and not is_untouchable:
            yield Delete(ObjectRef("batch/v1", "Job", debt.namespace, job.name, job.uid))


def _settled(debt: ObservedDebt, job: ObservedJob, timers: Timers) -> Iterator[Action]:
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
    if job.lingers and not has_lingered(timers, job):
        return
    yield Apply(_postponed(debt, job.finished + _RETRY), is_required=True)  # the Job is its pause till then
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
            "uid": debt.uid,  # one that somebody has given up meanwhile is not made anew
            "labels": names.kept_labels(debt.agent, names.COMPONENT_RELEASE),
            "annotations": {
                names.ANNOTATION_AGENT_UID: debt.agent_uid,
                names.ANNOTATION_RETRY_AT: rfc3339(until),
            },
        },
        "data": {DEBT_KEY: debt.job},
    }


def _job_of(debt: ObservedDebt) -> Manifest:
    """The Job as it was written down. It goes with the debt, however that goes.

    Whoever may write ConfigMaps can write a debt, and the operator may create more, and elsewhere, than
    they: so nothing is taken from it but what a release consists of, and it runs where the debt lies.
    Raises ValueError where it holds no such Job.
    """
    try:
        job = json.loads(debt.job)
        written = job["spec"]["template"]["spec"]
        [container] = written["containers"]
        image = str(container["image"])
        [endpoint] = (item["value"] for item in container["env"] if item["name"] == env.RELEASE_ENDPOINT)
        variables = [item for item in container["env"] if item["name"] in _VARIABLES] + proxies(container)
        added = taken_from(written)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{DEBT_KEY} holds no Job of a release ({error!r})") from error
    if debt.name != names.provider_debt(debt.agent, debt.agent_uid, endpoint):
        told = f"{names.ANNOTATION_AGENT_UID} and the endpoint"
        raise ValueError(f"{told} are not those of the agent that it was written for")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": debt.name, "uid": debt.uid}
    manifest = release_job(
        debt.agent,
        debt.agent_uid,
        debt.namespace,
        endpoint,
        image=image,
        variables=variables,
        added=added,
    )
    return with_applied_hash(manifest | {"metadata": manifest["metadata"] | {"ownerReferences": [owner]}})


def _put_off(debt: ObservedDebt, said: str, now: datetime) -> Iterator[Action]:
    """There is no Job, nor can there be one now: it waits as long as a release that failed."""
    yield Apply(_postponed(debt, now + _RETRY), is_required=True)  # else it would be told again and again
    yield _told(debt, "ReleaseFailed", f"{said}. {_later(debt)}", now, rfc3339(now), warning=True)


def _still_there(debt: ObservedDebt) -> str:
    return f"The deleted agent {debt.agent} still has jobs, models or files at its provider"


def _later(debt: ObservedDebt) -> str:
    return f"It is tried again in an hour; `kubectl delete configmap {debt.name}` gives it up."


def _event(debt: ObservedDebt, job: ObservedJob, now: datetime) -> Create:
    report = job.report if isinstance(job.report, ReleaseReport) else None
    said = (
        f"{report.reason}: {report.message}" if report is not None else f"{job.reason} {job.message}".strip()
    )
    reason, note = "Released", f"The provider has forgotten the deleted agent {debt.agent}. {said}"
    if not job.succeeded:
        reason = "ReleaseFailed"
        note = f"{_still_there(debt)}. {said}. {_later(debt)}"
    return _told(debt, reason, note, now, job.uid, warning=not job.succeeded)


def _told(debt: ObservedDebt, reason: str, note: str, now: datetime, key: str, *, warning: bool) -> Create:
    """The Event about the debt; `key` tells it from others of the same reason."""
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
                "name": f"{debt.name}.{digest([debt.uid, reason, key], 16)}",
                "namespace": debt.namespace,
                "labels": {names.LABEL_AGENT: debt.agent},
            },
            "eventTime": rfc3339(now).replace("Z", ".000000Z"),
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "action": "Release",
            "note": note_of(note),
            "reportingController": names.MANAGED_BY,
            "reportingInstance": names.MANAGED_BY,
            "regarding": about,
        }
    )
