"""The temporal knowledge graph: entities, and events that were true of them for a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

__all__ = ["EventStore", "Memory", "Statement", "TemporalEvent", "as_prompt"]

DEFAULT_BUDGET_CHARS = 600
MAX_FITTING = 50
MAX_TEXT_CHARS = 300


@dataclass(frozen=True)
class TemporalEvent:
    """What was true of `subject` from `valid_from` until `valid_to` (None: still true); epoch seconds."""

    subject: str
    predicate: str
    object: str
    text: str
    valid_from: float
    valid_to: float | None
    source: str  # the episode that it was learned from


@dataclass(frozen=True)
class Statement:
    """What is to become an event. `replaces`: it contradicts what else the subject's predicate says."""

    kind: str  # of the subject
    subject: str
    predicate: str
    value: str
    text: str  # as it is recalled
    search: str  # as it is found
    source: str
    replaces: bool


class EventStore(Protocol):
    """Where the graph is kept. Every method raises MemoryUnavailableError."""

    async def add(self, statement: Statement, moment: float) -> None:
        """True from `moment` on; what is known to be true then is not added again."""

    async def fitting(self, query: str, moment: float) -> list[TemporalEvent]:
        """Those valid at `moment` that fit the query (see matching.py), best first, at most MAX_FITTING."""

    async def count(self) -> int:
        """Number of events, those that are no longer true included."""


class Memory:
    """Raises MemoryUnavailableError from every method. The store is the caller's to close."""

    def __init__(self, events: EventStore) -> None:
        self._events = events

    async def assert_fact(
        self, subject: str, predicate: str, value: str, *, source: str, at: float | None = None
    ) -> None:
        """From `at` (default: now) on, `subject predicate value`; what it contradicts ends there."""
        text = f"{subject} {predicate} {value}"
        await self._add(Statement("thing", subject, predicate, value, text, text, source, replaces=True), at)

    async def correct(
        self, request: str, answer: str, *, source: str, certain: bool, at: float | None = None
    ) -> None:
        """From `at` on, `answer` is the right answer to `request`; an earlier correction ends there.

        What the agent itself believes (not `certain`) stands beside what a person said, and never ends it.
        """
        predicate, hedge = ("is answered by", "") if certain else ("may be answered by", "perhaps ")
        text = f"When asked {_shortened(request, 120)!r}: {hedge}{answer}"
        correction = Statement("request", request, predicate, answer, text, request, source, replaces=True)
        await self._add(correction, at)

    async def learn(
        self, task_type: str, lesson: str, request: str, *, source: str, at: float | None = None
    ) -> None:
        """A lesson from an episode of that task type; lessons stand beside each other."""
        search = f"{request} {lesson}"
        learned = Statement("task", task_type, "lesson", lesson, lesson, search, source, replaces=False)
        await self._add(learned, at)

    async def recall(
        self, query: str, *, at: float | None = None, budget_chars: int = DEFAULT_BUDGET_CHARS
    ) -> list[TemporalEvent]:
        """The events valid at `at` (default: now) that fit the query well, best first, within the budget."""
        fitting = await self._events.fitting(query, time.time() if at is None else at)
        return list(_within(fitting, budget_chars))

    async def count(self) -> int:
        """Number of events, those that are no longer true included."""
        return await self._events.count()

    async def _add(self, statement: Statement, at: float | None) -> None:
        bounded = replace(
            statement,
            subject=statement.subject.strip(),
            text=_shortened(statement.text, MAX_TEXT_CHARS),  # it will cost prompt tokens
        )
        await self._events.add(bounded, time.time() if at is None else at)


def as_prompt(events: list[TemporalEvent]) -> str:
    """Recalled events as they follow the instructions in the system text; "" for none."""
    if not events:
        return ""
    return "\n\nRemembered:\n" + "\n".join(f"- {event.text}" for event in events)


def _within(events: Iterable[TemporalEvent], budget_chars: int) -> Iterator[TemporalEvent]:
    seen: set[str] = set()
    for event in events:
        if event.text in seen:
            continue
        seen.add(event.text)
        budget_chars -= len(event.text) + 3  # its bullet and line end
        if budget_chars < 0:
            return
        yield event


def _shortened(text: str, limit: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
