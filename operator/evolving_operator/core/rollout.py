# ruff: noqa: PLR0911 - an ordered policy returns at the first rule that applies
"""How a revision comes to the users, and goes back. Each step is one write of the agent's status.

    candidate ──(gate, approval)──► [Shadow] ──► [Canary] ──► Restart ──► Bake ──► Done
                                                     │           └───────────┴──► RolledBack: previous
                                                     └──► RolledBack: no pod was replaced         serves again

A pinned revision skips gate, validation and rollback: it is a person's word.
"""

from __future__ import annotations

from evolving_operator.api import names
from evolving_operator.api.models import Decision, RolloutStatus, RolloutStep
from evolving_operator.core.clock import CLOCKS_DIFFER, after, parse_time
from evolving_operator.core.live_traffic import in_words, is_unheard, why_failing
from evolving_operator.core.moves import (
    at_step,
    is_ruled_out,
    moved,
    proven_before,
    ref_of,
    reject_served,
    roll_back,
)
from evolving_operator.core.observed import ObservedJob
from evolving_operator.core.pause import paused_anew, served_until
from evolving_operator.core.runs import has_ended
from evolving_operator.core.serving import (
    HELD,
    NO_PODS,
    NOT_APPLIED,
    PINNED,
    PODS_REFUSED,
    awaits_pods,
    crash_loop,
    first_trouble,
    is_dead,
    nobody_serves,
    pods_refused,
    served_rollout,
    somebody_serves,
    wanted_pods,
)
from evolving_operator.core.situation import Situation, applied_hash
from evolving_operator.core.step import Because, Step
from evolving_operator.core.validation import (
    is_outdated,
    is_validated,
    score_drop,
    validation_job_of,
    validation_outcome,
    why_unasked,
)

_GOES_ON = "GoesOn"
_APPLY_SECONDS = 30  # until the Deployment is as it is to be, as a rule
_NOBODY_SERVES = Because(NO_PODS, "There are no serving pods: they are watched once there are any.")


def follow_pin(situation: Situation) -> Step | None:
    """Serve the pinned revision. An unknown one changes nothing: the conditions tell."""
    pin, status = situation.spec.rollout.pin, situation.status
    revision = situation.observed.revisions.get(pin)
    if revision is None or revision.is_left or status.active is None or status.active.revision == pin:
        return None
    because = Because(PINNED, f"spec.rollout.pin names {pin}.")
    return Step(moved(situation, ref_of(revision, situation), because))


def follow_clock(situation: Situation) -> Step | None:
    """What began in the future, by a clock that has been set back since, begins now."""
    rollout = situation.status.rollout
    if rollout is None:
        return None
    # Nor has it stood still for longer than it lasts, or since a time that is to come.
    stood_still = after(rollout.since, rollout.paused_seconds or 0)
    latest = max(stood_still, parse_time(rollout.paused_at or rollout.since))
    if latest <= situation.now + CLOCKS_DIFFER:
        return None
    paused = None if rollout.paused_at is None else situation.timestamp
    anew = {"since": situation.timestamp, "paused_at": paused, "paused_seconds": None}
    begun = rollout.model_copy(update=anew)
    return Step(situation.status.model_copy(update={"rollout": begun}))


def replace_previous(situation: Situation) -> Step | None:
    """What a person has rejected, or what failed since, is not what a rollback returns to: what held its own
    before that is. It may be that one again, where a rejection was taken back.
    """
    status, active = situation.status, situation.status.active
    previous = situation.revision(status.previous)
    is_out = previous is not None and is_ruled_out(previous)
    is_missing = status.previous is None and served_rollout(situation) is not None
    if active is None or not (is_out or is_missing):
        return None
    then = proven_before(situation, active)
    return None if then == status.previous else Step(status.model_copy(update={"previous": then}))


