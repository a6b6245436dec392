"""Events: one for each transition, told from the difference of two statuses, named by what happened.

The name is a digest of the transition, so that a decision that is taken twice announces it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evolving_agent.contract.base import digest
from evolving_operator.api import names
from evolving_operator.api.models import (
    Condition,
    ConditionStatus,
    EvolvingAgentStatus,
    RevisionRef,
    RolloutStatus,
    RolloutStep,
    RunState,
)
from evolving_operator.core.conditions import NOBODY_SERVES, condition
from evolving_operator.core.observed import Child, ObservedAgent
from evolving_operator.core.plan import Create, Manifest
from evolving_operator.core.situation import STATUS_LOST, TRIALS

_MAX_NOTE = 1000  # bytes: the API server takes 1024
_MAX_FIELDS = 5


@dataclass(frozen=True)
class Announcement:
    """`key` tells this transition from every other one of the same agent."""

    reason: str
    note: str
    action: str
    key: tuple[str, ...]
    warning: bool = False


def announcements(
    before: EvolvingAgentStatus, after: EvolvingAgentStatus, version: str
) -> Iterator[Announcement]:
    """What changed, in words for a person who reads `kubectl describe`.

    Of some transitions no time is kept. What tells them apart is all of the status that was before; or, of
    verdicts, the `version` of the agent.
    """
    earlier = digest(before.to_wire(), 16)
    yield from _served(before, after)
    yield from _candidate(before, after, earlier)
    yield from _rollout(before, after, earlier)
    yield from _runs(before, after)
    yield from _conditions(before, after, version)


def event(agent: ObservedAgent, announcement: Announcement, now: str) -> Create:
    """The Event about the agent, in the agent's namespace."""
    tail = digest([agent.uid, announcement.reason, *announcement.key], 16)
    manifest: Manifest = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{agent.name}.{tail}",
            "namespace": agent.namespace,
            "labels": {names.LABEL_AGENT: agent.name},
        },
        "eventTime": now.replace("Z", ".000000Z"),
        "type": "Warning" if announcement.warning else "Normal",
        "reason": announcement.reason,
        "action": announcement.action,
        "note": note_of(announcement.note),
        "reportingController": names.MANAGED_BY,
        "reportingInstance": names.MANAGED_BY,
        "regarding": {
            "apiVersion": names.API_VERSION,
            "kind": names.AGENT_KIND,
            "name": agent.name,
            "namespace": agent.namespace,
            "uid": agent.uid,
        },
    }
    return Create(manifest)


def note_of(text: str) -> str:
    """The text as far as an Event may be long: the API server counts bytes, not characters."""
    held = text.encode(errors="replace")
    return text if len(held) <= _MAX_NOTE else held[:_MAX_NOTE].decode(errors="ignore")


def drift_corrected(kind: str, name: str, fields: Sequence[str], child: Child) -> Announcement:
    """Somebody else changed a child of the agent, and it was set back."""
    what = ", ".join(fields[:_MAX_FIELDS]) + (" and more" if len(fields) > _MAX_FIELDS else "")
    who = f" (written to by {child.writers})" if child.writers else ""
    instead = ": spec.agent.podTemplate holds what is added to pods" if kind == "Deployment" else ""
    note = (
        f"{kind} {name}: {what} was changed by somebody else{who} and is set back. Change the EvolvingAgent "
        f"instead{instead}."
    )
    return Announcement("DriftCorrected", note, "Correct", (kind, name, child.resource_version), warning=True)


def _served(before: EvolvingAgentStatus, after: EvolvingAgentStatus) -> Iterator[Announcement]:
    old, new = before.active, after.active
    if new is None:
        return
    if old is not None and old.revision == new.revision:
        yield from _way_back(before.previous, after.previous)
        return
    key = (new.revision, old.since if old else "", old.revision if old else "")
    if old is None:
        is_base = after.base in (None, new.revision)
        what = f"the base model {new.model_id}" if is_base else f"{new.revision} ({new.model_id}) as before"
        yield Announcement("Adopted", f"Serving {what}.", "Serve", key)
        return
    rollout = after.rollout
    if rollout is not None and rollout.step is RolloutStep.ROLLED_BACK:
        yield Announcement(
            "RolledBack",
            f"{old.revision} ({old.model_id}) is taken back, {new.revision} ({new.model_id}) serves again. "
            f"{rollout.reason}: {rollout.message}",
            "RollBack",
            key,
            warning=True,
        )
        return
    why = f" {rollout.message}" if rollout is not None else ""
    yield Announcement(
        "Promoted",
        f"{new.revision} ({new.model_id}) takes over from {old.revision} ({old.model_id}).{why}",
        "Promote",
        key,
    )


def _way_back(old: RevisionRef | None, new: RevisionRef | None) -> Iterator[Announcement]:
    """The way back changes with what is served, or because a person has said so."""
    if old is None or (new is not None and new.revision == old.revision):
        return
    then = (
        f"A rollback returns to {new.revision} ({new.model_id})." if new else "There is no way back any more."
    )
    yield Announcement(
        "WayBackChanged",
        f"{old.revision} ({old.model_id}) was rejected by a person, or failed when tried again. {then}",
        "RuleOut",
        (old.revision, old.since),
        warning=new is None,
    )


def _candidate(
    before: EvolvingAgentStatus, after: EvolvingAgentStatus, earlier: str
) -> Iterator[Announcement]:
    old, new = before.candidate, after.candidate
    if new is not None and (old is None or old.revision != new.revision):
        yield Announcement(
            "CandidateFound",
            f"{new.revision} ({new.model_id}) is the candidate now.",
            "Nominate",
            (new.revision, earlier),
        )
    is_served = after.active is not None and old is not None and after.active.revision == old.revision
    if old is not None and new is None and not is_served:
        yield Announcement(
            "CandidateDropped",
            f"{old.revision} ({old.model_id}) is no candidate any more.",
            "Drop",
            (old.revision, old.since),
        )


