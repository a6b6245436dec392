"""The temporal knowledge graph on SQLite: entities, and events that were true of them for a time.

Several pods on one node share the database (WAL); every method is safe from any thread, and short.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evolving_agent.memory.database import Database, MemoryUnavailableError
from evolving_agent.memory.matching import content_words, coverage, search_expression
from evolving_agent.memory.schema import MIGRATIONS

__all__ = ["Memory", "MemoryUnavailableError", "TemporalEvent", "as_prompt"]

DEFAULT_BUDGET_CHARS = 600
MAX_CANDIDATES = 50
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
class _Statement:
    """What is to become an event. `replaces`: it contradicts what else the subject's predicate says."""

    kind: str
    subject: str
    predicate: str
    value: str
    text: str  # as it is recalled
    search: str  # as it is found
    source: str
    replaces: bool


class Memory:
    """`Memory.open(path)`; close it after use. Raises MemoryUnavailableError from every method."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> Memory:
        """Opens or creates the database. A damaged one is set aside, never deleted, and a new one made."""
        return cls(Database.open(path, MIGRATIONS, "the memory database"))

    def close(self) -> None:
        self._database.close()

    def assert_fact(
        self, subject: str, predicate: str, value: str, *, source: str, at: float | None = None
    ) -> None:
        """From `at` (default: now) on, `subject predicate value`; what it contradicts ends there."""
        text = f"{subject} {predicate} {value}"
        self._add(_Statement("thing", subject, predicate, value, text, text, source, replaces=True), at)

    def correct(
        self, request: str, answer: str, *, source: str, certain: bool, at: float | None = None
    ) -> None:
        """From `at` on, `answer` is the right answer to `request`; an earlier correction ends there.

        What the agent itself believes (not `certain`) stands beside what a person said, and never ends it.
        """
        predicate, hedge = ("is answered by", "") if certain else ("may be answered by", "perhaps ")
        text = f"When asked {_shortened(request, 120)!r}: {hedge}{answer}"
        self._add(_Statement("request", request, predicate, answer, text, request, source, replaces=True), at)

    def learn(
        self, task_type: str, lesson: str, request: str, *, source: str, at: float | None = None
    ) -> None:
        """A lesson from an episode of that task type; lessons stand beside each other."""
        search = f"{request} {lesson}"
        self._add(_Statement("task", task_type, "lesson", lesson, lesson, search, source, replaces=False), at)

    def recall(
        self, query: str, *, at: float | None = None, budget_chars: int = DEFAULT_BUDGET_CHARS
    ) -> list[TemporalEvent]:
        """The events valid at `at` (default: now) that fit the query well, best first, within the budget."""
        expression = search_expression(query)
        if not expression:
            return []
        moment = time.time() if at is None else at
        with self._database.guarded() as connection:
            rows = connection.execute(
                """SELECT entity.name, predicate, object, text, valid_from, valid_to, source, event.search
                   FROM event_text JOIN event ON event.id = event_text.rowid
                   JOIN entity ON entity.id = event.subject
                   WHERE event_text MATCH ? AND valid_from <= ? AND (valid_to IS NULL OR valid_to > ?)
                   ORDER BY bm25(event_text) LIMIT ?""",
                (expression, moment, moment, MAX_CANDIDATES),
            ).fetchall()
        words = content_words(query)
        fitting = [(fit, row) for row in rows if (fit := coverage(words, row[7]))]
        fitting.sort(key=lambda pair: -pair[0])  # stable: equals stay in the order of their rank
        return list(_within([TemporalEvent(*row[:7]) for _, row in fitting], budget_chars))

    def count(self) -> int:
        """Number of events, those that are no longer true included."""
        with self._database.guarded() as connection:
            return int(connection.execute("SELECT count(*) FROM event").fetchone()[0])

    def _add(self, statement: _Statement, at: float | None) -> None:
        moment = time.time() if at is None else at
        with self._database.transaction() as connection:
            _insert(connection, statement, moment)


def as_prompt(events: list[TemporalEvent]) -> str:
    """Recalled events as they follow the instructions in the system text; "" for none."""
    if not events:
        return ""
    return "\n\nRemembered:\n" + "\n".join(f"- {event.text}" for event in events)


def _insert(connection: sqlite3.Connection, new: _Statement, moment: float) -> None:
    subject = _entity_id(connection, new.kind, new.subject.strip())
    about = (subject, new.predicate)
    known = connection.execute(
        """SELECT 1 FROM event WHERE subject = ? AND predicate = ? AND object = ?
           AND valid_from <= ? AND (valid_to IS NULL OR valid_to > ?)""",
        (*about, new.value, moment, moment),
    ).fetchone()
    if known:
        return
    until: float | None = None
    if new.replaces:
        # a fact that is told late ends where the next one, already known, begins
        until = connection.execute(
            "SELECT min(valid_from) FROM event WHERE subject = ? AND predicate = ? AND valid_from > ?",
            (*about, moment),
        ).fetchone()[0]
        connection.execute(
            """UPDATE event SET valid_to = ? WHERE subject = ? AND predicate = ?
               AND valid_from <= ? AND (valid_to IS NULL OR valid_to > ?)""",
            (moment, *about, moment, moment),
        )
    connection.execute(
        """INSERT INTO event (subject, predicate, object, text, search, valid_from, valid_to, source)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
        (*about, new.value, _shortened(new.text, MAX_TEXT_CHARS), new.search, moment, until, new.source),
    )


def _entity_id(connection: sqlite3.Connection, kind: str, name: str) -> int:
    connection.execute("INSERT OR IGNORE INTO entity (kind, name) VALUES (?, ?)", (kind, name))
    row = connection.execute("SELECT id FROM entity WHERE kind = ? AND name = ?", (kind, name)).fetchone()
    return int(row[0])


def _within(events: list[TemporalEvent], budget_chars: int) -> Iterator[TemporalEvent]:
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
