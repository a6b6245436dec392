"""How a Job's run ended, whether or not it left a report."""

from __future__ import annotations

from dataclasses import dataclass

from evolving_agent.contract.report import Outcome, Report
from evolving_operator.api import names
from evolving_operator.api.models import RunState, RunStatus
from evolving_operator.core.builders.training_settings import changed_settings
from evolving_operator.core.clock import Timers, after, parse_time, rfc3339
from evolving_operator.core.observed import ObservedJob
from evolving_operator.core.situation import Situation

# A Job may be seen to end before its pod's last word is: the two come by different watches.
REPORT_GRACE_SECONDS = 30
REPORT_LOST = "ReportLost"
# A sidecar that sees our container end may end soon after: then the Job ends by itself, or is tried again.
_SIDECAR_GRACE_SECONDS = 600

_STATES = {
    Outcome.SUCCEEDED: RunState.SUCCEEDED,
    Outcome.SKIPPED: RunState.SKIPPED,
    Outcome.FAILED: RunState.FAILED,
}


@dataclass(frozen=True)
class Ending:
    state: RunState
    reason: str
    message: str


def has_ended(situation: Situation, job: ObservedJob) -> bool:
    """Whether the Job is over and can be judged: its report is there, or has had the time to come."""
    if job.finished is None:
        return False
    if job.lingers and not job.succeeded and not has_lingered(situation.timers, job):
        return False
    if job.report is not None or job.report_fault:
        return True
    return situation.timers.passed(after(rfc3339(job.finished), REPORT_GRACE_SECONDS))


def has_lingered(timers: Timers, job: ObservedJob) -> bool:
    """Whether a Job that is over for us is kept from ending for good: by a sidecar that does not end."""
    if job.finished is None or not job.lingers:
        return False
    return timers.passed(after(rfc3339(job.finished), _SIDECAR_GRACE_SECONDS))


def was_taken_in(job: ObservedJob, known: RunStatus | None) -> bool:
    """Whether the latest run that was taken in is this Job's, and not that of an earlier one of its name.

    It may go on, or end once more, where it was taken in while it lingered.
    """
    if known is None or known.job != job.name or known.state is RunState.RUNNING or known.finished is None:
        return False
    since = parse_time(known.since)
    has_ended_itself = since <= parse_time(known.finished)  # what was given up says when in `since` alone
    return has_ended_itself and job.created <= since


def why_superseded(situation: Situation, job: ObservedJob) -> str | None:
    """Why nobody waits any more for what a running Job of curation or training would bring."""
    spec = situation.spec
    if job.finished is not None:
        return None
    if job.component == names.COMPONENT_CURATE and spec.curation is None:
        return "spec.curation was removed"
    if job.component != names.COMPONENT_FINETUNE:
        return None
    if spec.training is None:
        return "spec.training was removed"
    if job.base not in (None, spec.model.base):
        return f"it trains {job.base}, but spec.model.base is now {spec.model.base}"
    return why_of_other_settings(situation, job)


def why_of_other_settings(situation: Situation, job: ObservedJob) -> str | None:
    """In which settings a training, under way or over, is not the one that the spec asks for now."""
    if job.training is None or situation.spec.training is None:
        return None
    if job.training == situation.training_settings:
        return None
    changed = changed_settings(job.training, situation.training_settings)
    return f"what the spec asks for now differs in {', '.join(changed)}" if changed else None


def ending(job: ObservedJob, report: Report | None) -> Ending:
    """Of a finished Job. `report` is the one of the kind that such a Job leaves, if it left one."""
    if report is not None:
        return Ending(_STATES[report.outcome], report.reason, report.message)
    if job.report_fault:
        told = f"Job {job.name} left a report that is none: {job.report_fault}"
        return Ending(RunState.FAILED, "ReportInvalid", told)
    if job.succeeded:
        return Ending(
            RunState.FAILED,
            REPORT_LOST,
            f"Job {job.name} succeeded, but its report is gone with its pod.",
        )
    detail = f": {job.message}" if job.message else "."
    return Ending(RunState.FAILED, job.reason or "JobFailed", f"Job {job.name} failed{detail}")
