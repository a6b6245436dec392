# ruff: noqa: PLR0911 - an ordered policy returns at the first rule that applies
"""How a revision comes to the users, and goes back. Each step is one write of the agent's status.

    candidate ──(gate, approval)──► [Shadow] ──► [Canary] ──► Restart ──► Bake ──► Done
                                                     │           └───────────┴──► RolledBack: previous
                                                     └──► RolledBack: no pod was replaced         serves again

A pinned revision skips gate, validation and rollback: it is a person's word.
"""

from __future__ import annotations

from datetime import timedelta

from evolving_agent.contract.learning import OnInconclusive
from evolving_agent.contract.report import ValidationReport
from evolving_operator.api import names
from evolving_operator.api.models import (
    Approval,
    Decision,
    EvolvingAgentStatus,
    RevisionRef,
    RevisionState,
    RolloutStatus,
    RolloutStep,
    VerdictResult,
)
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.job import build_validation_job, suites_digest
from evolving_operator.core.builders.revision import build_revision
from evolving_operator.core.clock import after, parse_time
from evolving_operator.core.live_traffic import in_words, why_failing
from evolving_operator.core.observed import ObservedJob, ObservedRevision, Trouble
from evolving_operator.core.plan import Create
from evolving_operator.core.proof import (
    candidate_revision,
    first_evaluation,
    is_measurable,
    recorded_verdict,
    verdict_status,
)
from evolving_operator.core.runs import has_ended
from evolving_operator.core.situation import CRASH_LOOP_RESTARTS, Situation, applied_hash
from evolving_operator.core.step import Because, Step
from evolving_operator.core.trial import TRIALS, next_trial, trial_of

# So long a validation Job that the API server refuses is tried again.
_REFUSED_VALIDATION_SECONDS = 300
_NO_PODS = "ScaledToZero"
_CLOCKS_DIFFER = timedelta(seconds=60)


# --- the first revision, and a changed base model --------------------------------------------------


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
    if situation.rollout_under_way:
        return None
    without_candidate = adopted.model_copy(update={"candidate": None, "rollout": _without_trial(status)})
    active = situation.revision(status.active)
    if active is not None and active.spec.base == situation.spec.model.base:
        return Step(without_candidate, before)
    nominated = {"candidate": ref, "evaluation": first_evaluation(situation, name, None)}
    return Step(without_candidate.model_copy(update=nominated), before)


def base_revision_manifest(situation: Situation) -> Manifest:
    return build_revision(
        situation.context,
        name=situation.base_revision,
        model_id=situation.spec.model.base,
        base=situation.spec.model.base,
        dataset=None,
        training=None,
    )


def _restored(situation: Situation, active: ObservedRevision) -> EvolvingAgentStatus:
    """What the revisions tell, for an agent whose own status was lost (restored from a backup).

    One that had not yet come to all pods is on its way once more, so that it can still go back. Verdicts are
    made anew: nothing tells any more which evaluation counted.
    """
    previous = _last_known(situation, RevisionState.PREVIOUS)
    candidate = _last_known(situation, RevisionState.CANDIDATE)
    base = situation.spec.model.base
    update: dict[str, object] = {
        "active": _ref(active, situation),
        "previous": _ref(previous, situation) if previous else None,
    }
    if candidate is not None and candidate.spec.base == base:
        dataset = candidate.spec.dataset
        update["candidate"] = _ref(candidate, situation)
        update["evaluation"] = first_evaluation(
            situation, candidate.name, dataset.version if dataset else None
        )
    if active.spec.base == base or (candidate is not None and candidate.name == situation.base_revision):
        update["base"] = situation.base_revision  # else it is taken up as any other edit is
    restored = situation.status.model_copy(update=update)
    if previous is None or active.status.promoted_at is not None:
        return restored
    rollout = RolloutStatus(
        revision=active.name,
        step=RolloutStep.RESTART,
        since=situation.timestamp,
        template=situation.after(restored).template_hash,
        reason="StatusLost",
        message="It was on its way when the agent lost its status.",
    )
    return restored.model_copy(update={"rollout": rollout})


def _last_known(situation: Situation, state: RevisionState) -> ObservedRevision | None:
    """The revision that was in that place. What an agent of the same name has left is another one's."""
    revisions = situation.observed.revisions.values()
    return next((item for item in revisions if item.status.state is state and not item.is_left), None)


# --- pin ------------------------------------------------------------------------------------------


