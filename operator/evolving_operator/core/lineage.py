# ruff: noqa: PLR0911 - an ordered policy returns at the first rule that applies
"""The revisions' own status, derived from the agent's; and which revisions and Jobs are no longer kept."""

from __future__ import annotations

from collections.abc import Iterator

from evolving_agent.contract.learning import OnInconclusive
from evolving_operator.api import names
from evolving_operator.api.models import (
    AgentRevisionStatus,
    Approval,
    Decision,
    RevisionState,
    RolloutStep,
    VerdictResult,
)
from evolving_operator.core.adoption import base_revision_manifest
from evolving_operator.core.approval import decided_generation, is_approved
from evolving_operator.core.builders.base import owner_reference
from evolving_operator.core.builders.job import comparison_digest
from evolving_operator.core.children import is_refused
from evolving_operator.core.conditions import Finding, false, merged, true, unknown
from evolving_operator.core.gate import weakest
from evolving_operator.core.intake import is_newer
from evolving_operator.core.moves import proven_before, was_taken_back
from evolving_operator.core.observed import ObservedJob, ObservedRevision
from evolving_operator.core.plan import Apply, Create, Delete, ObjectRef, WriteStatus
from evolving_operator.core.proof import evaluation, job_name, recorded_verdict, verdict_to_record
from evolving_operator.core.runs import has_lingered, was_taken_in, why_superseded
from evolving_operator.core.serving import NO_PODS, PINNED, wanted_pods
from evolving_operator.core.situation import Situation
from evolving_operator.core.validation import is_outdated

_OPEN = frozenset({None, RevisionState.CANDIDATE, RevisionState.WAITING})
_RULED_OUT = frozenset({RevisionState.REJECTED, RevisionState.ROLLED_BACK})
_AGAINST = frozenset({VerdictResult.FAILED, VerdictResult.INCONCLUSIVE})
_PROVEN = frozenset({RevisionState.ACTIVE, RevisionState.PREVIOUS})
_SERVED = frozenset({RolloutStep.BAKE, RolloutStep.DONE})
_AFTER_BAKE = frozenset({RolloutStep.DONE, RolloutStep.ROLLED_BACK})


def missing_base(situation: Situation) -> Iterator[Create]:
    """The base revision is always there to return to, whoever deleted it."""
    if situation.status.base == situation.base_revision not in situation.observed.revisions:
        base = base_revision_manifest(situation)
        if not is_refused(situation, base):
            yield Create(base)


def adopted_revisions(situation: Situation) -> Iterator[Apply]:
    """Revisions without an owner go with this agent from now on: they are its own by their agentRef."""
    for revision in situation.observed.revisions.values():
        metadata = {
            "name": revision.name,
            "namespace": situation.context.namespace,
            "uid": revision.uid,
            "ownerReferences": [owner_reference(situation.context)],
        }
        owned = {"apiVersion": names.API_VERSION, "kind": names.REVISION_KIND, "metadata": metadata}
        if revision.is_orphan and not is_refused(situation, owned):
            yield Apply(owned)


def revision_statuses(situation: Situation) -> Iterator[WriteStatus]:
    """The revisions' statuses that differ from what follows from the agent's."""
    if situation.status.active is None:
        return  # nothing follows from it: and where it was lost, they alone tell what was served
    for revision in situation.observed.revisions.values():
        wanted = _status_of(situation, revision)
        if wanted is None or wanted == revision.status:
            continue
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": names.REVISION_KIND,
            "metadata": {
                "name": revision.name,
                "namespace": situation.context.namespace,
                "uid": revision.uid,
                "resourceVersion": revision.resource_version,
            },
            "status": wanted.to_wire(),
        }
        yield WriteStatus(manifest)


