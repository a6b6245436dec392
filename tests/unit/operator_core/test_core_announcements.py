"""Which differences of two statuses are told as Events."""

from __future__ import annotations

from evolving_operator.api.models import Condition, ConditionStatus, EvolvingAgentStatus
from evolving_operator.core.announcements import announcements, note_of


def status(ready: ConditionStatus | None) -> EvolvingAgentStatus:
    if ready is None:
        return EvolvingAgentStatus()
    condition = Condition(
        type="Ready", status=ready, reason=f"Ready{ready}", last_transition_time="2026-03-02T12:00:00Z"
    )
    return EvolvingAgentStatus(conditions=(condition,))


def reasons(before: ConditionStatus | None, after: ConditionStatus) -> list[str]:
    return [told.reason for told in announcements(status(before), status(after))]


def test_an_agent_that_becomes_ready_is_announced_whether_or_not_it_was_seen_to_start() -> None:
    assert reasons(ConditionStatus.FALSE, ConditionStatus.TRUE) == ["ReadyTrue"]
    assert reasons(None, ConditionStatus.TRUE) == ["ReadyTrue"]


def test_an_agent_that_stays_ready_or_is_not_yet_is_not_announced() -> None:
    assert reasons(ConditionStatus.TRUE, ConditionStatus.TRUE) == []
    assert reasons(None, ConditionStatus.FALSE) == []


def test_a_note_is_as_long_as_an_event_may_be_in_bytes() -> None:
    # the API server refuses what is longer than 1024 bytes: the Event would be lost
    long = note_of("Слишком длинное сообщение. " * 100)

    assert long.startswith("Слишком длинное сообщение. ")
    assert 990 < len(long.encode()) <= 1000
    assert note_of("ä" * 500) == "ä" * 500