def follow_pin(situation: Situation) -> Step | None:
    """Serve the pinned revision. An unknown one changes nothing: the conditions tell."""
    pin, status = situation.spec.rollout.pin, situation.status
    revision = situation.observed.revisions.get(pin)
    if revision is None or status.active is None or status.active.revision == pin:
        return None
    because = Because("Pinned", f"spec.rollout.pin names {pin}.")
    moved = _moved(situation, _ref(revision, situation), because)
    is_candidate = status.candidate is not None and status.candidate.revision == pin
    return Step(moved.model_copy(update={"candidate": None if is_candidate else status.candidate}))


# --- a rollout under way --------------------------------------------------------------------------


def follow_clock(situation: Situation) -> Step | None:
    """What began in the future, by a clock that has been set back since, begins now."""
    rollout = situation.status.rollout
    if rollout is None or parse_time(rollout.since) <= situation.now + _CLOCKS_DIFFER:
        return None
    begun = rollout.model_copy(update={"since": situation.timestamp})
    return Step(situation.status.model_copy(update={"rollout": begun}))


def advance_restart(situation: Situation) -> Step | None:
    """Wait until all serving pods run the promoted revision; go back where they cannot."""
    rollout = situation.status.rollout
    if rollout is not None and _awaits_pods(situation) and situation.spec.agent.replicas > 0:
        return _at(situation, RolloutStep.RESTART, Because("ScaledUp", "Its first pods are started."))
    if rollout is None or rollout.step is not RolloutStep.RESTART:
        return None
    if situation.settled:
        if situation.held:
            return _at(situation, RolloutStep.DONE, Because("Pinned", f"{rollout.revision} is served."))
        if situation.spec.agent.replicas == 0:
            message = "There are no serving pods: they are watched once there are any."
            return _at(situation, RolloutStep.DONE, Because(_NO_PODS, message))
        return _at(situation, RolloutStep.BAKE, Because("Restarted", "All serving pods run it."))
    if rollout.template != situation.template_hash:
        # Another rolling restart began on top: its time counts from now, not from the promotion.
        return _at(situation, RolloutStep.RESTART, Because(rollout.reason, rollout.message))
    stuck = _taken_back(situation) or why_failing(situation) or why_stuck(situation, rollout)
    return None if stuck is None or situation.held else _roll_back(situation, stuck)


def _awaits_pods(situation: Situation) -> bool:
    """Whether what is served was rolled out to no pod at all: it has still to show that it comes up."""
    rollout, active = situation.status.rollout, situation.status.active
    return (
        rollout is not None
        and active is not None
        and (rollout.step, rollout.reason) == (RolloutStep.DONE, _NO_PODS)
        and rollout.revision == active.revision
    )


def advance_bake(situation: Situation) -> Step | None:
    """Validate what is served; keep it when it holds its own for as long as it is to bake."""
    rollout = situation.status.rollout
    if rollout is None or rollout.step is not RolloutStep.BAKE:
        return None
    if situation.held:
        return _at(situation, RolloutStep.DONE, Because("Pinned", f"{rollout.revision} is served."))
    if (rejected := _taken_back(situation)) is not None and situation.status.previous is not None:
        return _roll_back(situation, rejected)
    if rollout.template != situation.template_hash:
        # All pods ran the revision, and then the user changed what they run: what breaks now is not the
        # revision's fault, and another model would not mend it. Once it serves, it is validated anew.
        if not situation.settled:
            return None
        return _at(situation, RolloutStep.BAKE, Because("SpecChanged", "All serving pods run the new spec."))
    failing = _crash_loop(situation) or why_failing(situation)
    if failing is not None and situation.status.previous is not None:
        return _roll_back(situation, failing)
    job = _validation_job_of(situation, rollout)
    if _is_validated(situation, rollout):
        if job is None or is_outdated(situation, job):
            refused = _why_unasked(situation, rollout)
            return None if refused is None else _at(situation, RolloutStep.DONE, refused)
        if not has_ended(situation, job):
            return None
        dropped = _score_drop(situation, rollout, job)
        if dropped is not None:
            return _roll_back(situation, dropped) or _at(situation, RolloutStep.DONE, dropped)
    baked = after(rollout.since, situation.spec.rollout.bake_seconds)
    if not situation.timers.passed(baked):
        return None
    outcome = _validation_outcome(situation, rollout, job)
    told = Because(outcome.reason, outcome.message + in_words(situation))
    return _at(situation, RolloutStep.DONE, told)


def watch_promoted(situation: Situation) -> Step | None:
    """Go back where live requests fail, for as long after a rollout as the user wants it watched."""
    rollout = situation.status.rollout
    if rollout is None or rollout.step is not RolloutStep.DONE:
        return None
    failing = why_failing(situation)
    return None if failing is None else _roll_back(situation, failing)


