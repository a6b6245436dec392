"""Conversations in SQLite. Several pods on one node share the database (WAL)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from evolving_agent.memory.sessions import (
    EXPIRED_AT_ONCE,
    MAX_KEPT_TURNS,
    EncodedTurn,
    Excerpt,
)
from evolving_agent.memory.sqlite.database import Database
from evolving_agent.memory.sqlite.schema import SESSION_MIGRATIONS

T = TypeVar("T")


class SQLiteTurns:
    """A TurnStore. `SQLiteTurns.open(path)`; close it after use."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> SQLiteTurns:
        """Opens or creates the database. A damaged one is set aside, never deleted, and a new one made.

        Raises MemoryUnavailableError.
        """
        return cls(Database.open(path, SESSION_MIGRATIONS, "the database of sessions"))

    def close(self) -> None:
        self._database.close()

    async def latest(self, session: str, since: float, limit: int) -> Excerpt:
        def work(connection: sqlite3.Connection) -> Excerpt:
            rows = connection.execute(
                "SELECT said, answer, calls FROM turn WHERE session = ? AND at > ? "
                "ORDER BY number DESC LIMIT ?",
                (session, since, limit),
            ).fetchall()
            return Excerpt(session, rows, _config_of(connection, session, since))

        return await self._with(work)

    async def chain(self, turn: str, since: float, limit: int) -> Excerpt | None:
        def work(connection: sqlite3.Connection) -> Excerpt | None:
            rows = connection.execute(
                """WITH RECURSIVE chain (said, answer, calls, previous, session, depth) AS (
                       SELECT said, answer, calls, previous, session, 1 FROM turn WHERE id = ? AND at > ?
                       UNION ALL
                       SELECT turn.said, turn.answer, turn.calls, turn.previous, turn.session, depth + 1
                       FROM chain JOIN turn ON turn.id = chain.previous
                       WHERE turn.at > ? AND depth < ?
                   )
                   SELECT said, answer, calls, session FROM chain ORDER BY depth""",
                (turn, since, since, limit),
            ).fetchall()
            if not rows:
                return None
            session = rows[0][3]
            turns = [(said, answer, calls) for said, answer, calls, _ in rows]
            return Excerpt(session, turns, _config_of(connection, session, since))

        return await self._with(work)

    async def assign(self, session: str, config: str, at: float) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO session (id, config, at) VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET config = excluded.config, at = excluded.at",
                (session, config, at),
            )

        await self._with(work)

    async def add(self, turn: EncodedTurn, at: float, since: float) -> None:
        def work() -> None:
            with self._database.transaction() as connection:
                connection.execute(
                    "INSERT INTO turn (id, session, previous, said, answer, calls, response, at) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        turn.id,
                        turn.session,
                        turn.previous,
                        turn.said,
                        turn.answer,
                        turn.calls,
                        turn.response,
                        at,
                    ),
                )
                connection.execute("UPDATE session SET at = ? WHERE id = ?", (at, turn.session))
                _forget(connection, since)

        await asyncio.to_thread(work)

    async def add_work(self, calls: Sequence[str], messages: str, at: float, since: float) -> None:
        def work() -> None:
            with self._database.transaction() as connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO work (call, messages, at) VALUES (?, ?, ?)",
                    [(call, messages, at) for call in calls],
                )
                connection.execute(
                    "DELETE FROM work WHERE call IN (SELECT call FROM work WHERE at <= ? LIMIT ?)",
                    (since, EXPIRED_AT_ONCE),
                )

        await asyncio.to_thread(work)

    async def work(self, calls: Sequence[str], since: float) -> Sequence[tuple[str, str]]:
        marks = ",".join("?" * len(calls))

        def work(connection: sqlite3.Connection) -> list[tuple[str, str]]:
            return connection.execute(
                f"SELECT call, messages FROM work WHERE at > ? AND call IN ({marks})",  # noqa: S608 - only marks
                (since, *calls),
            ).fetchall()

        return await self._with(work)

    async def response(self, turn: str, since: float) -> str | None:
        def work(connection: sqlite3.Connection) -> str | None:
            row = connection.execute(
                "SELECT response FROM turn WHERE id = ? AND at > ? AND response IS NOT NULL", (turn, since)
            ).fetchone()
            return None if row is None else str(row[0])

        return await self._with(work)

    async def delete(self, turn: str) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            statement = "DELETE FROM turn WHERE id = ? AND response IS NOT NULL"
            return connection.execute(statement, (turn,)).rowcount > 0

        return await self._with(work)

    async def count(self) -> int:
        def work(connection: sqlite3.Connection) -> int:
            return int(connection.execute("SELECT count(*) FROM turn").fetchone()[0])

        return await self._with(work)

    async def _with(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def guarded() -> T:
            with self._database.guarded() as connection:
                return work(connection)

        return await asyncio.to_thread(guarded)


def _config_of(connection: sqlite3.Connection, session: str, since: float) -> str | None:
    row = connection.execute(
        "SELECT config FROM session WHERE id = ? AND at > ?", (session, since)
    ).fetchone()
    return None if row is None else str(row[0])


def _forget(connection: sqlite3.Connection, since: float) -> None:
    connection.execute(
        "DELETE FROM turn WHERE number IN (SELECT number FROM turn WHERE at <= ? LIMIT ?)",
        (since, EXPIRED_AT_ONCE),
    )
    connection.execute(
        "DELETE FROM session WHERE id IN (SELECT id FROM session WHERE at <= ? LIMIT ?)",
        (since, EXPIRED_AT_ONCE),
    )
    connection.execute(
        "DELETE FROM turn WHERE number <= (SELECT max(number) FROM turn) - ?", (MAX_KEPT_TURNS,)
    )
