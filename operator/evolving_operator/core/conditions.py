"""Conditions as metav1 has them: a status, a stable reason, a message for people, and since when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evolving_operator.api.models import Condition, ConditionStatus


@dataclass(frozen=True)
class Finding:
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


def merged(
    before: Iterable[Condition], findings: dict[str, Finding], *, generation: int, now: str
) -> tuple[Condition, ...]:
    """The conditions in the order of `findings`; the transition time stays while the status does.

    Conditions of other types are left out: they are other writers', and server-side apply keeps them.
    """
    known = {condition.type: condition for condition in before}
    return tuple(
        Condition(
            type=kind,
            status=finding.status,
            reason=finding.reason,
            message=finding.message[:_MAX_MESSAGE],
            last_transition_time=known[kind].last_transition_time
            if kind in known and known[kind].status is finding.status
            else now,
            observed_generation=generation,
        )
        for kind, finding in findings.items()
    )


def condition(conditions: Iterable[Condition], kind: str) -> Condition | None:
    return next((item for item in conditions if item.type == kind), None)
