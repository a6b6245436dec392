"""A server that is gone, refuses, hangs, or is another one: memory says so, and comes back by itself."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from evolving_agent.memory.errors import MemoryUnavailableError
from evolving_agent.memory.graph import Memory
from evolving_agent.memory.postgres import database as database_module
from evolving_agent.memory.postgres.connection import Connection
from evolving_agent.memory.postgres.database import MAX_CONNECTIONS, PostgresDatabase
from evolving_agent.memory.postgres.events import PostgresEvents
from evolving_agent.memory.postgres.turns import PostgresTurns
from evolving_agent.memory.sessions import Bounds, Sessions, Turn
from support.cluster import eventually_async
from support.memories import DAY, SCHEMA
from support.postgres import PostgresServer, database_of, postgres_server

WIDE = Bounds(turns=10, tokens=1000)
DEADLINE_SECONDS = 60.0


@pytest.fixture(scope="module")
def mortal() -> Iterator[PostgresServer]:
    """A server that these tests may stop; each leaves it running."""
    with postgres_server() as server:
        yield server


@dataclass
class Opened:
    """A database, and what was told of it."""

    database: PostgresDatabase
    seen: list[bool] = field(default_factory=list)

    @property
    def memory(self) -> Memory:
        return Memory(PostgresEvents(self.database))

    @property
    def sessions(self) -> Sessions:
        return Sessions(PostgresTurns(self.database), ttl_seconds=DAY)

    async def until_up(self) -> None:
        async def up() -> bool:
            return self.database.problem is None

        await eventually_async(up, DEADLINE_SECONDS, "a memory database that is back")

    async def until_down(self) -> str:
        async def problem() -> str | None:
            try:
                await self.memory.recall("anything at all")
            except MemoryUnavailableError:
                return self.database.problem
            return None

        return str(await eventually_async(problem, DEADLINE_SECONDS, "an outage that is noticed"))


@pytest.fixture
async def open_database() -> AsyncIterator[Any]:
    opened: list[PostgresDatabase] = []

    async def open_database(uri: str) -> Opened:
        seen: list[bool] = []
        database = PostgresDatabase(uri, SCHEMA, seen.append)
        opened.append(database)
        await database.open()
        return Opened(database, seen)

    yield open_database
    for database in opened:
        await database.close()


def a_turn(number: int) -> Turn:
    return Turn(f"t{number}", "s", [{"role": "user", "content": f"q{number}"}], f"a{number}")


async def test_a_server_that_is_not_there_at_the_start_is_found_later(
    mortal: PostgresServer, open_database: Any
) -> None:
    uri = mortal.new_database()
    mortal.stop()
    opened = await open_database(uri)

    with pytest.raises(MemoryUnavailableError, match="cannot be used"):
        await opened.memory.recall("lost card")
    assert "Connect call failed" in opened.database.problem

    mortal.start()
    await opened.until_up()
    await opened.memory.learn("cards", "Block it.", "lost card", source="e")
    assert len(await opened.memory.recall("lost card")) == 1
    assert opened.seen == [False, True]


@pytest.mark.parametrize("end", ["immediate", "fast", "kill"])
async def test_a_restart_is_waited_for_where_an_answer_needs_it(
    mortal: PostgresServer, open_database: Any, end: str
) -> None:
    opened = await open_database(mortal.new_database())
    await opened.sessions.keep(a_turn(1))
    if end == "kill":
        mortal.kill()
    else:
        mortal.stop(end)
    await opened.until_down()

    waiting = [
        asyncio.create_task(opened.sessions.keep(a_turn(2))),
        asyncio.create_task(opened.sessions.of_session("s", WIDE)),
        asyncio.create_task(opened.memory.learn("cards", "Block it.", "lost card", source="e")),
    ]
    with pytest.raises(MemoryUnavailableError):
        await opened.memory.recall("lost card")  # an answer can do without it, and does not wait
    await asyncio.to_thread(mortal.start)
    await asyncio.gather(*waiting)

    history = await opened.sessions.of_session("s", WIDE)
    assert [message["content"] for message in history.messages] == ["q1", "a1", "q2", "a2"]
    assert len(await opened.memory.recall("lost card")) == 1
    assert opened.seen == [False, True, False, True]


async def test_an_outage_that_lasts_is_waited_for_no_longer(
    mortal: PostgresServer, open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "PATIENCE_SECONDS", 0.2)
    opened = await open_database(mortal.new_database())
    mortal.stop()
    await opened.until_down()

    for work in (opened.sessions.keep(a_turn(1)), opened.sessions.of_session("s", WIDE)):
        with pytest.raises(MemoryUnavailableError, match=r"cannot be used \(since \d+ s\)"):
            await work

    mortal.start()
    await opened.until_up()
    await opened.sessions.keep(a_turn(1))
    assert await opened.sessions.count() == 1


async def test_connections_that_are_cut_cost_nothing_that_matters(
    mortal: PostgresServer, open_database: Any
) -> None:
    uri = mortal.new_database()
    opened = await open_database(uri)
    cut = (
        f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database_of(uri)}'"
    )
    for number in range(20):
        ((ended,),) = await asyncio.to_thread(mortal.execute, cut)
        assert ended > 0
        await opened.sessions.keep(a_turn(number))

    assert await opened.sessions.count() == 20
    await opened.until_up()


async def test_work_whose_connection_breaks_at_its_commit_is_done_once(
    mortal: PostgresServer, open_database: Any
) -> None:
    """Whether it was committed nobody knows: it is done again, and is there once."""
    opened = await open_database(mortal.new_database())
    kept = opened.database.run

    async def breaks_afterwards(work: Any, *, patient: bool = False) -> Any:
        broken = False

        async def and_break(connection: Connection) -> Any:
            nonlocal broken
            done = await work(connection)
            if patient and not broken:
                broken = True
                raise ConnectionResetError("reset by peer")
            return done

        return await kept(and_break, patient=patient)

    opened.database.run = breaks_afterwards
    await opened.sessions.assign("s", "config")
    await opened.sessions.keep(a_turn(1))
    await opened.memory.assert_fact("Ada", "lives in", "Paris", source="e")

    assert await opened.sessions.count() == 1
    assert await opened.memory.count() == 1


async def test_a_server_that_hangs_is_given_up_and_found_again(
    mortal: PostgresServer, open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP: the connection lives, and nobody answers."""
    monkeypatch.setattr(database_module, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(database_module, "PATIENCE_SECONDS", 0.5)
    opened = await open_database(mortal.new_database())
    pids = [
        int(pid) for (pid,) in mortal.execute("SELECT pid FROM pg_stat_activity WHERE datname LIKE 'test%'")
    ]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(MemoryUnavailableError, match="does not answer"):
            await opened.memory.recall("lost card")
        await opened.until_up()  # over a new connection
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert await opened.memory.recall("lost card") == []


async def test_work_that_waits_behind_a_server_that_hangs_is_done(
    mortal: PostgresServer, open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections hang, and more work waits for them than there are."""
    monkeypatch.setattr(database_module, "ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(database_module, "STATEMENT_SECONDS", 1.0)  # less than what the work has to wait
    opened = await open_database(mortal.new_database())
    await asyncio.gather(*(opened.sessions.keep(a_turn(number)) for number in range(20)))
    backends = "SELECT pid FROM pg_stat_activity WHERE datname LIKE 'test%'"
    pids = [int(pid) for (pid,) in mortal.execute(backends)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        reads = (opened.sessions.of_session("s", WIDE) for _ in range(4 * MAX_CONNECTIONS))
        histories = await asyncio.gather(*reads)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert {len(history.messages) for history in histories} == {20}


async def test_a_statement_that_takes_too_long_is_no_outage(
    mortal: PostgresServer, open_database: Any
) -> None:
    opened = await open_database(mortal.new_database())

    async def sleep(connection: Connection) -> None:
        await connection.execute("SELECT pg_sleep(600)")

    with pytest.raises(MemoryUnavailableError, match="refused: QueryCanceledError"):
        await opened.database.run(sleep, patient=True)
    assert opened.database.problem is None


async def test_more_work_than_connections_waits_its_turn(mortal: PostgresServer, open_database: Any) -> None:
    uri = mortal.new_database()
    opened = await open_database(uri)

    await asyncio.gather(*(opened.sessions.keep(a_turn(number)) for number in range(200)))

    assert await opened.sessions.count() == 200
    ((connections,),) = mortal.execute(
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database_of(uri)}'"
    )
    assert 1 <= connections <= MAX_CONNECTIONS + 1  # one more for coming back


async def test_work_that_gets_no_connection_fails_by_name(
    mortal: PostgresServer, open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await open_database(mortal.new_database())
    monkeypatch.setattr(database_module, "STATEMENT_SECONDS", 0.1)
    all_held, end = asyncio.Barrier(MAX_CONNECTIONS + 1), asyncio.Event()

    async def hold(_: Connection) -> None:
        await all_held.wait()
        await end.wait()

    holders = [asyncio.create_task(opened.database.run(hold)) for _ in range(MAX_CONNECTIONS)]
    await all_held.wait()
    with pytest.raises(MemoryUnavailableError, match=f"all {MAX_CONNECTIONS} connections .* are busy"):
        await opened.memory.count()
    end.set()
    await asyncio.gather(*holders)

    assert await opened.memory.count() == 0


async def test_a_server_without_room_is_an_outage_until_there_is(
    mortal: PostgresServer, open_database: Any
) -> None:
    uri = mortal.new_database("CONNECTION LIMIT 1")
    first = await open_database(uri)
    second = await open_database(uri)
    assert "too many connections for role" in second.database.problem

    await first.database.close()
    await second.until_up()
    assert await second.memory.count() == 0


async def test_a_refused_password_is_told_and_not_shown(mortal: PostgresServer, open_database: Any) -> None:
    uri = mortal.new_database()
    opened = await open_database(uri.replace("p%40ss", "another"))

    assert "password authentication failed" in opened.database.problem
    assert "another" not in opened.database.problem


async def test_a_database_that_was_replaced_by_an_empty_one_is_used(
    mortal: PostgresServer, open_database: Any
) -> None:
    uri = mortal.new_database()
    opened = await open_database(uri)
    await opened.memory.assert_fact("Ada", "lives in", "Paris", source="e")
    mortal.execute(f'DROP SCHEMA "{SCHEMA}" CASCADE', database_of(uri))

    await opened.memory.assert_fact("Ada", "lives in", "Rome", source="e")

    assert [event.text for event in await opened.memory.recall("Ada lives")] == ["Ada lives in Rome"]


async def test_a_server_that_takes_no_writes_is_an_outage_until_it_does(
    mortal: PostgresServer, open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover: what was the primary is a standby now."""
    monkeypatch.setattr(database_module, "PATIENCE_SECONDS", 0.5)
    uri = mortal.new_database()
    opened = await open_database(uri)
    name = database_of(uri)
    mortal.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    mortal.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    with pytest.raises(MemoryUnavailableError, match="takes no writes"):
        await opened.sessions.keep(a_turn(1))

    mortal.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
    await opened.until_up()
    await opened.sessions.keep(a_turn(1))
