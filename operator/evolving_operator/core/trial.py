"""A candidate's trial on live requests, before any pod is replaced: unseen, then for a growing share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from evolving_operator.api.models import CanaryStep, ConditionStatus, RevisionRef, RolloutStatus, RolloutStep
from evolving_operator.core.children import traffic
from evolving_operator.core.clock import after, parse_time, rfc3339
from evolving_operator.core.conditions import condition
from evolving_operator.core.live_traffic import shadowed
from evolving_operator.core.serving import somebody_serves
from evolving_operator.core.situation import Situation
from evolving_operator.core.step import Step


def is_as_asked_for(situation: Situation, trial: RolloutStatus) -> bool:
    """Whether the spec still asks for this trial: what has changed meanwhile is tried from the beginning."""
    ref, policy = situation.status.candidate, situation.spec.rollout
    if ref is None or trial.template != _tried_template(situation, ref):
        return False
    if trial.step is RolloutStep.SHADOW:
        return policy.shadow is None or policy.shadow.percent == trial.percent  # without one, it goes on
    return policy.canary is None or any(step.percent == trial.percent for step in policy.canary.steps)


def follow_trial(situation: Situation) -> Step | None:
    """A trial's time counts from when pods find their share in the ConfigMap, and while somebody serves.

    Pods that come and go do not begin it anew: what brings them down would never be found out.
    """
    trial = situation.trial
    if trial is None:
        return None
    is_told, has_started = _is_told(situation), trial.reason != _starting(trial.step)
    may_go_on = is_told and (has_started or somebody_serves(situation))
    reason = _started(trial.step) if may_go_on else _starting(trial.step)
    since = situation.timestamp if trial.reason != reason else _without_outage(situation, trial)
    followed = trial.updated(reason=reason, since=since)
    return None if followed == trial else Step(situation.status.model_copy(update={"rollout": followed}))


def _without_outage(situation: Situation, trial: RolloutStatus) -> str:
    """When it began, reckoned without the time in which nobody served that has just ended."""
    ready = condition(situation.status.conditions, "Ready")
    if ready is None or ready.status is not ConditionStatus.FALSE or not somebody_serves(situation):
        return trial.since
    began = max(parse_time(ready.last_transition_time), parse_time(trial.since))
    return rfc3339(parse_time(trial.since) + max(situation.now - began, timedelta(0)))


def _is_told(situation: Situation) -> bool:
    live = situation.observed.config_map
    return live is not None and live.file is not None and live.file.traffic == traffic(situation)


def _starting(step: RolloutStep) -> str:
    return f"{step}Starting"


def _started(step: RolloutStep) -> str:
    return f"{step}Started"


def next_trial(situation: Situation, ref: RevisionRef) -> RolloutStatus | None:
    """The trial that the candidate is to be in now: the present one, another one, or none any more."""
    policy, now = situation.spec.rollout, situation.trial
    if now is not None and (now.reason == _starting(now.step) or not somebody_serves(situation)):
        return now
    if policy.shadow is not None and (now is None or now.step is RolloutStep.SHADOW):
        percent = policy.shadow.percent
        message = f"{ref.revision} answers {percent} % of the requests unseen."
        shadow = now or _trial_status(situation, ref, RolloutStep.SHADOW, percent, message)
        is_seen = now is not None and shadowed(situation, ref).requests >= policy.shadow.min_requests
        if not is_seen and not situation.timers.passed(after(shadow.since, policy.shadow.timeout_seconds)):
            return shadow
    return None if policy.canary is None else _canary(situation, ref, policy.canary.steps)


def _canary(situation: Situation, ref: RevisionRef, steps: Sequence[CanaryStep]) -> RolloutStatus | None:
    """The step of the canary that is due."""

    def status_of(step: CanaryStep) -> RolloutStatus:
        message = f"{ref.revision} answers {step.percent} % of the conversations."
        return _trial_status(situation, ref, RolloutStep.CANARY, step.percent, message)

    now = situation.trial
    index = next((n for n, step in enumerate(steps) if now is not None and step.percent == now.percent), None)
    if now is None or now.step is not RolloutStep.CANARY or index is None:
        return status_of(steps[0])
    if not situation.timers.passed(after(now.since, steps[index].pause_seconds)):
        return now
    return status_of(steps[index + 1]) if index + 1 < len(steps) else None


def _trial_status(
    situation: Situation, ref: RevisionRef, step: RolloutStep, percent: int, message: str
) -> RolloutStatus:
    return RolloutStatus(
        revision=ref.revision,
        step=step,
        percent=percent,
        since=situation.timestamp,
        template=_tried_template(situation, ref),
        reason=_starting(step),
        message=message,
    )


def _tried_template(situation: Situation, ref: RevisionRef) -> str | None:
    """Of the pods that would serve the candidate."""
    tried = situation.after(situation.status.model_copy(update={"active": ref}))
    return tried.template_hash
