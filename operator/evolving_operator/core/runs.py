"""How a Job's run ended, whether or not it left a report."""

from __future__ import annotations

from dataclasses import dataclass

from evolving_agent.contract.report import Outcome, Report
from evolving_operator.api import names
from evolving_operator.api.models import RunState
from evolving_operator.core.builders.training_settings import changed_settings
from evolving_operator.core.clock import after, rfc3339
from evolving_operator.core.observed import ObservedJob
from evolving_operator.core.situation import Situation

# A Job may be seen to end before its pod's last word is: the two come by different watches.
REPORT_GRACE_SECONDS = 30
REPORT_LOST = "ReportLost"

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
    if job.report is not None or job.report_fault:
        return True
    return situation.timers.passed(after(rfc3339(job.finished), REPORT_GRACE_SECONDS))


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
    changed = changed_settings(situation.context, job.training)
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
            f"Job {job.name} succeeded, but its report is gone with its pod. Another run reports it again.",
        )
    detail = f": {job.message}" if job.message else "."
    return Ending(RunState.FAILED, job.reason or "JobFailed", f"Job {job.name} failed{detail}")