def advance_restart(situation: Situation) -> Step | None:
    """Wait until all serving pods run the promoted revision; go back where they cannot."""
    rollout = situation.status.rollout
    if awaits_pods(situation) and wanted_pods(situation) > 0:
        return at_step(situation, RolloutStep.RESTART, Because("ScaledUp", "Its first pods are started."))
    if rollout is None or rollout.step is not RolloutStep.RESTART:
        return None
    if situation.settled:
        if wanted_pods(situation) == 0:
            return at_step(situation, RolloutStep.DONE, _NOBODY_SERVES)
        if situation.held:
            return at_step(situation, RolloutStep.DONE, Because(PINNED, f"{rollout.revision} is served."))
        return at_step(situation, RolloutStep.BAKE, Because("Restarted", "All serving pods run it."))
    if rollout.template != situation.template_hash:
        # Another rolling restart began on top: its time counts from now, not from the promotion.
        return at_step(situation, RolloutStep.RESTART, Because(rollout.reason, rollout.message))
    # It waits for as long as there can be no pods, and has all its time once there can.
    hold, is_held = _hold(situation, rollout), rollout.reason in HELD
    if (hold is None) == is_held:
        return _held_or_released(situation, rollout, hold)
    stuck = _taken_back(situation) or why_failing(situation)
    if stuck is None and wanted_pods(situation) > 0:
        stuck = crash_loop(situation) if is_held else why_stuck(situation, rollout)
    return None if stuck is None or situation.held else roll_back(situation, stuck)


def _held_or_released(situation: Situation, rollout: RolloutStatus, hold: Because | None) -> Step | None:
    """A restart begins anew with each; a bake keeps the time that it has had."""
    deployment = situation.observed.deployment
    if hold is None and (deployment is None or deployment.stale):
        return None  # it is not known yet
    is_served = rollout.step is RolloutStep.BAKE and not nobody_serves(situation)
    said = "A pod serves it again." if is_served else "Its pods can be created now."
    because = hold or Because(_GOES_ON, said)
    if rollout.step is RolloutStep.RESTART:
        return at_step(situation, rollout.step, because)
    told = paused_anew(situation, rollout).updated(reason=because.reason, message=because.message)
    return Step(situation.status.model_copy(update={"rollout": told}))


def _hold(situation: Situation, rollout: RolloutStatus) -> Because | None:
    """What keeps the rolling restart from beginning, and is no revision's fault."""
    refused = pods_refused(situation)
    if refused is not None:
        return Because(PODS_REFUSED, refused)
    is_refused = any(refusal.kind == "Deployment" for refusal in situation.observed.refusals)
    if _has_it(situation) and (_is_applied(situation) or not is_refused):
        return None
    is_late = rollout.reason in HELD or situation.timers.passed(after(rollout.since, _APPLY_SECONDS))
    return Because(NOT_APPLIED, "The Deployment is not yet as it is to be.") if is_late else None


def _has_it(situation: Situation) -> bool:
    """Whether the Deployment is there, and asks for pods of what is to be served."""
    deployment = situation.observed.deployment
    live = situation.observed.children.get(("Deployment", names.deployment(situation.agent)))
    is_there = live is not None and not live.deleting
    return is_there and deployment is not None and deployment.stamp == situation.active_hash


def _is_applied(situation: Situation) -> bool:
    """What is told of an older Deployment may be mended by the edit that is about to be applied."""
    deployment, wanted = situation.observed.deployment, situation.wanted_deployment
    if deployment is None or wanted is None:
        return False
    return deployment.applied_hash == applied_hash(wanted)


