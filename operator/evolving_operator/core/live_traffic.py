"""What live requests say of a revision: errors that send it back, and how much of it a shadow has seen.

Pods count in memory and are asked often while it matters. What cannot be asked changes nothing: no counts
are no errors, and the conditions of a rollout that are not about live requests hold as ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from evolving_agent.contract.served import ServedAs
from evolving_operator.api.models import RevisionRef, RolloutStep
from evolving_operator.core.clock import after
from evolving_operator.core.observed import Heard
from evolving_operator.core.plan import Counting
from evolving_operator.core.pod_problems import standing
from evolving_operator.core.serving import served_rollout
from evolving_operator.core.situation import Situation
from evolving_operator.core.step import Because

_NEVER_PERCENT = 100  # no error rate is above it
_UNDER_WAY_SECONDS = 5.0
_AFTERWARDS_SECONDS = 60.0
_AT_REST_SECONDS = 300.0  # for problems of the pods alone
_TRIED_AS = {RolloutStep.SHADOW: ServedAs.SHADOW, RolloutStep.CANARY: ServedAs.CANARY}


@dataclass(frozen=True)
class Served:
    """Live requests that one configuration was to answer, at all pods together."""

    requests: int = 0
    errors: int = 0

    def exceeds(self, percent: int) -> bool:
        return self.errors * 100 > percent * self.requests

    def is_worse_than(self, other: Served) -> bool:
        return self.errors * max(other.requests, 1) > other.errors * self.requests

    def __str__(self) -> str:
        share = f" ({self.errors / self.requests:.1%})" if self.errors else ""
        return f"{self.errors} of {self.requests} live requests failed{share}"


def shadowed(situation: Situation, candidate: RevisionRef) -> Served:
    """What the candidate has answered unseen."""
    tried = situation.config_of(candidate).hash
    return _served(situation, tried, ServedAs.SHADOW, _names_of_trial(situation, tried))


def why_failing(situation: Situation) -> Because | None:
    """Live requests fail too often at what is served, which is on its way or has lately come to its users."""
    if situation.active_hash is None or not _is_watched(situation):
        return None
    return _exceeding(situation, _served(situation, situation.active_hash, ServedAs.ACTIVE))


def why_trial_fails(situation: Situation) -> Because | None:
    """Live requests fail too often at the candidate on trial, and more often than beside it.

    An outage that hits both is not its fault.
    """
    trial, candidate = situation.trial, situation.status.candidate
    if trial is None or candidate is None or situation.active_hash is None or _is_off(situation):
        return None
    if candidate.revision != trial.revision:
        return None
    tried = situation.config_of(candidate).hash
    named = _names_of_trial(situation, tried)
    judged = _served(situation, tried, _TRIED_AS[trial.step], named)
    beside = _served(situation, situation.active_hash, ServedAs.ACTIVE, named)
    failing = _exceeding(situation, judged)
    if failing is None or not judged.is_worse_than(beside):
        return None
    return Because(failing.reason, f"{failing.message} At what is served beside it, {beside}.")


def is_unheard(situation: Situation) -> bool:
    """Whether a pod that serves has yet to tell how its requests end: this operator has just begun to ask.

    What another one knew of errors, it would not know. Who cannot be asked is not waited for.
    """
    if _is_off(situation):
        return False
    return any(pod.ready and pod.address and pod.heard == Heard() for pod in situation.serving_pods)


def in_words(situation: Situation) -> str:
    """How live requests to what is served have ended so far, for the end of a rollout."""
    policy = situation.spec.rollout.rollback
    if situation.active_hash is None or policy.max_error_percent >= _NEVER_PERCENT:
        return ""
    served = _served(situation, situation.active_hash, ServedAs.ACTIVE)
    silent = next((pod for pod in situation.serving_pods if pod.ready and pod.heard.silence), None)
    if silent is not None:
        return f" Live requests were not all counted: pod {silent.name} {silent.heard.silence}."
    if served.requests < policy.min_requests:
        return f" {served}: too few to judge by (rollback.minRequests is {policy.min_requests})."
    return f" {served}."


def counting(situation: Situation) -> Counting | None:
    """Which pods are to be asked now, and how often; None where there are none."""
    pods = {pod.name: pod.address for pod in situation.serving_pods if pod.ready and pod.address}
    if not pods:
        return None
    asked, trial = tuple(sorted(pods.items())), situation.trial
    is_shadowed = trial is not None and trial.step is RolloutStep.SHADOW
    is_on_its_way = trial is not None or situation.rollout_under_way
    if is_shadowed or (is_on_its_way and not _is_off(situation)):
        return Counting(asked, _UNDER_WAY_SECONDS)
    if _is_watched(situation) or standing(situation) is not None:
        return Counting(asked, _AFTERWARDS_SECONDS)
    return Counting(asked, _AT_REST_SECONDS, at_once=False)


def _is_off(situation: Situation) -> bool:
    """Whether errors of live requests take nothing back, by the user's word."""
    return situation.spec.rollout.rollback.max_error_percent >= _NEVER_PERCENT or situation.held


def _is_watched(situation: Situation) -> bool:
    """Whether errors of live requests would take back what is served, now."""
    rollout, status = served_rollout(situation), situation.status
    if rollout is None or status.active is None or _is_off(situation):
        return False
    if situation.rollout_under_way:
        return True
    # Where the user has changed what the pods run, what breaks now is not the revision's fault.
    is_about = rollout.step is RolloutStep.DONE and rollout.template == situation.template_hash
    until = after(status.active.since, situation.spec.rollout.rollback.window_seconds)
    return is_about and status.previous is not None and not situation.timers.passed(until)


def _exceeding(situation: Situation, judged: Served) -> Because | None:
    """More errors than are allowed, of enough requests to judge by."""
    policy = situation.spec.rollout.rollback
    if judged.requests < policy.min_requests or not judged.exceeds(policy.max_error_percent):
        return None
    return Because(
        "ErrorsExceeded", f"{judged}; rollback.maxErrorPercent allows {policy.max_error_percent} %."
    )


def _names_of_trial(situation: Situation, tried: str) -> tuple[str | None, ...]:
    """What pods call it; those of an older agent image know no other name than the configuration's hash."""
    return situation.trial_name, tried


def _served(
    situation: Situation, config: str, served_as: ServedAs, trial: tuple[str | None, ...] = ()
) -> Served:
    """Of a trial, at the pods that have begun it only: then both sides are of the same time."""
    requests = errors = 0
    for pod in situation.serving_pods:
        if (told := pod.heard.served) is None or (trial and told.trial not in trial):
            continue
        count = told.of(config, served_as)
        requests += count.requests
        errors += count.errors
    return Served(requests, errors)
