"""The first revision of an agent, a changed base model, and an agent whose status was lost."""

from __future__ import annotations

from evolving_operator.api.models import (
    AgentRevisionStatus,
    EvolvingAgentStatus,
    RevisionRef,
    RevisionState,
    RolloutStatus,
    RolloutStep,
)
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.revision import build_revision
from evolving_operator.core.moves import ref_of, without_candidate
from evolving_operator.core.observed import ObservedRevision
from evolving_operator.core.plan import Create
from evolving_operator.core.proof import first_evaluation
from evolving_operator.core.serving import is_awaited
from evolving_operator.core.situation import STATUS_LOST, Situation
from evolving_operator.core.step import Step


def adopt_base(situation: Situation) -> Step | None:
    """The spec's base model as a revision: served where nothing was, else the candidate."""
    status, name = situation.status, situation.base_revision
    if status.active is not None and status.base == name:
        return None
    before = () if name in situation.observed.revisions else (Create(base_revision_manifest(situation)),)
    ref = RevisionRef(revision=name, model_id=situation.spec.model.base, since=situation.timestamp)
    adopted = status.model_copy(update={"base": name})
    if status.active is None:
        known = _last_known(situation, RevisionState.ACTIVE)
        if known is not None:
            return Step(_restored(situation, known), before)
        return Step(adopted.model_copy(update={"active": ref}), before, is_plain=True)
    if is_awaited(situation):
        return None
    changed = adopted.model_copy(update=without_candidate(status))
    active = situation.revision(status.active)
    if active is None or active.spec.base != situation.spec.model.base:
        nominated = {"candidate": ref, "evaluation": first_evaluation(situation, name, None)}
        changed = changed.model_copy(update=nominated)
    return Step(changed, before)


def base_revision_manifest(situation: Situation) -> Manifest:
    return build_revision(
        situation.context,
        name=situation.base_revision,
        model_id=situation.spec.model.base,
        base=situation.spec.model.base,
        dataset=None,
        training=None,
        made_for=situation.context.uid,
    )


def _restored(situation: Situation, active: ObservedRevision) -> EvolvingAgentStatus:
    """What the revisions tell, for an agent whose own status was lost (restored from a backup).

    One that had not yet held its own is on its way once more, so that it can still go back. Verdicts are
    made anew: nothing tells any more which evaluation counted.
    """
    previous = _last_known(situation, RevisionState.PREVIOUS)
    candidate = _last_known(situation, RevisionState.CANDIDATE)
    base = situation.spec.model.base
    update: dict[str, object] = {
        "active": ref_of(active, situation),
        "previous": ref_of(previous, situation) if previous else None,
    }
    if candidate is not None and candidate.spec.base == base:
        dataset = candidate.spec.dataset
        update["candidate"] = ref_of(candidate, situation)
        update["evaluation"] = first_evaluation(
            situation, candidate.name, dataset.version if dataset else None
        )
    if active.spec.base == base or (candidate is not None and candidate.name == situation.base_revision):
        update["base"] = situation.base_revision  # else it is taken up as any other edit is
    restored = situation.status.model_copy(update=update)
    if previous is None:
        return restored
    rollout = RolloutStatus(
        revision=active.name,
        step=_last_step(situation.after(restored), active.status),
        since=situation.timestamp,
        template=situation.after(restored).template_hash,
        reason=STATUS_LOST,
        message="It was served when the agent lost its status.",
    )
    return restored.model_copy(update={"rollout": rollout})


def _last_step(situation: Situation, status: AgentRevisionStatus) -> RolloutStep:
    """That it has served before tells nothing of its pods now: those that serve say whose they are."""
    if status.proven_at is not None:
        return RolloutStep.DONE
    stamps = {pod.stamp for pod in situation.serving_pods if pod.ready}
    is_served = status.promoted_at is not None and stamps == {situation.active_hash}
    return RolloutStep.BAKE if is_served else RolloutStep.RESTART


def _last_known(situation: Situation, state: RevisionState) -> ObservedRevision | None:
    """The revision that was in that place. What an agent of the same name has left is another one's."""
    revisions = situation.observed.revisions.values()
    return next((item for item in revisions if item.status.state is state and not item.is_left), None)