def _taken_back(situation: Situation) -> Because | None:
    """A person's word on a revision that is on its way to the users."""
    active = situation.revision(situation.status.active)
    if active is None or active.spec.decision is not Decision.REJECTED:
        return None
    return Because("Rejected", f"{active.name} was rejected by a person.")


def why_stuck(situation: Situation, rollout: RolloutStatus) -> Because | None:
    """Why the rolling restart will not end by itself; None while it may."""
    deployment = situation.observed.deployment
    wanted = situation.wanted_deployment
    # What is told of an older Deployment may be mended by the edit that is about to be applied.
    is_applied = (
        deployment is not None and wanted is not None and deployment.applied_hash == applied_hash(wanted)
    )
    if deployment is not None and is_applied:
        if not deployment.stale and deployment.deadline_exceeded is not None:
            return Because("ProgressDeadlineExceeded", deployment.deadline_exceeded)
        looping = _crash_loop(situation)
        if looping is not None:
            return looping
    seconds = situation.spec.rollout.progress_deadline_seconds
    if situation.timers.passed(after(rollout.since, seconds)):
        trouble = _first_trouble(situation)
        detail = f" {trouble.reason}: {trouble.message}" if trouble else ""
        return Because("ProgressDeadlineExceeded", f"The pods were not ready after {seconds} s.{detail}")
    return None


def validation_job(situation: Situation) -> Manifest | None:
    """The Job that asks the served revision the suites' questions, to be created now."""
    rollout, stamp = situation.status.rollout, situation.active_hash
    if rollout is None or rollout.step is not RolloutStep.BAKE or situation.held or stamp is None:
        return None
    if not _is_validated(situation, rollout) or _validation_job_of(situation, rollout) is not None:
        return None
    return build_validation_job(
        situation.context,
        revision=rollout.revision,
        config_hash=stamp,
        dataset_version=_dataset_version(situation, rollout),
    )


def is_outdated(situation: Situation, job: ObservedJob) -> bool:
    """Whether a validation asks other pods, or other cases, than it is to: it goes, and comes anew."""
    is_current = job.config_hash in (None, situation.active_hash) and job.suites in (
        None,
        suites_digest(situation.context),
    )
    return job.deleting or not is_current


def _why_unasked(situation: Situation, rollout: RolloutStatus) -> Because | None:
    """Why there will be no validation: nobody waits for ever for a Job that the API server refuses."""
    name = names.validate_job(rollout.revision)
    refusal = next((item for item in situation.observed.refusals if item.name == name), None)
    if refusal is None:
        return None
    patience = max(situation.spec.rollout.bake_seconds, _REFUSED_VALIDATION_SECONDS)
    if not situation.timers.passed(after(rollout.since, patience)):
        return None
    return Because("NotValidated", f"Job {name} was refused: {refusal.message}")


def _is_validated(situation: Situation, rollout: RolloutStatus) -> bool:
    """Whether there is anybody to ask, and anything to ask."""
    has_pods = situation.spec.agent.replicas > 0
    return has_pods and is_measurable(situation, _dataset_version(situation, rollout))


def _dataset_version(situation: Situation, rollout: RolloutStatus) -> str | None:
    evaluation = situation.status.evaluation
    if evaluation is None or evaluation.revision != rollout.revision:
        return None
    return evaluation.dataset_version


def _validation_job_of(situation: Situation, rollout: RolloutStatus) -> ObservedJob | None:
    return situation.observed.jobs.get(names.validate_job(rollout.revision))


def _score_drop(situation: Situation, rollout: RolloutStatus, job: ObservedJob) -> Because | None:
    """The first suite whose score, as served, is too far below that of the verdict."""
    revision = situation.observed.revisions.get(rollout.revision)
    if revision is None or not isinstance(job.report, ValidationReport):
        return None
    promised = {verdict.suite: verdict.candidate for verdict in revision.status.verdicts}
    limit = situation.spec.rollout.rollback.max_score_drop_bps
    for suite in job.report.suites:
        before, served = promised.get(suite.suite), suite.candidate_bps
        if before is not None and served is not None and before - served > limit:
            return Because(
                "ScoreDropped",
                f"Suite {suite.suite} scored {before / 100:.1f} % in the evaluation, but "
                f"{served / 100:.1f} % as served; maxScoreDropBps allows a drop of {limit / 100:.1f} points.",
            )
    return None


