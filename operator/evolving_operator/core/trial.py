"""A candidate's trial on live requests, before any pod is replaced: unseen, then for a growing share."""

from __future__ import annotations

from collections.abc import Sequence

from evolving_operator.api.models import CanaryStep, RevisionRef, RolloutStatus, RolloutStep
from evolving_operator.core.children import traffic
from evolving_operator.core.live_traffic import is_unheard, shadowed
from evolving_operator.core.pause import UNPAUSED, is_starting, served_until
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
    """A trial's time counts from when pods find their share in the ConfigMap, and one of them serves.

    Pods that come and go do not begin it anew: what brings them down would never be found out.
    """
    trial = situation.trial
    if trial is None:
        return None
    followed = trial
    if not _is_told(situation):
        followed = trial if is_starting(trial) else _begun(situation, trial, is_started=False)
    elif is_starting(trial) and somebody_serves(situation):
        followed = _begun(situation, trial, is_started=True)
    return None if followed == trial else Step(situation.status.model_copy(update={"rollout": followed}))


def _is_told(situation: Situation) -> bool:
    live = situation.observed.config_map
    return live is not None and live.file is not None and live.file.traffic == traffic(situation)


def _begun(situation: Situation, trial: RolloutStatus, *, is_started: bool) -> RolloutStatus:
    """The step from its beginning: of being told to the pods, or of their answers."""
    what = "requests unseen" if trial.step is RolloutStep.SHADOW else "conversations"
    verb = "answers" if is_started else "is to answer"
    return trial.updated(
        **UNPAUSED,
        since=situation.timestamp,
        reason=f"{trial.step}{'Started' if is_started else 'Starting'}",
        message=f"{trial.revision} {verb} {trial.percent} % of the {what}.",
    )


def next_trial(situation: Situation, ref: RevisionRef) -> RolloutStatus | None:
    """The trial that the candidate is to be in now: the present one, another one, or none any more."""
    policy, now = situation.spec.rollout, situation.trial
    if now is not None and (is_starting(now) or not somebody_serves(situation) or is_unheard(situation)):
        return now
    if policy.shadow is not None and (now is None or now.step is RolloutStep.SHADOW):
        shadow = now or _trial_status(situation, ref, RolloutStep.SHADOW, policy.shadow.percent)
        is_seen = now is not None and shadowed(situation, ref).requests >= policy.shadow.min_requests
        if not is_seen and not situation.timers.passed(served_until(shadow, policy.shadow.timeout_seconds)):
            return shadow
    return None if policy.canary is None else _canary(situation, ref, policy.canary.steps)


def _canary(situation: Situation, ref: RevisionRef, steps: Sequence[CanaryStep]) -> RolloutStatus | None:
    """The step of the canary that is due."""

    def status_of(step: CanaryStep) -> RolloutStatus:
        return _trial_status(situation, ref, RolloutStep.CANARY, step.percent)

    now = situation.trial
    index = next((n for n, step in enumerate(steps) if now is not None and step.percent == now.percent), None)
    if now is None or now.step is not RolloutStep.CANARY or index is None:
        return status_of(steps[0])
    if not situation.timers.passed(served_until(now, steps[index].pause_seconds)):
        return now
    return status_of(steps[index + 1]) if index + 1 < len(steps) else None


def _trial_status(situation: Situation, ref: RevisionRef, step: RolloutStep, percent: int) -> RolloutStatus:
    trial = RolloutStatus(
        revision=ref.revision,
        step=step,
        percent=percent,
        since=situation.timestamp,
        template=_tried_template(situation, ref),
    )
    return _begun(situation, trial, is_started=False)


def _tried_template(situation: Situation, ref: RevisionRef) -> str | None:
    """Of the pods that would serve the candidate."""
    tried = situation.after(situation.status.model_copy(update={"active": ref}))
    return tried.template_hash
