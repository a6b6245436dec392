"""What serving pods say is wrong with them although they answer: a condition, and when to ask again."""

from __future__ import annotations

from evolving_agent.contract.served import ProblemReason
from evolving_operator.api.models import Condition, ConditionStatus
from evolving_operator.core.conditions import Finding, condition, true
from evolving_operator.core.observed import Heard
from evolving_operator.core.situation import Situation

_REASONS = frozenset(ProblemReason)


def told_by_pods(situation: Situation) -> Finding | None:
    """The worst problem of the first pod that has one.

    What was known stays until all have been asked: an operator that has just started has heard nothing.
    """
    pods = [pod for pod in situation.serving_pods if pod.ready]
    for pod in pods:
        if pod.heard.served is not None and pod.heard.served.problems:
            problem = pod.heard.served.problems[0]
            return true(problem.reason, f"{problem.message} (pod {pod.name})")
    known = standing(situation)
    if known is None or not any(pod.heard == Heard() for pod in pods):
        return None
    return Finding(known.status, known.reason, known.message)


def standing(situation: Situation) -> Condition | None:
    """The condition, where it tells of such a problem."""
    known = condition(situation.status.conditions, "Degraded")
    return known if known is not None and known.status is ConditionStatus.TRUE and is_told(known) else None


def is_told(finding: Finding | Condition) -> bool:
    """Whether this is a pod's own problem: the operator has done all that it was asked for."""
    return finding.reason in _REASONS