def _validation_outcome(situation: Situation, rollout: RolloutStatus, job: ObservedJob | None) -> Because:
    """A validation that measured nothing keeps the revision, with a warning.

    It passed the gate, and that nobody could be asked says nothing about it: an outage of whoever
    measures never looks like a bad model.
    """
    if job is None or not _is_validated(situation, rollout):
        return Because("NotValidated", "Nothing to validate it with.")
    report = job.report
    if not isinstance(report, ValidationReport) or not any(
        suite.candidate_bps is not None for suite in report.suites
    ):
        detail = report.message if report is not None else job.message or "it left no report"
        return Because("NotValidated", f"The validation measured nothing: {detail}")
    scores = ", ".join(
        f"{suite.suite} {suite.candidate_bps / 100:.1f} %"
        for suite in report.suites
        if suite.candidate_bps is not None
    )
    return Because("Validated", f"As served: {scores}.")


def _crash_loop(situation: Situation) -> Because | None:
    for pod in situation.serving_pods:
        if pod.stamp != situation.active_hash or pod.restarts < CRASH_LOOP_RESTARTS or pod.trouble is None:
            continue
        if pod.report is not None:
            return Because(pod.report.reason, f"Pod {pod.name} gives up: {pod.report.message}")
        return Because(pod.trouble.reason, f"Pod {pod.name} crashes again and again: {pod.trouble.message}")
    return None


def _first_trouble(situation: Situation) -> Trouble | None:
    return next((pod.trouble for pod in situation.serving_pods if pod.trouble is not None), None)


# --- the candidate --------------------------------------------------------------------------------


def advance_candidate(situation: Situation) -> Step | None:
    """Give the candidate up, try it on live requests, or promote it; None while it has to wait."""
    status, ref = situation.status, situation.status.candidate
    if ref is None:
        return None
    revision = candidate_revision(situation)
    if revision is None or why_rejected(situation, revision) is not None:
        shown = status.last_verdict
        if revision is not None and recorded_verdict(situation) is not None:
            shown = verdict_status(revision.name, revision.status.verdicts)
        dropped = {"candidate": None, "rollout": _without_trial(status), "last_verdict": shown}
        return Step(status.model_copy(update=dropped))
    if situation.rollout_under_way or situation.pinned or situation.spec.suspend:
        return None
    because = why_promotable(situation, revision)
    if because is None:
        return None
    trial = next_trial(situation, ref)
    if trial is None:
        return _promoted(situation, ref, revision, because)
    return None if trial == status.rollout else Step(status.model_copy(update={"rollout": trial}))


def end_trial(situation: Situation) -> Step | None:
    """A trial ends with its candidate, and while nothing may be promoted; later it begins anew."""
    status, rollout = situation.status, trial_of(situation)
    if rollout is None:
        return None
    revision = candidate_revision(situation)
    is_on = revision is not None and revision.name == rollout.revision
    is_on = is_on and not situation.pinned and not situation.spec.suspend
    if is_on and revision is not None and why_promotable(situation, revision) is not None:
        failing = _crash_loop(situation) if rollout.step is RolloutStep.CANARY else None
        failing = failing or why_failing(situation)
        return None if failing is None else _abort(situation, rollout, failing)
    return Step(status.model_copy(update={"rollout": None}))


def why_rejected(situation: Situation, revision: ObservedRevision) -> Because | None:
    """Why the candidate is given up."""
    if revision.spec.decision is Decision.REJECTED:
        return Because("Rejected", f"{revision.name} was rejected by a person.")
    if revision.spec.decision is Decision.APPROVED or recorded_verdict(situation) is None:
        return None
    result = revision.status.result
    gives_up = situation.spec.evaluation.on_inconclusive is OnInconclusive.REJECT
    if result is VerdictResult.FAILED or (result is VerdictResult.INCONCLUSIVE and gives_up):
        return Because(f"Verdict{result}", f"{revision.name} did not pass the gate.")
    return None


def why_promotable(situation: Situation, revision: ObservedRevision) -> Because | None:
    """What entitles the candidate to be promoted: the gate, a person, or an incumbent that never served."""
    if revision.spec.decision is Decision.APPROVED:
        return Because("Approved", f"{revision.name} was approved by a person.")
    if situation.spec.rollout.approval is Approval.MANUAL:
        return None
    if recorded_verdict(situation) is not None and revision.status.result is VerdictResult.PASSED:
        return Because("VerdictPassed", f"{revision.name} passed the gate.")
    if revision.spec.training is None and _never_served(situation):
        return Because(
            "IncumbentNeverServed",
            f"{revision.name} replaces a base model that never became ready: nothing to compare it with.",
        )
    return None