def _status_of(situation: Situation, revision: ObservedRevision) -> AgentRevisionStatus | None:
    """None for a revision that nothing refers to yet: what created it was cut short, and will come back."""
    status, training = revision.status, situation.status.training
    referred_to = {situation.status.base, training.revision if training is not None else None}
    is_known = status.state is not None or revision.name in referred_to
    if not is_known and _place(situation, revision) is None:
        return None
    update: dict[str, object] = {}
    candidate = situation.status.candidate
    if candidate is not None and candidate.revision == revision.name:
        verdict, current = verdict_to_record(situation), evaluation(situation)
        if verdict is not None and current is not None:
            update |= {
                "verdicts": verdict.suites,
                "result": verdict.result,
                "delta_bps": verdict.weakest.delta_bps,
                "attempt": current.attempt,
                "dataset_version": current.dataset_version,
            }
        if verdict is not None and recorded_verdict(situation) is None:
            active = situation.status.active
            update |= {
                "asked": comparison_digest(situation.context),
                "incumbent": active.revision if active is not None else None,
            }
    if (decided := decided_generation(situation, revision)) != (status.decided_generation or 1):
        update["decided_generation"] = decided
    update |= _times(situation, revision)
    status = status.updated(**update)
    status = status.updated(state=_state(situation, revision, status))
    conditions = merged(
        status.conditions,
        {
            "Evaluated": _evaluated(status),
            "Approved": _approved(situation, revision, status),
            "Active": _active(status),
        },
        generation=revision.generation,
        now=situation.timestamp,
    )
    return status.updated(conditions=conditions)


def _place(situation: Situation, revision: ObservedRevision) -> RevisionState | None:
    """The place that the agent's status gives it."""
    status = situation.status
    for ref, state in (
        (status.active, RevisionState.ACTIVE),
        (status.previous, RevisionState.PREVIOUS),
        (status.candidate, RevisionState.CANDIDATE),
    ):
        if ref is not None and ref.revision == revision.name:
            return state
    return None


def _times(situation: Situation, revision: ObservedRevision) -> dict[str, object]:
    """When it first served all users, when it had held its own, and when it was taken back."""
    rollout, status = situation.status.rollout, revision.status
    if rollout is not None and rollout.revision == revision.name:
        if rollout.step is RolloutStep.ROLLED_BACK and status.rolled_back_at != rollout.since:
            return {
                "rolled_back_at": rollout.since,
                "rollback_reason": f"{rollout.reason}: {rollout.message}",
            }
        if rollout.step is RolloutStep.RESTART:
            return {"proven_at": None}  # it has to show once more that it comes up
        if rollout.step not in _SERVED or rollout.reason == NO_PODS:
            return {}
        if rollout.reason == PINNED and was_taken_back(status):
            # Who looks at it once more says nothing for it, but that it comes up.
            return {"promoted_at": status.promoted_at or status.rolled_back_at}
        if status.promoted_at is None or was_taken_back(status):
            status = status.updated(promoted_at=rollout.since, proven_at=None)
        if rollout.step is RolloutStep.DONE and (status.proven_at or "") < rollout.since:
            status = status.updated(proven_at=rollout.since)
        return {"promoted_at": status.promoted_at, "proven_at": status.proven_at}
    place = _place(situation, revision)
    if was_taken_back(status):
        return {}
    if place in _PROVEN and status.promoted_at is not None and status.proven_at is None:
        return {"proven_at": status.promoted_at}  # by an operator that did not note it
    is_active = place is RevisionState.ACTIVE
    if is_active and status.promoted_at is None and situation.settled and wanted_pods(situation) > 0:
        return {"promoted_at": situation.timestamp, "proven_at": situation.timestamp}
    return {}


