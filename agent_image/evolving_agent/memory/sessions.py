"""Conversations that the agent keeps for its clients: turns, the sessions they belong to, who answers them.

One SQLite database for all pods of the agent: any of them continues what another one began. Kept apart from
the knowledge graph, because what is said in a session is forgotten after a time, and what was learned is not.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from evolving_agent.memory.database import Database

MAX_KEPT_TURNS = 1_000_000  # of all sessions; the oldest go first
MAX_CALLS_ASKED = 500  # of one conversation
EXPIRED_AT_ONCE = 50  # rows that one new turn deletes: expiry keeps up and no turn waits for it
CHARS_PER_TOKEN = 4  # an estimate: models count differently

Message = dict[str, Any]  # OpenAI's chat message

# Entry n brings a database from version n to n + 1. Never edit one that was released: add another.
MIGRATIONS = (
    """
    -- `session` is never empty: a response that continues nothing begins a session of its own.
    -- `said` holds what the client said in this turn, `response` what GET /v1/responses/{id} shows.
    -- Times are seconds since the epoch, UTC.
    CREATE TABLE turn (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        session TEXT NOT NULL,
        previous TEXT,
        said TEXT NOT NULL,
        answer TEXT NOT NULL,
        response TEXT,
        at REAL NOT NULL
    );
    CREATE INDEX turn_by_session ON turn (session, number);
    CREATE INDEX turn_by_time ON turn (at);
    -- The configuration (its hash) that answers a session.
    CREATE TABLE session (
        id TEXT PRIMARY KEY,
        config TEXT NOT NULL,
        at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX session_by_time ON session (at);
    """,
    """
    -- `calls`: of the client's tools, by the assistant in this turn; NULL where it answered.
    ALTER TABLE turn ADD COLUMN calls TEXT;
    -- What a run had done itself when it called the client's tools, by the ID of each of those calls.
    CREATE TABLE work (
        call TEXT PRIMARY KEY,
        messages TEXT NOT NULL,
        at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX work_by_time ON work (at);
    """,
)


@dataclass(frozen=True)
class Turn:
    """What a client said, and what it was answered. `previous` is the ID of the turn that it continues.

    With `calls` (a chat message's `tool_calls`) the assistant waits for what the client's tools say.
    """

    id: str
    session: str
    said: list[Message]
    answer: str
    previous: str | None = None
    response: dict[str, Any] | None = None
    calls: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True)
class Bounds:
    """How much of a history comes back. Tokens are estimated, see `estimated_tokens`."""

    turns: int
    tokens: int


@dataclass(frozen=True)
class History:
    """What was said before, oldest first, and in which session. `config` is the hash of who answers it."""

    session: str
    messages: list[Message]
    config: str | None


class UnknownTurnError(LookupError):
    """No such turn is kept: it never was, or it was too long ago."""


class Sessions:
    """`Sessions.open(path)`; close it after use. Safe from any thread.

    Raises MemoryUnavailableError from every method.
    """

    def __init__(self, database: Database, ttl_seconds: float) -> None:
        self._database = database
        self._ttl_seconds = ttl_seconds

    @classmethod
    def open(cls, path: Path, *, ttl_seconds: float) -> Sessions:
        """Opens or creates the database. A damaged one is set aside, never deleted, and a new one made."""
        return cls(Database.open(path, MIGRATIONS, "the database of sessions"), ttl_seconds)

    def close(self) -> None:
        self._database.close()

    def of_session(self, session: str, bounds: Bounds, *, at: float | None = None) -> History:
        """The latest turns of a session within the bounds; an empty history for an unknown one."""
        since = self._since(at)
        with self._database.guarded() as connection:
            rows = connection.execute(
                "SELECT said, answer, calls FROM turn WHERE session = ? AND at > ? "
                "ORDER BY number DESC LIMIT ?",
                (session, since, bounds.turns),
            ).fetchall()
            return History(session, _within(rows, bounds), _config_of(connection, session, since))

    def before(self, turn: str, bounds: Bounds, *, at: float | None = None) -> History:
        """The turn and those it continues, one after the other. Raises UnknownTurnError.

        A chain whose older part has expired or was deleted begins where it is still known.
        """
        since = self._since(at)
        with self._database.guarded() as connection:
            rows = connection.execute(
                """WITH RECURSIVE chain (said, answer, calls, previous, session, depth) AS (
                       SELECT said, answer, calls, previous, session, 1 FROM turn WHERE id = ? AND at > ?
                       UNION ALL
                       SELECT turn.said, turn.answer, turn.calls, turn.previous, turn.session, depth + 1
                       FROM chain JOIN turn ON turn.id = chain.previous
                       WHERE turn.at > ? AND depth < ?
                   )
                   SELECT said, answer, calls, session FROM chain ORDER BY depth""",
                (turn, since, since, bounds.turns),
            ).fetchall()
            if not rows:
                raise UnknownTurnError(turn)
            session = rows[0][3]
            turns = [(said, answer, calls) for said, answer, calls, _ in rows]
            return History(session, _within(turns, bounds), _config_of(connection, session, since))

    def assign(self, session: str, config: str, *, at: float | None = None) -> None:
        """From now on the configuration with that hash answers the session."""
        moment = time.time() if at is None else at
        with self._database.guarded() as connection:
            connection.execute(
                "INSERT INTO session (id, config, at) VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET config = excluded.config, at = excluded.at",
                (session, config, moment),
            )

    def keep(self, turn: Turn, *, at: float | None = None) -> None:
        """Adds a turn, and deletes some of what has expired."""
        moment = time.time() if at is None else at
        said, response = (None if part is None else _encoded(part) for part in (turn.said, turn.response))
        calls = _encoded(turn.calls) if turn.calls else None
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO turn (id, session, previous, said, answer, calls, response, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (turn.id, turn.session, turn.previous, said, turn.answer, calls, response, moment),
            )
            connection.execute("UPDATE session SET at = ? WHERE id = ?", (moment, turn.session))
            self._forget(connection, moment)

    def keep_work(
        self, calls: Sequence[str], messages: Sequence[Message], *, at: float | None = None
    ) -> None:
        """What a run had done itself before it made these calls (IDs) of the client's tools."""
        moment, kept = (time.time() if at is None else at), _encoded(messages)
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO work (call, messages, at) VALUES (?, ?, ?)",
                [(call, kept, moment) for call in calls],
            )
            connection.execute(
                "DELETE FROM work WHERE call IN (SELECT call FROM work WHERE at <= ? LIMIT ?)",
                (moment - self._ttl_seconds, EXPIRED_AT_ONCE),
            )

    def work_of(self, calls: Sequence[str], *, at: float | None = None) -> dict[str, list[Message]]:
        """By call, for those calls of which it is known; of very many, the latest."""
        asked = calls[-MAX_CALLS_ASKED:]
        with self._database.guarded() as connection:
            rows = connection.execute(
                f"SELECT call, messages FROM work WHERE at > ? AND call IN ({','.join('?' * len(asked))})",  # noqa: S608 - question marks only
                (self._since(at), *asked),
            ).fetchall()
        return {call: msgspec.json.decode(messages) for call, messages in rows}

    def response(self, turn: str, *, at: float | None = None) -> dict[str, Any]:
        """The response as it was answered. Raises UnknownTurnError."""
        with self._database.guarded() as connection:
            row = connection.execute(
                "SELECT response FROM turn WHERE id = ? AND at > ? AND response IS NOT NULL",
                (turn, self._since(at)),
            ).fetchone()
        if row is None:
            raise UnknownTurnError(turn)
        kept: dict[str, Any] = msgspec.json.decode(row[0])
        return kept

    def delete(self, turn: str) -> None:
        """Forgets a response: it can be continued no longer. Raises UnknownTurnError."""
        with self._database.guarded() as connection:
            deleted = connection.execute("DELETE FROM turn WHERE id = ? AND response IS NOT NULL", (turn,))
            if deleted.rowcount == 0:
                raise UnknownTurnError(turn)

    def count(self) -> int:
        """Number of turns that are still in the database."""
        with self._database.guarded() as connection:
            return int(connection.execute("SELECT count(*) FROM turn").fetchone()[0])

    def _since(self, at: float | None) -> float:
        return (time.time() if at is None else at) - self._ttl_seconds

    def _forget(self, connection: sqlite3.Connection, moment: float) -> None:
        since = moment - self._ttl_seconds
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


def estimated_tokens(messages: Sequence[Message]) -> int:
    """Of the messages' JSON, which also counts names, tool calls and pictures."""
    return len(msgspec.json.encode(messages)) // CHARS_PER_TOKEN


def _config_of(connection: sqlite3.Connection, session: str, since: float) -> str | None:
    row = connection.execute(
        "SELECT config FROM session WHERE id = ? AND at > ?", (session, since)
    ).fetchone()
    return None if row is None else str(row[0])


def _within(newest_first: Sequence[tuple[str, str, str | None]], bounds: Bounds) -> list[Message]:
    """Whole turns, the oldest left out, in the order in which they were said.

    The first one is none that answers calls of a turn that is left out: no model takes such a thing.
    """
    left, turns = bounds.tokens * CHARS_PER_TOKEN, []
    for said, answer, calls in newest_first:
        left -= len(said) + len(answer) + len(calls or "")
        if left < 0:
            break
        turns.append([*msgspec.json.decode(said), _answered(answer, calls)])
    while turns and turns[-1][0].get("role") == "tool":
        turns.pop()
    return [message for turn in reversed(turns) for message in turn]


def _answered(answer: str, calls: str | None) -> Message:
    if calls is None:
        return {"role": "assistant", "content": answer}
    return {"role": "assistant", "content": answer or None, "tool_calls": msgspec.json.decode(calls)}


def _encoded(value: Any) -> str:
    return msgspec.json.encode(value).decode()
