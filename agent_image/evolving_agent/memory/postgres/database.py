"""One agent's part of a PostgreSQL database: a few connections, and what happens while the server is away.

An outage is found by whoever meets it first. From then on nobody asks the server but one task, which tries to
come back, and which brings the schema up to date on its way: so a database that was replaced by an empty
one is used again, too. Work that an answer cannot do without waits for it, for a bounded time from the
outage's beginning; all other work fails at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

from evolving_agent.memory.errors import MemoryUnavailableError
from evolving_agent.memory.postgres.connection import Connection
from evolving_agent.memory.postgres.schema import migrate, search_path
from evolving_agent.memory.postgres.uri import driver_uri

MAX_CONNECTIONS = 4  # of one pod at work: each holds a process of the server
CONNECT_SECONDS = 3.0
STATEMENT_SECONDS = 2.0  # then the server gives the statement up
ANSWER_SECONDS = 4.0  # then the pod gives the connection up: nobody is at its other end
PREPARE_SECONDS = 60.0  # another pod may be migrating
PATIENCE_SECONDS = 10.0  # from an outage's beginning: so long a restart may take without a refused request
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
IDLE_SECONDS = 300.0

# By their first characters: connection exceptions; no such schema, table, database or right to connect (a
# database that was replaced); too many connections; read-only (a failover); a server that stops or starts.
_OUTAGE_STATES = ("08", "28", "3D", "3F", "42P01", "53300", "25006", "57P")

# ValueError: of texts that cannot be sent
_FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    ValueError,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)


class _ReadOnlyError(Exception):
    """The server takes no writes."""


@dataclass
class _Outage:
    since: float  # time.monotonic()
    reason: str


class PostgresDatabase:
    """`await open()` before use, `await close()` after it. `observe` is told whether it can be used."""

    def __init__(self, uri: str, schema: str, observe: Callable[[bool], None]) -> None:
        """`uri` is libpq's. Raises InvalidURIError, which says nothing of it."""
        self._schema = schema
        self._observe = observe
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._outage: _Outage | None = _Outage(time.monotonic(), "it has not been reached yet")
        self._is_up = asyncio.Event()
        self._comeback: asyncio.Task[None] | None = None
        self._is_closed = False
        self._pool: Any = asyncpg.create_pool(
            driver_uri(uri),
            min_size=0,
            max_size=MAX_CONNECTIONS + 1,  # one to come back with, whatever hangs
            max_inactive_connection_lifetime=IDLE_SECONDS,
            timeout=CONNECT_SECONDS,
            reset=_leave,
            server_settings={
                "application_name": "evolving-agent",
                "search_path": search_path(schema),
                "statement_timeout": _milliseconds(STATEMENT_SECONDS),
                # how many events have a word differs by orders of magnitude: each recall is planned anew
                "plan_cache_mode": "force_custom_plan",
                # a pod that hangs in the middle of a transaction must not hold its locks
                "idle_in_transaction_session_timeout": _milliseconds(PREPARE_SECONDS),
            },
        )

    async def open(self) -> None:
        """Returns when the database is there, or after a while without it: it is tried on and on."""
        self._observe(False)
        await self._pool
        self._come_back()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._is_up.wait()
        except TimeoutError:
            logger.error("%s", self.problem)

    async def close(self) -> None:
        """What still works with it fails."""
        self._is_closed = True
        if self._comeback is not None:
            self._comeback.cancel()
            await asyncio.gather(self._comeback, return_exceptions=True)
        self._pool.terminate()

    @property
    def problem(self) -> str | None:
        """Why the database cannot be used; None while it can."""
        if self._outage is None:
            return None
        seconds = time.monotonic() - self._outage.since
        return f"the memory database cannot be used (since {seconds:.0f} s): {self._outage.reason}"

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, patient: bool = False) -> T:
        """What `work` makes of a connection. Raises MemoryUnavailableError.

        With `patient`, an outage that has just begun is waited out, and the work done (again) after it: what
        it does must be right to do twice.
        """
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            if self._outage is not None:
                await self._until_up(min(give_up, self._outage.since + PATIENCE_SECONDS) if patient else 0)
            try:
                wait = max(0.0, give_up - time.monotonic()) if patient else STATEMENT_SECONDS
                async with self._place(wait):
                    if self._outage is not None:
                        continue  # it began while this work waited for its place
                    async with self._connection(ANSWER_SECONDS) as connection:
                        return await work(connection)
            except _FAILURES as error:
                if not _is_outage(error):
                    raise MemoryUnavailableError(f"the memory database refused: {_said(error)}") from error
                await self._went_down(error)
                if not patient:
                    raise MemoryUnavailableError(_said(error)) from error

    @asynccontextmanager
    async def _place(self, wait: float) -> AsyncIterator[None]:
        """One of the places for work, free within `wait` seconds."""
        try:
            async with asyncio.timeout(wait):
                await self._places.acquire()
        except TimeoutError as error:
            busy = f"all {MAX_CONNECTIONS} connections to the memory database are busy"
            raise MemoryUnavailableError(busy) from error
        try:
            yield
        finally:
            self._places.release()

    @asynccontextmanager
    async def _connection(self, seconds: float) -> AsyncIterator[Connection]:
        """A connection for at most `seconds`. After an error it is not used again: who knows its state."""
        connection = await self._pool.acquire(timeout=CONNECT_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                yield connection
        except BaseException:
            with suppress(asyncpg.InterfaceError):  # it broke, and the pool has taken it back
                connection.terminate()
            raise
        finally:
            await self._pool.release(connection)

    async def _until_up(self, give_up: float) -> None:
        """Raises MemoryUnavailableError where the outage goes on past `give_up` (time.monotonic())."""
        try:
            async with asyncio.timeout(max(0.0, give_up - time.monotonic())):
                await self._is_up.wait()
        except TimeoutError as error:
            raise MemoryUnavailableError(self.problem or "the memory database is only just back") from error

    async def _went_down(self, error: Exception) -> None:
        # those that are idle may lead to a server that is no longer the one that takes writes
        await self._pool.expire_connections()
        if self._outage is None:
            self._outage = _Outage(time.monotonic(), _said(error))
            self._is_up.clear()
            self._observe(False)
            logger.error("%s", self.problem)
            self._come_back()

    def _come_back(self) -> None:
        if self._is_closed:
            return
        self._comeback = asyncio.create_task(self._until_prepared())

    async def _until_prepared(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                async with self._connection(PREPARE_SECONDS) as connection:
                    await _prepare(connection, self._schema)
            except Exception as error:  # whatever it is: nobody else will try
                if self._outage is not None:
                    self._outage.reason = _said(error)
                await self._pool.expire_connections()
            else:
                break
            # not in step with the agent's other pods
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (no secret)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        if self._outage is not None:
            seconds = time.monotonic() - self._outage.since
            logger.info("the memory database can be used (after %.1f s)", seconds)
        self._outage = None
        self._is_up.set()
        self._observe(True)


async def _prepare(connection: Connection, schema: str) -> None:
    if await connection.fetchval("SELECT current_setting('transaction_read_only')") == "on":
        raise _ReadOnlyError("the server takes no writes: it is a standby, or its database is read-only")
    await connection.execute(f"SET statement_timeout = {_milliseconds(PREPARE_SECONDS)}")
    await migrate(connection, schema)
    await connection.execute("RESET statement_timeout")


def _is_outage(error: Exception) -> bool:
    """Whether it concerns the server or the way to it, and not the one statement."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate).startswith(_OUTAGE_STATES)
    if isinstance(error, asyncpg.DataError):
        return False
    return isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | OSError)


def _said(error: Exception) -> str:
    """What went wrong, on one line. Servers do not repeat passwords; what Python cannot parse, it repeats."""
    if isinstance(error, TimeoutError) and not str(error):
        return "the server does not answer"
    if type(error) is ValueError:
        return "its URI, or a text, cannot be read"
    return " ".join(f"{type(error).__name__}: {error}".split())


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


async def _leave(_connection: object) -> None:
    """Between two uses nothing is to be reset: nothing but transactions, which have ended, was begun."""
