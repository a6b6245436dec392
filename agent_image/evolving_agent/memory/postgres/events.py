"""The knowledge graph in PostgreSQL. What fits a query is found by its words, see matching.py."""

from __future__ import annotations

import asyncio
import hashlib
import time

from evolving_agent.memory.graph import MAX_FITTING, Statement, TemporalEvent
from evolving_agent.memory.matching import MAX_QUERY_WORDS, content_words, needed
from evolving_agent.memory.postgres.connection import Connection
from evolving_agent.memory.postgres.database import PostgresDatabase
from evolving_agent.memory.postgres.text import storable

# The newest, of those that have rare words of the query and of those that only have common ones, where there
# are more: so a recall takes milliseconds.
MAX_CANDIDATES = 3000
COMMON_SHARE = 0.01  # of all events
FREQUENCIES_SECONDS = 600.0


class PostgresEvents:
    """An EventStore."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._frequencies: dict[str, float] = {}  # of the commonest words: the share of events that have them
        self._frequencies_until = 0.0  # time.monotonic()

    async def add(self, statement: Statement, moment: float) -> None:
        words = await asyncio.to_thread(content_words, storable(statement.search))

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await _insert(connection, statement, words, moment)

        await self._database.run(work, patient=True)

    async def fitting(self, query: str, moment: float) -> list[TemporalEvent]:
        """Of equals the shorter comes first, and then the older. See MAX_CANDIDATES."""
        words = await asyncio.to_thread(content_words, storable(query))
        if not words:
            return []

        least = needed(len(words))

        async def work(connection: Connection) -> list[TemporalEvent]:
            rare, common = await self._telling(connection, words, least)
            rows = await connection.fetch(
                """WITH valid AS NOT MATERIALIZED (
                       SELECT * FROM event WHERE valid_from <= $5 AND (valid_to IS NULL OR valid_to > $5)
                   ), candidate AS (
                       (SELECT * FROM valid WHERE words && $1::text[] ORDER BY id DESC LIMIT $6)
                       UNION ALL
                       (SELECT * FROM valid WHERE words && $2::text[] AND NOT words && $1::text[]
                        ORDER BY id DESC LIMIT $6)
                   )
                   SELECT entity.name, predicate, object, text, valid_from, valid_to, source
                   FROM candidate JOIN entity ON entity.id = subject, LATERAL (
                       SELECT count(*) AS shared FROM unnest(words) AS word WHERE word = ANY ($3::text[])
                   ) AS counted
                   WHERE shared >= $4 ORDER BY shared DESC, cardinality(words), candidate.id LIMIT $7""",
                rare,
                common,
                words,
                least,
                moment,
                MAX_CANDIDATES,
                MAX_FITTING,
            )
            return [TemporalEvent(*row) for row in rows]

        return await self._database.run(work)

    async def count(self) -> int:
        async def work(connection: Connection) -> int:
            return int(await connection.fetchval("SELECT count(*) FROM event"))

        return await self._database.run(work)

    async def _telling(
        self, connection: Connection, words: list[str], least: int
    ) -> tuple[list[str], list[str]]:
        """So many of the words, the rarest, that a text without any of them lacks too many to fit.

        Those that are rare, and those that so many events have that they would hide the others.
        """
        if time.monotonic() > self._frequencies_until:
            rows = await connection.fetch(
                """SELECT word, frequency FROM pg_stats, unnest(
                       most_common_elems::text::text[], most_common_elem_freqs
                   ) AS common (word, frequency)
                   WHERE schemaname = current_schema() AND tablename = 'event' AND attname = 'words'
                       AND word IS NOT NULL"""
            )
            self._frequencies = dict(rows)
            self._frequencies_until = time.monotonic() + FREQUENCIES_SECONDS
        rarest_first = sorted(words, key=lambda word: self._frequencies.get(word, 0.0))
        telling = rarest_first[: min(len(words) - least + 1, MAX_QUERY_WORDS)]
        rare = [word for word in telling if self._frequencies.get(word, 0.0) < COMMON_SHARE]
        return rare, telling[len(rare) :]


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
