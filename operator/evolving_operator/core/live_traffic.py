"""What live requests say of a revision: errors that send it back, and how much of it a shadow has seen.

Pods count in memory and are asked often while it matters. What cannot be asked changes nothing: no counts
are no errors, and the conditions of a rollout that are not about live requests hold as ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from evolving_agent.contract.served import ServedAs
from evolving_operator.api.models import RevisionRef, RolloutStep
from evolving_operator.core.clock import after
from evolving_operator.core.plan import Counting
from evolving_operator.core.pod_problems import standing
from evolving_operator.core.situation import Situation
from evolving_operator.core.step import Because

_NEVER_PERCENT = 100  # no error rate is above it
_UNDER_WAY_SECONDS = 5.0
_AFTERWARDS_SECONDS = 60.0
_AT_REST_SECONDS = 300.0  # for problems of the pods alone
_TRIALS = {RolloutStep.SHADOW: ServedAs.SHADOW, RolloutStep.CANARY: ServedAs.CANARY}


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
    return _served(situation, tried, ServedAs.SHADOW, tried)


def why_failing(situation: Situation) -> Because | None:
    """Live requests fail too often at what is on its way to the users, or has lately come to them.

    A candidate on trial is compared with what is served beside it: an outage that hits both is not its
    fault. A promoted revision has nothing beside it.
    """
    rollout, policy = situation.status.rollout, situation.spec.rollout.rollback
    if rollout is None or situation.active_hash is None or not _is_judged(situation):
        return None
    beside: Served | None = None
    if rollout.step in _TRIALS:
        candidate = situation.status.candidate
        if candidate is None or candidate.revision != rollout.revision:
            return None
        tried = situation.config_of(candidate).hash
        judged = _served(situation, tried, _TRIALS[rollout.step], tried)
        beside = _served(situation, situation.active_hash, ServedAs.ACTIVE, tried)
    else:
        judged = _served(situation, situation.active_hash, ServedAs.ACTIVE)
    if judged.requests < policy.min_requests or not judged.exceeds(policy.max_error_percent):
        return None
    if beside is not None and not judged.is_worse_than(beside):
        return None
    than = f" At what is served beside it, {beside}." if beside is not None else ""
    return Because(
        "ErrorsExceeded",
        f"{judged}; rollback.maxErrorPercent allows {policy.max_error_percent} %.{than}",
    )


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
    asked, rollout = tuple(sorted(pods.items())), situation.status.rollout
    is_shadowed = rollout is not None and rollout.step is RolloutStep.SHADOW
    if is_shadowed or _is_judged(situation):
        is_over = rollout is not None and rollout.step is RolloutStep.DONE
        return Counting(asked, _AFTERWARDS_SECONDS if is_over else _UNDER_WAY_SECONDS)
    if standing(situation) is not None:
        return Counting(asked, _AFTERWARDS_SECONDS)
    return Counting(asked, _AT_REST_SECONDS, at_once=False)


def _is_judged(situation: Situation) -> bool:
    """Whether errors of live requests would take something back now."""
    rollout, status = situation.status.rollout, situation.status
    policy = situation.spec.rollout.rollback
    if rollout is None or policy.max_error_percent >= _NEVER_PERCENT or situation.held:
        return False
    if rollout.step in _TRIALS or situation.rollout_under_way:
        return True
    if rollout.step is not RolloutStep.DONE or status.previous is None or status.active is None:
        return False
    # Where the user has changed what the pods run, what breaks now is not the revision's fault.
    is_about = rollout.revision == status.active.revision and rollout.template == situation.template_hash
    until = after(status.active.since, policy.window_seconds)
    return is_about and not situation.timers.passed(until)


def _served(situation: Situation, config: str, served_as: ServedAs, trial: str | None = None) -> Served:
    """Of a trial, at the pods that have begun it only: then both sides are of the same time."""
    requests = errors = 0
    for pod in situation.serving_pods:
        if (told := pod.heard.served) is None or (trial is not None and told.trial != trial):
            continue
        count = told.of(config, served_as)
        requests += count.requests
        errors += count.errors
    return Served(requests, errors)
