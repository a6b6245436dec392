"""Conditions as metav1 has them: a status, a stable reason, a message for people, and since when."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from evolving_operator.api.models import Condition, ConditionStatus


class Finding(NamedTuple):
    """What a condition is to say; when it began to be so is worked out from what it said before."""

    status: ConditionStatus
    reason: str
    message: str


def true(reason: str, message: str) -> Finding:
    return Finding(ConditionStatus.TRUE, reason, message)


def false(reason: str, message: str) -> Finding:
    return Finding(ConditionStatus.FALSE, reason, message)


def unknown(reason: str, message: str) -> Finding:
    return Finding(ConditionStatus.UNKNOWN, reason, message)


_MAX_MESSAGE = 1024
NOBODY_SERVES = "NobodyServes"  # though pods did


def merged(
    before: Iterable[Condition], findings: dict[str, Finding], *, generation: int, now: str
) -> tuple[Condition, ...]:
    """The conditions in the order of `findings`; the transition time stays while the status does.

    Conditions of other types are not among them: they are other writers'.
    """
    known = {condition.type: condition for condition in before}
    return tuple(
        _condition(known.get(kind), kind, finding, generation, now) for kind, finding in findings.items()
    )


def _condition(known: Condition | None, kind: str, finding: Finding, generation: int, now: str) -> Condition:
    message = finding.message[:_MAX_MESSAGE]
    stays = known is not None and known.status is finding.status
    told = (finding.reason, message, generation)
    if known is not None and stays and told == (known.reason, known.message, known.observed_generation):
        return known
    return Condition(
        type=kind,
        status=finding.status,
        reason=finding.reason,
        message=message,
        last_transition_time=known.last_transition_time if known is not None and stays else now,
        observed_generation=generation,
    )


def condition(conditions: Iterable[Condition], kind: str) -> Condition | None:
    return next((item for item in conditions if item.type == kind), None)
