"""Runs on demand: the annotation `evolvingagents.io/run: curate|finetune|evaluate[:<nonce>]`."""

from __future__ import annotations

from evolving_operator.api import names
from evolving_operator.api.models import EvolvingAgentStatus
from evolving_operator.core.approval import is_approved
from evolving_operator.core.builders.job import build_on_demand_job
from evolving_operator.core.children import jobs_find_what_is_asked
from evolving_operator.core.intake import is_newer
from evolving_operator.core.plan import Create
from evolving_operator.core.proof import candidate_revision, evaluation, next_attempt
from evolving_operator.core.situation import Situation
from evolving_operator.core.step import Step

_JOBS = frozenset({names.COMPONENT_CURATE, names.COMPONENT_FINETUNE})
_VERBS = _JOBS | {names.COMPONENT_EVALUATE}


def run_on_demand(situation: Situation) -> Step | None:
    """Act once upon each value of the annotation; a run of the same kind under way is waited for, and so is
    the ConfigMap that the Job looks its settings up in.
    """
    run = _wish(situation)
    verb = run.partition(":")[0]
    if not run or verb == names.COMPONENT_EVALUATE:
        return None
    noted = situation.status.model_copy(update={"last_run": run})
    return Step(noted) if why_refused(situation, run) is not None else _run_job(situation, verb, run, noted)


def evaluate_on_demand(situation: Situation) -> Step | None:
    """The same, of a candidate that has been taken in."""
    run = _wish(situation)
    if run.partition(":")[0] != names.COMPONENT_EVALUATE:
        return None
    noted = situation.status.model_copy(update={"last_run": run})
    if why_refused(situation, run) is not None:
        return Step(noted)
    current = evaluation(situation)
    if current is None:
        return Step(noted)
    return Step(noted.model_copy(update={"evaluation": next_attempt(current)}))


def _wish(situation: Situation) -> str:
    """What is asked for and was not acted upon yet; "" for nothing."""
    run = situation.observed.agent.run or ""
    return "" if run == situation.status.last_run else run


def _run_job(situation: Situation, verb: str, run: str, noted: EvolvingAgentStatus) -> Step | None:
    name = names.on_demand_job(situation.agent, verb, run)
    own = situation.observed.jobs.get(name)
    if own is not None:
        return None if own.deleting else Step(noted)
    if _is_running(situation, verb) or name in situation.observed.left:
        return None
    if not jobs_find_what_is_asked(situation):
        return None  # it would run by what was asked for before
    return Step(noted, before=(Create(build_on_demand_job(situation.context, verb, run)),))


def why_refused(situation: Situation, run: str) -> str | None:
    """Why nothing is run, in words for the person who asked; None where it is run."""
    verb = run.partition(":")[0]
    if verb not in _VERBS:
        return f"{verb!r} is nothing that can be run: choose one of {', '.join(sorted(_VERBS))}."
    if situation.spec.suspend:
        return "The agent is suspended (spec.suspend): nothing is learned until it is resumed."
    if verb == names.COMPONENT_CURATE and situation.spec.curation is None:
        return "The agent has no spec.curation: there is nothing to curate by."
    if verb == names.COMPONENT_FINETUNE and situation.spec.training is None:
        return "The agent has no spec.training: there is nothing to train with."
    if verb in _JOBS:
        return _why_not_again(situation, verb, run)
    return _why_not_evaluated(situation)


def _why_not_again(situation: Situation, verb: str, run: str) -> str | None:
    """A Job that nobody has taken note of is of this wish: it was cut short before the wish was noted."""
    name = names.on_demand_job(situation.agent, verb, run)
    job, status = situation.observed.jobs.get(name), situation.status
    known = status.curation if verb == names.COMPONENT_CURATE else status.training
    if job is None or job.finished is None or job.deleting:
        return None
    is_noted = known is not None and known.job == name
    if is_newer(job, known) and not is_noted:
        return None
    return f"Job {name} has run for it, and is still there: another run has another number ({verb}:2)."


def _why_not_evaluated(situation: Situation) -> str | None:
    revision = candidate_revision(situation)
    if revision is None or evaluation(situation) is None:
        return "There is no candidate to evaluate."
    if is_approved(situation, revision):
        return f"{revision.name} was approved by a person, and needs no evaluation."
    return None


def _is_running(situation: Situation, component: str) -> bool:
    """One that lingers is about to be deleted: no other begins before it is gone."""
    jobs = situation.observed.jobs.values()
    return any(job.component == component and (job.finished is None or job.lingers) for job in jobs)
