"""Conversations in PostgreSQL."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from evolving_agent.memory.errors import MemoryUnavailableError
from evolving_agent.memory.postgres.connection import Connection
from evolving_agent.memory.postgres.database import PostgresDatabase
from evolving_agent.memory.postgres.text import key, storable
from evolving_agent.memory.sessions import EXPIRED_AT_ONCE, MAX_KEPT_TURNS, EncodedTurn, Excerpt

logger = logging.getLogger(__name__)


class PostgresTurns:
    """A TurnStore. An answer cannot do without its history: a server that restarts is waited for."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def latest(self, session: str, since: float, limit: int) -> Excerpt:
        named = key(session)

        async def work(connection: Connection) -> Excerpt:
            rows = await connection.fetch(
                "SELECT said, answer, calls FROM turn WHERE session = $1 AND at > $2 "
                "ORDER BY number DESC LIMIT $3",
                named,
                since,
                limit,
            )
            turns = [(said, answer, calls) for said, answer, calls in rows]
            return Excerpt(session, turns, await _config_of(connection, named, since))

        return await self._database.run(work, patient=True)

    async def chain(self, turn: str, since: float, limit: int) -> Excerpt | None:
        async def work(connection: Connection) -> Excerpt | None:
            rows = await connection.fetch(
                """WITH RECURSIVE chain (said, answer, calls, previous, session, depth) AS (
                       SELECT said, answer, calls, previous, session, 1 FROM turn WHERE id = $1 AND at > $2
                       UNION ALL
                       SELECT turn.said, turn.answer, turn.calls, turn.previous, turn.session, depth + 1
                       FROM chain JOIN turn ON turn.id = chain.previous
                       WHERE turn.at > $2 AND depth < $3
                   )
                   SELECT said, answer, calls, session FROM chain ORDER BY depth""",
                storable(turn),
                since,
                limit,
            )
            if not rows:
                return None
            session = str(rows[0][3])
            turns = [(said, answer, calls) for said, answer, calls, _ in rows]
            return Excerpt(session, turns, await _config_of(connection, session, since))

        return await self._database.run(work, patient=True)

    async def assign(self, session: str, config: str, at: float) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(
                "INSERT INTO session (id, config, at) VALUES ($1, $2, $3) "
                "ON CONFLICT (id) DO UPDATE SET config = excluded.config, at = excluded.at",
                key(session),
                config,
                at,
            )

        await self._database.run(work, patient=True)

    async def add(self, turn: EncodedTurn, at: float, since: float) -> None:
        async def work(connection: Connection) -> None:
            # it may be there: the connection broke while it was committed
            await connection.execute(
                """WITH kept AS (
                       INSERT INTO turn (id, session, previous, said, answer, response, at, calls)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING
                   )
                   UPDATE session SET at = $7 WHERE id = $2""",
                turn.id,
                key(turn.session),
                None if turn.previous is None else storable(turn.previous),
                turn.said,
                storable(turn.answer),
                turn.response,
                at,
                turn.calls,
            )

        async def forget(connection: Connection) -> None:
            await _forget(connection, since)

        await self._database.run(work, patient=True)
        try:
            await self._database.run(forget)
        except MemoryUnavailableError as error:
            logger.warning("what is expired is left to the next turn: %s", error)

    async def add_work(self, calls: Sequence[str], messages: str, at: float, since: float) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(
                "INSERT INTO work (call, messages, at) SELECT unnest($1::text[]), $2, $3 "
                "ON CONFLICT (call) DO UPDATE SET messages = excluded.messages, at = excluded.at",
                list({key(call) for call in calls}),
                messages,
                at,
            )
            await connection.execute(
                """DELETE FROM work WHERE call IN (
                       SELECT call FROM work WHERE at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED
                   )""",
                since,
                EXPIRED_AT_ONCE,
            )

        await self._database.run(work, patient=True)

    async def work(self, calls: Sequence[str], since: float) -> Sequence[tuple[str, str]]:
        named = {key(call): call for call in calls}

        async def work(connection: Connection) -> list[tuple[str, str]]:
            rows = await connection.fetch(
                "SELECT call, messages FROM work WHERE at > $1 AND call = ANY($2)", since, list(named)
            )
            return [(named[call], messages) for call, messages in rows]

        return await self._database.run(work, patient=True)

    async def response(self, turn: str, since: float) -> str | None:
        async def work(connection: Connection) -> str | None:
            found = await connection.fetchval(
                "SELECT response FROM turn WHERE id = $1 AND at > $2", storable(turn), since
            )
            return None if found is None else str(found)

        return await self._database.run(work, patient=True)

    async def delete(self, turn: str) -> bool:
        async def work(connection: Connection) -> bool:
            done = await connection.execute(
                "DELETE FROM turn WHERE id = $1 AND response IS NOT NULL", storable(turn)
            )
            return done != "DELETE 0"

        return await self._database.run(work)  # done twice, it would be told as unknown

    async def count(self) -> int:
        async def work(connection: Connection) -> int:
            return int(await connection.fetchval("SELECT count(*) FROM turn"))

        return await self._database.run(work)


async def _config_of(connection: Connection, session: str, since: float) -> str | None:
    config = await connection.fetchval("SELECT config FROM session WHERE id = $1 AND at > $2", session, since)
    return None if config is None else str(config)


async def _forget(connection: Connection, since: float) -> None:
    """Pods that forget at the same time pass over what another one has at hand."""
    await connection.execute(
        """WITH expired AS (
               DELETE FROM turn WHERE number IN (
                   SELECT number FROM turn WHERE at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED
               )
           ), beyond AS (
               DELETE FROM turn WHERE number IN (
                   SELECT number FROM turn WHERE number <= (SELECT max(number) FROM turn) - $3
                   LIMIT $2 FOR UPDATE SKIP LOCKED
               )
           )
           DELETE FROM session WHERE id IN (
               SELECT id FROM session WHERE at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED
           )""",
        since,
        EXPIRED_AT_ONCE,
        MAX_KEPT_TURNS,
    )
