"""What finished curation and training runs left behind: a dataset, a revision, or the reason for none.

Each finished run counts once, the oldest first: the status remembers when it ended. An older Job that is
still there, or comes back into sight, is never taken in again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TypeVar

from evolving_agent.contract.report import CurationReport, TrainingReport
from evolving_operator.api import names
from evolving_operator.api.models import (
    DatasetStatus,
    EvolvingAgentStatus,
    RevisionDataset,
    RevisionRef,
    RevisionState,
    RevisionTraining,
    RunState,
    RunStatus,
    TrainingStatus,
)
from evolving_operator.core.approval import is_approved
from evolving_operator.core.builders.job import build_on_demand_job
from evolving_operator.core.builders.revision import build_revision
from evolving_operator.core.children import config_map_is_due, jobs_find_what_is_asked
from evolving_operator.core.clock import parse_time, rfc3339
from evolving_operator.core.moves import without_trial
from evolving_operator.core.observed import ObservedJob, ObservedRevision
from evolving_operator.core.plan import Create
from evolving_operator.core.proof import candidate_revision, first_evaluation
from evolving_operator.core.runs import (
    REPORT_LOST,
    Ending,
    ending,
    has_ended,
    was_taken_in,
    why_of_other_settings,
    why_superseded,
)
from evolving_operator.core.situation import Situation
from evolving_operator.core.step import Step

_AGAIN = "report-of-"
_PATIENCE = timedelta(hours=1)  # with a ConfigMap that is refused, before a lost report is given up
_Run = TypeVar("_Run", bound=RunStatus)


def take_in_curation(situation: Situation) -> Step | None:
    """The next finished curation run's dataset becomes the agent's."""
    status, known = situation.status, situation.status.curation
    if known is not None and (given_up := _given_up(situation, known)) is not None:
        return Step(status.model_copy(update={"curation": given_up}))
    job = _news(situation, names.COMPONENT_CURATE, known)
    if job is None:
        return None
    known = _at_last(situation, known)
    if job.finished is None:
        return Step(status.model_copy(update={"curation": _running(RunStatus, job, known)}))
    report = job.report if isinstance(job.report, CurationReport) else None
    end = ending(job, report)
    noted = status.model_copy(update={"curation": _ended(RunStatus, job, end, known)})
    if report is None or report.dataset is None or end.state is not RunState.SUCCEEDED:
        return _without_result(situation, job, end, noted)
    dataset = DatasetStatus(
        version=report.dataset.version, examples=report.dataset.examples, digest=report.dataset.digest
    )
    return Step(noted.model_copy(update={"dataset": dataset}))


def take_in_training(situation: Situation) -> Step | None:
    """The next finished training run's model becomes a revision, and that the candidate."""
    status, known = situation.status, situation.status.training
    if known is not None and (given_up := _given_up(situation, known)) is not None:
        return Step(status.model_copy(update={"training": given_up}))
    job = _news(situation, names.COMPONENT_FINETUNE, known)
    if job is None:
        return None
    known = _at_last(situation, known)
    trained = {"revision": known.revision if known is not None else None}
    if job.finished is None:
        running = _running(TrainingStatus, job, known).model_copy(update=trained)
        return Step(status.model_copy(update={"training": running}))
    report = job.report if isinstance(job.report, TrainingReport) else None
    end = ending(job, report)
    if report is not None and end.state is RunState.SUCCEEDED:
        end = _useless(situation, job, report) or end
    training = _ended(TrainingStatus, job, end, known).model_copy(update=trained)
    if report is None:
        return _without_result(situation, job, end, status.model_copy(update={"training": training}))
    training = training.model_copy(update={"job_id": report.job_id})
    noted = status.model_copy(update={"training": training})
    return _nominate(situation, job, report, noted) if end.state is RunState.SUCCEEDED else Step(noted)


def _nominate(
    situation: Situation, job: ObservedJob, report: TrainingReport, status: EvolvingAgentStatus
) -> Step:
    """The trained model as a revision; as the candidate too, unless it has been through all this before."""
    base = report.base or situation.spec.model.base
    dataset = report.dataset
    name = names.revision(
        situation.agent,
        base,
        dataset.digest if dataset else "",
        report.backend,
        report.hyperparameters_digest,
    )
    existing, candidate = situation.observed.revisions.get(name), candidate_revision(situation)
    if status.training is not None:
        status = status.model_copy(update={"training": status.training.model_copy(update={"revision": name})})
    if existing is not None and existing.status.state not in (None, RevisionState.WAITING):
        return Step(_known_already(status, existing, report.model_id or ""))
    model_id = report.model_id or ""
    is_served = status.active is not None and status.active.revision == name  # its record was deleted
    has_its_turn = candidate is None or not is_approved(situation, candidate)
    if has_its_turn and not is_served:
        update = {
            **without_trial(status),
            "candidate": RevisionRef(revision=name, model_id=model_id, since=situation.timestamp),
            "evaluation": first_evaluation(situation, name, dataset.version if dataset else None),
        }
        status = status.model_copy(update=update)
    if existing is not None:  # created by a run of this step that was cut short
        return Step(status)
    revision = build_revision(
        situation.context,
        name=name,
        model_id=model_id,
        base=base,
        dataset=RevisionDataset(version=dataset.version, digest=dataset.digest, examples=dataset.examples)
        if dataset
        else None,
        training=RevisionTraining(backend=report.backend, job_id=report.job_id),
        made_for=job.made_for or situation.context.uid,
    )
    return Step(status, before=(Create(revision),))