def _rollout(before: EvolvingAgentStatus, after: EvolvingAgentStatus, earlier: str) -> Iterator[Announcement]:
    old, new = before.rollout, after.rollout
    if old is not None and old.step in TRIALS and (new is None or new.revision != old.revision):
        why = condition(after.conditions, "Promoted")
        yield Announcement(
            f"{old.step}Ended",
            f"{old.revision} answers no requests any more: nothing came of it. {why.message if why else ''}",
            "EndTrial",
            (old.revision, old.since),
        )
    if new is None or new == before.promotion or (old is not None and _place(old) == _place(new)):
        return
    since = old.since if old is not None and old.revision == new.revision else earlier
    key = (new.revision, new.step, since)
    if new.step is RolloutStep.SHADOW:
        yield Announcement("ShadowStarted", new.message, "Shadow", key)
    elif new.step is RolloutStep.CANARY:
        yield Announcement("CanaryStep", new.message, "Canary", (*key, str(new.percent)))
    elif new.step is RolloutStep.ROLLED_BACK and old is not None and _is_trial_of(new.revision, old):
        yield Announcement(
            f"{old.step}Aborted",
            f"{new.revision} answers no requests any more. {new.reason}: {new.message}",
            "RollBack",
            key,
            warning=True,
        )
    elif new.step is RolloutStep.BAKE and new.reason != STATUS_LOST:
        yield Announcement(
            "RolledOut", f"All serving pods run {new.revision}; it is being validated.", "RollOut", key
        )
    elif new.step is RolloutStep.DONE:
        yield Announcement(
            "RolloutFinished",
            f"{new.revision} stays. {new.reason}: {new.message}",
            "Finish",
            key,
            warning=new.reason == "NotValidated",
        )


def _is_trial_of(revision: str, rollout: RolloutStatus) -> bool:
    return rollout.revision == revision and rollout.step in TRIALS


def _place(rollout: RolloutStatus) -> tuple[str, str, int | None]:
    return rollout.revision, rollout.step, rollout.percent


def _runs(before: EvolvingAgentStatus, after: EvolvingAgentStatus) -> Iterator[Announcement]:
    for what, action, old, new in (
        ("Curation", "Curate", before.curation, after.curation),
        ("Training", "Train", before.training, after.training),
    ):
        if new is None or (old is not None and (old.job, old.state) == (new.job, new.state)):
            continue
        if old is None or old.job != new.job:  # its end may be the first that is seen of it
            key = (new.job, RunState.RUNNING)
            yield Announcement(f"{what}Started", f"{what} {new.job} has begun.", action, key)
        if new.state is RunState.RUNNING:
            continue
        note = f"{what} {new.job}: {new.reason}. {new.message}"
        is_failure = new.state is RunState.FAILED
        yield Announcement(f"{what}{new.state}", note, action, (new.job, new.state), warning=is_failure)


def _conditions(
    before: EvolvingAgentStatus, after: EvolvingAgentStatus, version: str
) -> Iterator[Announcement]:
    """Problems that come and go, changes of readiness, and verdicts."""
    for kind in ("Degraded", "Ready", "Evaluated"):
        old, new = condition(before.conditions, kind), condition(after.conditions, kind)
        if new is None or not _is_news(kind, old, new):
            continue
        if kind == "Evaluated" and not _is_judged_now(before, after):
            continue
        since = _since(kind, old, new, version)
        key = (kind, new.status, new.reason, since, old.reason if old else "")
        bad = ConditionStatus.TRUE if kind == "Degraded" else ConditionStatus.FALSE
        reason = new.reason
        if kind == "Degraded" and new.status is ConditionStatus.FALSE:
            reason = "Recovered"
        if kind == "Ready" and new.status is ConditionStatus.FALSE:
            reason = NOBODY_SERVES  # why is told with Degraded
        yield Announcement(reason, new.message, f"Set{kind}", key, warning=new.status is bad)


def _is_judged_now(before: EvolvingAgentStatus, after: EvolvingAgentStatus) -> bool:
    """An older verdict is shown again where a candidate goes before it has one."""
    verdict, candidate = after.last_verdict, after.candidate
    is_the_candidates = (
        verdict is not None and candidate is not None and verdict.revision == candidate.revision
    )
    return is_the_candidates or verdict != before.last_verdict


def _since(kind: str, old: Condition | None, new: Condition, version: str) -> str:
    """Since when it was what it was before. Verdicts within one status leave no time, and each is told;
    of two problems of which now one shows and now the other, each is told once.
    """
    if old is None:
        return ""
    return version if kind == "Evaluated" and old.status is new.status else old.last_transition_time


def _is_news(kind: str, old: Condition | None, new: Condition) -> bool:
    if kind == "Evaluated":  # every verdict is; what comes before a verdict is not
        return new.reason.startswith("Verdict") and (old is None or old.reason != new.reason)
    if kind == "Degraded":
        was_fine = old is None or old.status is ConditionStatus.FALSE
        if new.status is ConditionStatus.FALSE:
            return not was_fine
        return was_fine or (old is not None and old.reason != new.reason)
    if new.reason == "ScaledToZero":  # nothing serves, as it was asked for
        return False
    # The first word may be the good one: nobody decided while the pods became ready.
    if old is None:
        return new.status is ConditionStatus.TRUE
    return old.status is not new.status and (new.status is ConditionStatus.TRUE or old.reason == "Serving")