def _state(
    situation: Situation, revision: ObservedRevision, status: AgentRevisionStatus
) -> RevisionState | None:
    place = _place(situation, revision)
    if place is not None:
        return place
    rollout = situation.status.rollout
    is_going_back = rollout is not None and (rollout.revision, rollout.step) == (
        revision.name,
        RolloutStep.ROLLED_BACK,
    )
    if is_going_back or was_taken_back(status):
        return RevisionState.ROLLED_BACK
    if revision.status.state not in _OPEN and not _is_reprieved(revision):
        return revision.status.state if revision.status.state in _RULED_OUT else RevisionState.RETIRED
    gives_up = situation.spec.evaluation.on_inconclusive is OnInconclusive.REJECT
    is_judged = revision.status.state is RevisionState.CANDIDATE and (
        status.result is VerdictResult.FAILED or (status.result is VerdictResult.INCONCLUSIVE and gives_up)
    )
    if revision.spec.decision is Decision.REJECTED or is_judged:
        return RevisionState.REJECTED
    return RevisionState.RETIRED if _is_superseded(situation, revision) else RevisionState.WAITING


def _is_reprieved(revision: ObservedRevision) -> bool:
    """Whether a person has taken a rejection back, and no verdict has ruled it out."""
    is_rejected = revision.status.state is RevisionState.REJECTED
    return is_rejected and revision.spec.decision is Decision.AUTO and revision.status.result not in _AGAINST


def _is_superseded(situation: Situation, revision: ObservedRevision) -> bool:
    """Whether its turn never comes.

    A base model's does as long as the spec asks for that one and nothing of it is served; a trained model's
    unless a newer one was trained from the same base.
    """
    if revision.spec.training is None:
        active = situation.revision(situation.status.active)
        bases = {situation.spec.model.base} - ({active.spec.base} if active is not None else set())
        return revision.spec.base not in bases
    age = revision.created, revision.name
    return any(
        (other.created, other.name) > age and other.spec.training is not None
        for other in situation.observed.revisions.values()
        if other.spec.base == revision.spec.base and not other.is_left
    )


def _evaluated(status: AgentRevisionStatus) -> Finding:
    if status.result is None:
        return unknown("NotEvaluated", "It has not been evaluated.")
    suite = weakest(status.verdicts)
    message = f"Suite {suite.suite}: {suite.message}"
    if status.result is VerdictResult.PASSED:
        return true("Passed", message)
    if status.result is VerdictResult.FAILED:
        return false(suite.reason, message)
    return unknown(suite.reason, message)


def _approved(situation: Situation, revision: ObservedRevision, status: AgentRevisionStatus) -> Finding:
    is_acted_upon = revision.generation <= decided_generation(situation, revision)
    if (
        revision.spec.decision is Decision.APPROVED
        and is_acted_upon
        and status.state is not RevisionState.ACTIVE
    ):
        return false(
            "ApprovalSpent",
            "spec.decision is Approved, but what came of that is over. To approve it again, set it to Auto "
            "and then to Approved.",
        )
    base = situation.spec.model.base
    if revision.spec.decision is Decision.APPROVED and revision.spec.base != base and not is_acted_upon:
        return false(
            "OtherBase",
            f"spec.decision is Approved, and counts once spec.model.base is {revision.spec.base}; "
            f"it is {base}. (spec.rollout.pin serves a revision of any base; Auto takes the approval back.)",
        )
    if revision.spec.decision is Decision.APPROVED:
        return true("ApprovedByPerson", "spec.decision is Approved.")
    if revision.spec.decision is Decision.REJECTED:
        return false("RejectedByPerson", f"spec.decision is Rejected{_but(situation, status)}.")
    if status.state is RevisionState.ROLLED_BACK:
        return false("RolledBack", "It was taken back. To promote it again, set spec.decision to Approved.")
    if situation.spec.rollout.approval is Approval.MANUAL and status.state in _OPEN:
        return unknown("AwaitsPerson", "spec.rollout.approval is Manual: set spec.decision.")
    if status.result is VerdictResult.PASSED:
        return true("VerdictPassed", "It passed every suite.")
    if status.result is VerdictResult.FAILED:
        return false("VerdictFailed", "It did not pass every suite.")
    return unknown("NoVerdict", "No verdict speaks for or against it.")