def _known_already(
    status: EvolvingAgentStatus, existing: ObservedRevision, model_id: str
) -> EvolvingAgentStatus:
    """What was trained once more from the same data in the same way is the known revision, under any name."""
    training, known = status.training, existing.spec.model_id
    if training is None or model_id == known:
        return status
    told = f"{training.message} {existing.name} ({known}) is that already: {model_id} is not used."
    return status.model_copy(update={"training": training.model_copy(update={"message": told})})


def _useless(situation: Situation, job: ObservedJob, report: TrainingReport) -> Ending | None:
    """Why a successful training's model is of no use after all; None where it is of use."""
    if not report.model_id:
        return Ending(RunState.FAILED, "ModelMissing", "The training succeeded but named no model.")
    if report.base not in ("", situation.spec.model.base):
        return Ending(
            RunState.SKIPPED,
            "BaseChanged",
            f"{report.model_id} was trained from {report.base}, but spec.model.base is now "
            f"{situation.spec.model.base}.",
        )
    if (why := why_of_other_settings(situation, job)) is not None:  # it was to be cancelled, and was faster
        told = f"{report.model_id} is not used: {why}."
        return Ending(RunState.SKIPPED, "SettingsChanged", told)
    return None


def _news(situation: Situation, component: str, known: RunStatus | None) -> ObservedJob | None:
    """The run to take note of: the next finished one, or else one that has begun. None: nothing new."""
    jobs = [job for job in situation.observed.jobs.values() if job.component == component]
    finished = [job for job in jobs if is_newer(job, known)]
    if finished:
        first = min(finished, key=lambda job: (job.finished, job.name))
        return first if has_ended(situation, first) else None
    running = [
        job
        for job in jobs
        if job.finished is None
        and not job.deleting
        and not was_taken_in(job, known)
        and why_superseded(situation, job) is None
    ]
    if not running:
        return None
    latest = max(running, key=lambda job: (job.created, job.name))
    is_known = known is not None and known.state is RunState.RUNNING and known.job == latest.name
    return None if is_known else latest


def is_newer(job: ObservedJob, known: RunStatus | None) -> bool:
    """Whether the Job ended later than every run that was taken in."""
    if job.finished is None:
        return False
    if known is None or known.finished is None:
        return True
    if known.state is RunState.RUNNING and known.job == job.name:
        return True  # awaited: whatever the clock says that may have been set back since
    if was_taken_in(job, known):
        return False
    last = parse_time(known.finished)
    if job.finished != last:
        return job.finished > last
    # Within one second the name tells them apart; where `known` did not end then, that one was taken in.
    ended_then = known.state is not RunState.RUNNING and known.since == known.finished
    return ended_then and job.name > known.job


def _given_up(situation: Situation, known: _Run) -> _Run | None:
    """How a run that is known as running ended after all without a word of its own; None while it may."""
    if known.state is not RunState.RUNNING:
        return None
    job = situation.observed.jobs.get(known.job)
    if job is None:
        state, reason = RunState.FAILED, "JobDeleted"
        message = f"Job {known.job} was deleted before it had ended."
    elif (why := why_superseded(situation, job)) is not None:
        state, reason, message = RunState.SKIPPED, "Superseded", f"Job {known.job} is cancelled: {why}."
    else:
        return None
    update = {"state": state, "reason": reason, "message": message, "since": situation.timestamp}
    return known.model_copy(update=update)


def _without_result(
    situation: Situation, job: ObservedJob, end: Ending, noted: EvolvingAgentStatus
) -> Step | None:
    """A run that brought nothing is noted together with the one that says again what it said; None while
    that one would run by what was asked for before. Not for ever: later runs wait as well.
    """
    again = tuple(_reported_again(situation, job, end))
    if not again or jobs_find_what_is_asked(situation):
        return Step(noted, before=again)
    is_soon = job.finished is not None and not situation.timers.passed(job.finished + _PATIENCE)
    return None if is_soon or config_map_is_due(situation) else Step(noted)


def _reported_again(situation: Situation, job: ObservedJob, end: Ending) -> Iterator[Create]:
    """A run that says again what the last one said to nobody. It finds the work done, and repeats none.

    Once: where reports are lost one after the other, somebody has to look why.
    """
    spec = situation.spec
    is_wanted = spec.curation if job.component == names.COMPONENT_CURATE else spec.training
    is_repeated = job.run.startswith(f"{job.component}:{_AGAIN}")
    is_other = why_of_other_settings(situation, job) is not None  # it would find nothing done, and train
    if end.reason != REPORT_LOST or is_repeated or is_other:
        return
    if is_wanted is not None and not spec.suspend:
        run = f"{job.component}:{_AGAIN}{job.name}"
        yield Create(build_on_demand_job(situation.context, job.component, run))


def _at_last(situation: Situation, known: _Run | None) -> _Run | None:
    """The latest run, as ended when its Job did: one that lingered is over later than it was taken in."""
    job = None if known is None else situation.observed.jobs.get(known.job)
    if known is None or known.finished is None or job is None or job.finished is None:
        return known
    if not was_taken_in(job, known) or job.finished <= parse_time(known.finished):
        return known
    return known.model_copy(update={"finished": rfc3339(job.finished)})


def _running(kind: type[_Run], job: ObservedJob, known: RunStatus | None) -> _Run:
    return kind(
        job=job.name,
        state=RunState.RUNNING,
        since=rfc3339(job.created),
        finished=known.finished if known else None,
    )


def _ended(kind: type[_Run], job: ObservedJob, end: Ending, known: RunStatus | None) -> _Run:
    """`finished` never goes back, though clocks do: what was taken in before would be so once more."""
    at = rfc3339(job.finished or job.created)
    last = max(at, known.finished or at, key=parse_time) if known is not None else at
    return kind(
        job=job.name, state=end.state, reason=end.reason, message=end.message, since=at, finished=last
    )
