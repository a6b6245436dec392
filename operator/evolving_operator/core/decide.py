"""The decision: what was observed, and the time → what is to be done. Pure: no clock, no API, no chance.

In this order:
1. What the agent's status says about its revisions is written to them (verdicts, states, times). Where
   that is refused, no step is taken.
2. The first of the steps that is due is taken: what it needs is created, then one write of the agent's
   status commits it. Nothing else is done in that plan: the next decision starts from the new status. Only
   a plain step, which would be taken again just so, is committed together with what follows from it.
3. With no step due, children are brought to what the status and the spec ask for, Jobs are created,
   what is no longer kept is deleted, and the status tells how things are.
A decision about a converged agent is an empty plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime

from evolving_operator.api import names
from evolving_operator.api.models import Condition, EvolvingAgentStatus
from evolving_operator.core import health, progress
from evolving_operator.core.adoption import adopt_base
from evolving_operator.core.announcements import Announcement, announcements, drift_corrected, event
from evolving_operator.core.candidate import advance_candidate, end_trial, nominate
from evolving_operator.core.children import (
    config_map_is_current,
    drift_of,
    is_refused,
    kept_claim,
    missing_debt,
    needed_applies,
    undeletable,
    unwanted_children,
    wanted_children,
)
from evolving_operator.core.clock import Timers, rfc3339
from evolving_operator.core.conditions import Finding, merged
from evolving_operator.core.debts import decide_debts, served_by, unwanted_debts
from evolving_operator.core.demand import evaluate_on_demand, run_on_demand, why_refused
from evolving_operator.core.intake import take_in_curation, take_in_training
from evolving_operator.core.lineage import adopted_revisions, collected, missing_base, revision_statuses
from evolving_operator.core.live_traffic import counting
from evolving_operator.core.observed import InvalidField, Observed, ObservedAgent
from evolving_operator.core.pause import follow_pause
from evolving_operator.core.plan import Action, Apply, Create, Plan, WriteStatus
from evolving_operator.core.proof import (
    candidate_revision,
    evaluation,
    evaluation_job,
    recorded_verdict,
    renew_evaluation,
    verdict_status,
    why_unmeasured,
)
from evolving_operator.core.rollout import (
    advance_bake,
    advance_restart,
    follow_clock,
    follow_pin,
    replace_previous,
    watch_promoted,
)
from evolving_operator.core.schedule import next_run
from evolving_operator.core.situation import Situation
from evolving_operator.core.step import Step
from evolving_operator.core.trial import follow_trial
from evolving_operator.core.validation import validation_job

# The first one that is due is taken. A person's word comes before what was learned, a rollout under way
# before the next one.
_STEPS: tuple[Callable[[Situation], Step | None], ...] = (
    adopt_base,
    follow_pin,
    follow_clock,
    follow_pause,
    replace_previous,
    advance_restart,
    advance_bake,
    watch_promoted,
    run_on_demand,  # before its Job is taken in: what an earlier wish has left is told from it by that
    take_in_curation,
    take_in_training,
    evaluate_on_demand,
    nominate,
    end_trial,
    follow_trial,
    renew_evaluation,
    advance_candidate,
)


def decide(observed: Observed, now: datetime) -> Plan:
    """What is to be done about one agent. `now` is an aware datetime."""
    agent = observed.agent
    if agent.deleting:
        return Plan()  # its children go with it, by their owner references
    timers = Timers(now)
    owed = _owed(observed, timers)
    if isinstance(agent.spec, InvalidField):
        kept = () if agent.kept is None else _kept(Situation(observed, agent.kept, now, timers))
        actions = [*kept, *_reject(observed, agent.spec, now), *owed]
        return Plan(tuple(actions), requeue_at=timers.earliest)
    situation = Situation(observed, agent.spec, now, timers)
    actions = [*_actions(situation), *owed]
    asked = counting(situation)
    return Plan(tuple(actions), requeue_at=timers.earliest, counting=asked)


def _owed(observed: Observed, timers: Timers) -> Iterator[Action]:
    """An agent of this name that is gone may have left something to be done. Most have left nothing."""
    if observed.debts:
        living = served_by(observed.agent.uid, observed.revisions.values(), observed.jobs.values())
        yield from decide_debts(observed.debts, observed.jobs, living, observed.refusals, timers)


def _kept(situation: Situation) -> Iterator[Action]:
    """What becomes of the volume, and of what a provider has, counts in a spec with a fault elsewhere too."""
    yield from kept_claim(situation)
    yield from missing_debt(situation)
    refused = undeletable(situation)
    yield from (item for item in unwanted_debts(situation) if item.names not in refused)


def undecided(observed: Observed, error: Exception, now: datetime) -> Plan:
    """What is said where the operator itself has failed at an agent, which is left as it is."""
    return Plan(tuple(_reject(observed, health.operator_error(error), now)))


def _actions(situation: Situation) -> Iterator[Action]:
    records = tuple(revision_statuses(situation))
    unwritten = [record for record in records if is_refused(situation, record.manifest)]
    yield from (record for record in records if record not in unwritten)
    steps = (_possible(situation, due(situation)) for due in _STEPS)
    # What a step leaves behind is in the revisions' statuses alone: none is taken before they are written.
    step = None if unwritten else next((step for step in steps if step is not None), None)
    before = situation.status
    yield from missing_base(situation)
    if step is not None:
        for action in step.before:
            yield replace(action, is_required=True) if isinstance(action, Create) else action
        situation = situation.after(step.status)
        if not step.is_plain:
            # What is to be told of the step goes into the write that commits it.
            yield from _commit(situation, before)
            return
    yield from adopted_revisions(situation)
    children = tuple(wanted_children(situation))
    drift = drift_of(situation, children)
    for apply in needed_applies(situation, children, drift):
        yield from _corrected(situation, apply)
        yield apply
    refused = undeletable(situation)
    yield from (item for item in unwanted_children(situation) if item.names not in refused)
    yield from (item for item in unwanted_debts(situation) if item.names not in refused)
    if config_map_is_current(situation, children, drift):
        # Jobs look their configurations up in it.
        for job in (evaluation_job(situation), validation_job(situation)):
            if job is not None and not is_refused(situation, job):
                yield Create(job)
    yield from (item for item in collected(situation) if item.names not in refused)
    yield from _commit(situation, before)


def _possible(situation: Situation, step: Step | None) -> Step | None:
    """The step, unless the API server has just refused what it needs: it is never committed without that."""
    if step is None:
        return None
    needed = [action.manifest for action in step.before if isinstance(action, Create)]
    return None if any(is_refused(situation, manifest) for manifest in needed) else step


def _corrected(situation: Situation, apply: Apply) -> Iterator[Action]:
    """The Event that tells whom the operator has just overruled."""
    kind, name = apply.manifest["kind"], apply.manifest["metadata"]["name"]
    live = situation.observed.children.get((kind, name))
    if apply.corrects and live is not None:
        told = drift_corrected(kind, name, apply.corrects, live)
        yield event(situation.observed.agent, told, situation.timestamp)


def _commit(situation: Situation, before: EvolvingAgentStatus) -> Iterator[Action]:
    """The status, after the Events that tell how it differs from `before`; nothing where it does not."""
    agent, status = situation.observed.agent, _told(situation)
    if status == before:
        return
    told = announcements(before, status, agent.resource_version)
    for announcement in (*told, *_refused_run(situation, before), *_failed_evaluation(situation, before)):
        yield event(agent, announcement, situation.timestamp)
    yield write_status(agent, status)


def write_status(agent: ObservedAgent, status: EvolvingAgentStatus) -> WriteStatus:
    """Conflicts where the agent is no longer the one that was observed."""
    return WriteStatus(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.AGENT_KIND,
            "metadata": {
                "name": agent.name,
                "namespace": agent.namespace,
                "uid": agent.uid,
                "resourceVersion": agent.resource_version,
            },
            "status": status.to_wire(),
        }
    )


def _told(situation: Situation) -> EvolvingAgentStatus:
    """The status with everything that is not a step: counts, times, conditions."""
    status, spec, agent = situation.status, situation.spec, situation.observed.agent
    deployment, judged = situation.observed.deployment, recorded_verdict(situation)
    degraded = health.degraded(situation)
    findings = {
        "Ready": health.ready(situation),
        "Progressing": health.progressing(situation),
        "Degraded": degraded,
        "DatasetReady": progress.dataset_ready(situation),
        "Trained": progress.trained(situation),
        "Evaluated": progress.evaluated(situation),
        "Promoted": progress.promoted(situation),
        **health.kstatus(situation, degraded),
    }
    curation, training = spec.curation, spec.training
    return status.updated(
        observed_generation=agent.generation,
        replicas=deployment.replicas if deployment else 0,
        ready_replicas=deployment.ready if deployment else 0,
        selector=",".join(
            f"{key}={value}" for key, value in sorted(names.selector_labels(agent.name).items())
        ),
        next_curation_time=_next(situation, curation.schedule, curation.time_zone) if curation else None,
        next_training_time=_next(situation, training.schedule, training.time_zone) if training else None,
        last_verdict=verdict_status(judged.name, judged.status.verdicts) if judged else status.last_verdict,
        conditions=_conditions(agent, findings, situation.timestamp),
    )


def _next(situation: Situation, schedule: str, time_zone: str | None) -> str | None:
    if situation.spec.suspend:
        return None
    try:
        moment = next_run(schedule, time_zone, situation.now)
    except ValueError:
        return None  # Degraded/InvalidSpec tells
    situation.timers.passed(moment)
    return rfc3339(moment)


def _conditions(agent: ObservedAgent, findings: dict[str, Finding], now: str) -> tuple[Condition, ...]:
    return merged(agent.status.conditions, findings, generation=agent.generation, now=now)


def _reject(observed: Observed, fault: InvalidField, now: datetime) -> Iterator[Action]:
    """A spec that cannot be read changes nothing but what goes with the agent (`_kept`), and what is said
    about it: what serves goes on serving. Conditions that only a spec that is read could change speak of
    the one before, and when a schedule comes round is not known."""
    agent, deployment, invalid = observed.agent, observed.deployment, health.unread(fault)
    findings = {
        "Ready": health.ready_unread(deployment, fault),
        "Progressing": health.progressing_unread(deployment, fault),
        "Degraded": invalid,
        "Stalled": invalid,
    }
    known = {item.type: item for item in agent.status.conditions if item.type != "Reconciling"}
    told = {item.type: item for item in _conditions(agent, findings, rfc3339(now))}
    status = agent.status.updated(
        observed_generation=agent.generation,
        replicas=deployment.replicas if deployment else 0,
        ready_replicas=deployment.ready if deployment else 0,
        next_curation_time=None,
        next_training_time=None,
        conditions=tuple((known | told).values()),  # each in its place
    )
    if status == agent.status:
        return
    for announcement in announcements(agent.status, status, agent.resource_version):
        yield event(agent, announcement, rfc3339(now))
    yield write_status(agent, status)


def _refused_run(situation: Situation, before: EvolvingAgentStatus) -> Iterator[Announcement]:
    """A run on demand that was refused is told of: nothing else would show it."""
    run = situation.status.last_run
    if run is None or run == before.last_run or (why := why_refused(situation, run)) is None:
        return
    yield Announcement("RunRefused", f"{names.ANNOTATION_RUN}: {run}. {why}", "Run", (run,), warning=True)


def _failed_evaluation(situation: Situation, before: EvolvingAgentStatus) -> Iterator[Announcement]:
    """An evaluation that measured nothing is told of: the next attempt hides its verdict."""
    current, revision = evaluation(situation), candidate_revision(situation)
    if current is None or revision is None or current.errors == 0 or current == before.evaluation:
        return
    note = f"{revision.name}, attempt {current.attempt}: {why_unmeasured(revision)}"
    yield Announcement("VerdictError", note, "Evaluate", (revision.uid, str(current.attempt)), warning=True)