def reconsider(situation: Situation) -> Step | None:
    """A revision that the gate or a rollback had ruled out, and that a person approved after that."""
    if situation.status.candidate is not None or situation.rollout_under_way:
        return None
    for revision in situation.observed.revisions.values():
        if revision.spec.decision is not Decision.APPROVED or not _approval_is_news(revision):
            continue
        if revision.spec.base != situation.spec.model.base:
            continue
        dataset = revision.spec.dataset
        update = {
            "candidate": _ref(revision, situation),
            "evaluation": first_evaluation(situation, revision.name, dataset.version if dataset else None),
        }
        return Step(situation.status.model_copy(update=update))
    return None


def _approval_is_news(revision: ObservedRevision) -> bool:
    is_ruled_out = revision.status.state in (RevisionState.REJECTED, RevisionState.ROLLED_BACK)
    decided = revision.status.decided_generation
    return is_ruled_out and decided is not None and revision.generation > decided


def _abort(situation: Situation, rollout: RolloutStatus, because: Because) -> Step:
    """End a canary and quarantine its candidate: users go on with what they had, and no pod is replaced."""
    aborted = rollout.model_copy(
        update={
            "step": RolloutStep.ROLLED_BACK,
            "percent": None,
            "template": None,
            "since": situation.timestamp,
            "reason": because.reason,
            "message": because.message[:1000],
        }
    )
    return Step(situation.status.model_copy(update={"candidate": None, "rollout": aborted}))


def _promoted(situation: Situation, ref: RevisionRef, revision: ObservedRevision, because: Because) -> Step:
    promoted = _moved(situation, ref.model_copy(update={"since": situation.timestamp}), because)
    shown = situation.status.last_verdict
    if recorded_verdict(situation) is not None:
        shown = verdict_status(revision.name, revision.status.verdicts)
    return Step(promoted.model_copy(update={"candidate": None, "last_verdict": shown}))


# --- the moves ------------------------------------------------------------------------------------


def _moved(situation: Situation, to: RevisionRef, because: Because) -> EvolvingAgentStatus:
    """The status in which another revision is active, and its rolling restart begins."""
    rollout = RolloutStatus(
        revision=to.revision,
        step=RolloutStep.RESTART,
        since=situation.timestamp,
        reason=because.reason,
        message=because.message,
    )
    previous = _proven(situation)
    if previous is not None and previous.revision == to.revision:
        previous = None
    update = {"active": to, "previous": previous, "rollout": rollout}
    moved = situation.status.model_copy(update=update)
    rollout = rollout.model_copy(update={"template": situation.after(moved).template_hash})
    return moved.model_copy(update={"rollout": rollout})


def _proven(situation: Situation) -> RevisionRef | None:
    """What a rollback of the next revision would return to: the last one that has held its own.

    One that is still on its way when it is given up may be what does not come up.
    """
    status, replicas = situation.status, situation.spec.agent.replicas
    never_came_up = replicas > 0 and _never_served(situation)
    is_unproven = situation.rollout_under_way or _awaits_pods(situation) or never_came_up
    return status.previous if is_unproven else status.active


def _never_served(situation: Situation) -> bool:
    """Whether no pod of what is active has ever been ready. A record that comes anew forgets; pods tell."""
    active, deployment = situation.revision(situation.status.active), situation.observed.deployment
    is_served = deployment is not None and deployment.ready > 0
    return active is not None and active.status.promoted_at is None and not is_served


def _roll_back(situation: Situation, because: Because) -> Step | None:
    """Back to the previous revision. The one that failed is not promoted again by itself."""
    status = situation.status
    if status.previous is None or status.rollout is None:
        return None
    rollout = status.rollout.model_copy(
        update={
            "step": RolloutStep.ROLLED_BACK,
            "since": situation.timestamp,
            "template": None,
            "reason": because.reason,
            "message": because.message[:1000],
        }
    )
    back = status.previous.model_copy(update={"since": situation.timestamp})
    return Step(status.model_copy(update={"active": back, "previous": None, "rollout": rollout}))


def _at(situation: Situation, step: RolloutStep, because: Because) -> Step | None:
    rollout = situation.status.rollout
    if rollout is None:
        return None
    moved = rollout.model_copy(
        update={
            "step": step,
            "since": situation.timestamp,
            "template": situation.template_hash,
            "reason": because.reason,
            "message": because.message,
        }
    )
    return Step(situation.status.model_copy(update={"rollout": moved}))


def _ref(revision: ObservedRevision, situation: Situation) -> RevisionRef:
    return RevisionRef(revision=revision.name, model_id=revision.spec.model_id, since=situation.timestamp)


def _without_trial(status: EvolvingAgentStatus) -> RolloutStatus | None:
    """The rollout, unless it is the trial of a candidate that is being dropped."""
    rollout = status.rollout
    return None if rollout is not None and rollout.step in TRIALS else rollout