def _but(situation: Situation, status: AgentRevisionStatus) -> str:
    """Why what is rejected is served all the same, where that is for long."""
    active = situation.status.active
    if active is None or status.state is not RevisionState.ACTIVE:
        return ""
    if situation.held:
        return ", but spec.rollout.pin holds it"
    if situation.status.previous is None and proven_before(situation, active) is None:
        return ", but there is nothing to return to: spec.rollout.pin serves another"
    return ""


def _active(status: AgentRevisionStatus) -> Finding:
    if status.state is RevisionState.ACTIVE:
        return true("Active", "It is what the agent serves.")
    if status.state is RevisionState.ROLLED_BACK:
        return false("RolledBack", status.rollback_reason or "It was taken back.")
    return false(str(status.state), "The agent serves another revision.")


def collected(situation: Situation) -> Iterator[Delete]:
    """Revisions above the history limit, oldest first to go, and Jobs whose answer nobody waits for."""
    yield from _collected_revisions(situation)
    yield from _collected_jobs(situation)


def _collected_revisions(situation: Situation) -> Iterator[Delete]:
    status = situation.status
    kept: set[str | None] = {situation.base_revision, situation.spec.rollout.pin}
    kept |= {ref.revision for ref in (status.active, status.previous, status.candidate) if ref is not None}
    if status.rollout is not None:
        kept.add(status.rollout.revision)
    if status.training is not None:
        kept.add(status.training.revision)  # else it would pass for new when its training is reported again
    others = [
        revision
        for revision in situation.observed.revisions.values()
        if revision.name not in kept
        and revision.status.state not in (None, RevisionState.WAITING)
        and not is_approved(situation, revision)
    ]
    others.sort(key=lambda revision: (revision.created, revision.name), reverse=True)
    for revision in others[situation.spec.revision_history_limit :]:
        yield _delete(situation, names.API_VERSION, names.REVISION_KIND, revision.name, revision.uid)


def _collected_jobs(situation: Situation) -> Iterator[Delete]:
    """Jobs that ask about what nobody wants to know any more, and runs that are superseded."""
    for job in situation.observed.jobs.values():
        if not job.deleting and not _is_kept(situation, job):
            yield _delete(situation, "batch/v1", "Job", job.name, job.uid)


def _is_kept(situation: Situation, job: ObservedJob) -> bool:
    status = situation.status
    if job.component == names.COMPONENT_EVALUATE:
        is_latest = status.evaluation is not None and job.name == job_name(status.evaluation)
        is_awaited = evaluation(situation) is not None and recorded_verdict(situation) is None
        return is_latest and (is_awaited or not _goes_on(situation, job))
    if job.component == names.COMPONENT_VALIDATE:
        rollout = status.rollout
        if rollout is None or job.name != names.validate_job(rollout.revision):
            return False
        if rollout.step is RolloutStep.BAKE:
            return not is_outdated(situation, job)
        return rollout.step in _AFTER_BAKE and not _goes_on(situation, job)
    return why_superseded(situation, job) is None and not _is_spent(situation, job)


def _goes_on(situation: Situation, job: ObservedJob) -> bool:
    """Whether its pod runs, be it a sidecar's doing alone."""
    return job.finished is None or has_lingered(situation.timers, job)


def _is_spent(situation: Situation, job: ObservedJob) -> bool:
    """Whether the run was taken in, but its Job goes on: it would keep the next from beginning."""
    status = situation.status
    known = {names.COMPONENT_CURATE: status.curation, names.COMPONENT_FINETUNE: status.training}
    run = known.get(job.component)
    is_noted = was_taken_in(job, run) if job.finished is None else not is_newer(job, run)
    return is_noted and _goes_on(situation, job)


def _delete(situation: Situation, api_version: str, kind: str, name: str, uid: str) -> Delete:
    return Delete(ObjectRef(api_version, kind, situation.context.namespace, name, uid))
