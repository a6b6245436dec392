"""The knowledge graph in PostgreSQL. What fits a query is found by its words, see matching.py."""

from __future__ import annotations

import asyncio
import hashlib

from evolving_agent.memory.graph import MAX_FITTING, Statement, TemporalEvent
from evolving_agent.memory.matching import MAX_QUERY_WORDS, content_words, needed
from evolving_agent.memory.postgres.connection import Connection
from evolving_agent.memory.postgres.database import PostgresDatabase
from evolving_agent.memory.postgres.text import storable


class PostgresEvents:
    """An EventStore."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def add(self, statement: Statement, moment: float) -> None:
        words = await asyncio.to_thread(content_words, storable(statement.search))

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await _insert(connection, statement, words, moment)

        await self._database.run(work, patient=True)

    async def fitting(self, query: str, moment: float) -> list[TemporalEvent]:
        """Of equals the shorter comes first, and then the older."""
        words = await asyncio.to_thread(content_words, storable(query))
        if not words:
            return []

        async def work(connection: Connection) -> list[TemporalEvent]:
            rows = await connection.fetch(
                """WITH fitting AS (
                       SELECT event.*, shared FROM event,
                           LATERAL (SELECT count(*) AS shared FROM unnest(words) AS word
                                    WHERE word = ANY ($2::text[])) AS counted
                       WHERE words && $1::text[] AND shared >= $3
                           AND valid_from <= $4 AND (valid_to IS NULL OR valid_to > $4)
                       ORDER BY shared DESC, cardinality(words), event.id LIMIT $5
                   )
                   SELECT entity.name, predicate, object, text, valid_from, valid_to, source
                   FROM fitting JOIN entity ON entity.id = subject
                   ORDER BY shared DESC, cardinality(words), fitting.id""",
                words[:MAX_QUERY_WORDS],
                words,
                needed(len(words)),
                moment,
                MAX_FITTING,
            )
            return [TemporalEvent(*row) for row in rows]

        return await self._database.run(work)

    async def count(self) -> int:
        async def work(connection: Connection) -> int:
            return int(await connection.fetchval("SELECT count(*) FROM event"))

        return await self._database.run(work)


async def _insert(connection: Connection, new: Statement, words: list[str], moment: float) -> None:
    kind, name, predicate, value = map(storable, (new.kind, new.subject, new.predicate, new.value))
    # its row is locked until the transaction ends: the statements about one subject are added one by one
    subject = await connection.fetchval(
        """INSERT INTO entity (digest, kind, name) VALUES ($1, $2, $3)
           ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest RETURNING id""",
        _digest(kind, name),
        kind,
        name,
    )
    statement = _digest(predicate, value)
    known = await connection.fetchval(
        """SELECT 1 FROM event WHERE subject = $1 AND statement = $2
           AND valid_from <= $3 AND (valid_to IS NULL OR valid_to > $3) LIMIT 1""",
        subject,
        statement,
        moment,
    )
    if known:
        return
    until: float | None = None
    if new.replaces:
        # a fact that is told late ends where the next one, already known, begins
        until = await connection.fetchval(
            "SELECT min(valid_from) FROM event WHERE subject = $1 AND predicate = $2 AND valid_from > $3",
            subject,
            predicate,
            moment,
        )
        await connection.execute(
            """UPDATE event SET valid_to = $3 WHERE subject = $1 AND predicate = $2
               AND valid_from <= $3 AND (valid_to IS NULL OR valid_to > $3)""",
            subject,
            predicate,
            moment,
        )
    await connection.execute(
        """INSERT INTO event
               (subject, predicate, object, statement, text, search, words, valid_from, valid_to, source)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)""",
        subject,
        predicate,
        value,
        statement,
        storable(new.text),
        storable(new.search),
        words,
        moment,
        until,
        storable(new.source),
    )


def _digest(*parts: str) -> bytes:
    """Stands for texts (which hold no NUL) where an index cannot hold them."""
    return hashlib.sha256("\0".join(parts).encode()).digest()[:16]
