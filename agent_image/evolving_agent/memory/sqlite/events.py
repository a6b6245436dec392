"""The knowledge graph in SQLite.

Several pods on one node share the database (WAL). Statements run in threads: none of them is long.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from evolving_agent.memory.graph import MAX_FITTING, Statement, TemporalEvent
from evolving_agent.memory.matching import content_words, coverage, search_expression
from evolving_agent.memory.sqlite.database import Database
from evolving_agent.memory.sqlite.schema import GRAPH_MIGRATIONS


class SQLiteEvents:
    """An EventStore. `SQLiteEvents.open(path)`; close it after use."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> SQLiteEvents:
        """Opens or creates the database. A damaged one is set aside, never deleted, and a new one made.

        Raises MemoryUnavailableError.
        """
        return cls(Database.open(path, GRAPH_MIGRATIONS, "the memory database"))

    def close(self) -> None:
        self._database.close()

    async def add(self, statement: Statement, moment: float) -> None:
        def work() -> None:
            with self._database.transaction() as connection:
                _insert(connection, statement, moment)

        await asyncio.to_thread(work)

    async def fitting(self, query: str, moment: float) -> list[TemporalEvent]:
        return await asyncio.to_thread(self._fitting, query, moment)

    async def count(self) -> int:
        def work() -> int:
            with self._database.guarded() as connection:
                return int(connection.execute("SELECT count(*) FROM event").fetchone()[0])

        return await asyncio.to_thread(work)

    def _fitting(self, query: str, moment: float) -> list[TemporalEvent]:
        expression = search_expression(query)
        if not expression:
            return []
        with self._database.guarded() as connection:
            rows = connection.execute(
                """SELECT entity.name, predicate, object, text, valid_from, valid_to, source, event.search
                   FROM event_text JOIN event ON event.id = event_text.rowid
                   JOIN entity ON entity.id = event.subject
                   WHERE event_text MATCH ? AND valid_from <= ? AND (valid_to IS NULL OR valid_to > ?)
                   ORDER BY bm25(event_text) LIMIT ?""",
                (expression, moment, moment, MAX_FITTING),
            ).fetchall()
        words = content_words(query)
        fitting = [(fit, row) for row in rows if (fit := coverage(words, row[7]))]
        fitting.sort(key=lambda pair: -pair[0])  # stable: equals stay in the order of their rank
        return [TemporalEvent(*row[:7]) for _, row in fitting]


def _insert(connection: sqlite3.Connection, new: Statement, moment: float) -> None:
    subject = _entity_id(connection, new.kind, new.subject)
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
        (*about, new.value, new.text, new.search, moment, until, new.source),
    )


def _entity_id(connection: sqlite3.Connection, kind: str, name: str) -> int:
    connection.execute("INSERT OR IGNORE INTO entity (kind, name) VALUES (?, ?)", (kind, name))
    row = connection.execute("SELECT id FROM entity WHERE kind = ? AND name = ?", (kind, name)).fetchone()
    return int(row[0])