def advance_bake(situation: Situation) -> Step | None:
    """Validate what is served; keep it when it holds its own for as long as it is to bake."""
    rollout = situation.status.rollout
    if rollout is None or rollout.step is not RolloutStep.BAKE:
        return None
    if situation.spec.agent.replicas == 0:
        return at_step(situation, RolloutStep.DONE, _NOBODY_SERVES) if situation.settled else None
    if situation.held:
        pinned = Because(PINNED, f"{rollout.revision} is served.")
        return at_step(situation, RolloutStep.DONE, pinned) if somebody_serves(situation) else None
    if (rejected := _taken_back(situation)) is not None and situation.status.previous is not None:
        return roll_back(situation, rejected)
    if rollout.template != situation.template_hash:
        # All pods ran the revision, and then the user changed what they run: what breaks now is not the
        # revision's fault, and another model would not mend it. Once it serves, it is validated anew.
        if not situation.settled:
            return None
        return at_step(
            situation, RolloutStep.BAKE, Because("SpecChanged", "All serving pods run the new spec.")
        )
    # Where pods are gone and none can be created, no other revision would mend it: they are waited for.
    hold = _hold(situation, rollout) if nobody_serves(situation) else None
    if (hold is None) == (rollout.reason in HELD):
        return _held_or_released(situation, rollout, hold)
    failing = crash_loop(situation) or why_failing(situation) or _why_dead(situation)
    if failing is not None and situation.status.previous is not None:
        return roll_back(situation, failing)
    job = validation_job_of(situation, rollout)
    if is_validated(situation, rollout):
        if job is None or is_outdated(situation, job):
            refused = why_unasked(situation, rollout)
            return None if refused is None else at_step(situation, RolloutStep.DONE, refused)
        if not has_ended(situation, job):
            return None
        dropped = score_drop(situation, rollout, job)
        if dropped is not None:
            return roll_back(situation, dropped) or at_step(situation, RolloutStep.DONE, dropped)
    return _end_of_bake(situation, rollout, job)


def _end_of_bake(situation: Situation, rollout: RolloutStatus, job: ObservedJob | None) -> Step | None:
    if not somebody_serves(situation) or is_unheard(situation):
        return None
    if not situation.timers.passed(served_until(rollout, situation.spec.rollout.bake_seconds)):
        return None
    outcome = validation_outcome(situation, rollout, job)
    told = Because(outcome.reason, outcome.message + in_words(situation))
    return at_step(situation, RolloutStep.DONE, told)


def _why_dead(situation: Situation) -> Because | None:
    """No pod that serves it has been ready for as long as a rolling restart may take."""
    if not is_dead(situation):
        return None
    seconds = situation.spec.rollout.progress_deadline_seconds
    return Because("PodsNotReady", f"No serving pod has been ready for {seconds} s.")


def watch_promoted(situation: Situation) -> Step | None:
    """Go back where a person says so, or where live requests fail for as long as they are to be watched."""
    rollout, rejected = served_rollout(situation), None if situation.held else _taken_back(situation)
    if rollout is None and rejected is not None:
        return reject_served(situation, rejected)
    if rollout is None or rollout.step is not RolloutStep.DONE:
        return None
    failing = rejected or why_failing(situation)
    return None if failing is None else roll_back(situation, failing)


def _taken_back(situation: Situation) -> Because | None:
    """A person's word against what is served."""
    active = situation.revision(situation.status.active)
    if active is None or active.spec.decision is not Decision.REJECTED:
        return None
    return Because("Rejected", f"{active.name} was rejected by a person.")


def why_stuck(situation: Situation, rollout: RolloutStatus) -> Because | None:
    """Why the rolling restart will not end by itself; None while it may."""
    deployment = situation.observed.deployment
    if deployment is not None and _is_applied(situation):
        # What the controller said while no pod could be created says nothing of those that can be now.
        is_about_pods = not deployment.stale and rollout.reason != _GOES_ON
        if is_about_pods and deployment.deadline_exceeded is not None:
            return Because("ProgressDeadlineExceeded", deployment.deadline_exceeded + _trouble(situation))
        looping = crash_loop(situation)
        if looping is not None:
            return looping
    seconds = situation.spec.rollout.progress_deadline_seconds
    if situation.timers.passed(after(rollout.since, seconds)):
        told = f"The pods were not ready after {seconds} s."
        return Because("ProgressDeadlineExceeded", told + _trouble(situation))
    return None


def _trouble(situation: Situation) -> str:
    trouble = first_trouble(situation)
    return f" {trouble.reason}: {trouble.message}" if trouble is not None else ""
