"""How the SQLite databases of the store are opened, migrated, and set aside when they are damaged."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evolving_agent.memory.errors import MemoryUnavailableError, UnknownSchemaError

BUSY_TIMEOUT_SECONDS = 2.0
OPEN_TIMEOUT_SECONDS = 10.0
OPEN_RETRY_SECONDS = 0.05

logger = logging.getLogger(__name__)


class Database:
    """One connection for all threads. `name` is how an error calls the database."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, migrations: Sequence[str], name: str) -> Database:
        """Opens or creates it, see `opened`. Raises MemoryUnavailableError."""
        return cls(opened(path, migrations), name)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def guarded(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; each statement commits. Raises MemoryUnavailableError."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise MemoryUnavailableError(f"{self._name} failed: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """`guarded`, and all statements commit together or not at all."""
        with self.guarded() as connection:
            # IMMEDIATE takes the write lock at once: an upgrade from a read would not wait but fail
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise


def opened(path: Path, migrations: Sequence[str]) -> sqlite3.Connection:
    """A connection to the database, made where there is none, with the newest schema.

    A damaged database is set aside, never deleted, and a new one made. The connection may be used from any
    thread, but by one at a time. Raises MemoryUnavailableError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _connected(path, migrations)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # locked, full, not permitted: not a damaged file
            aside = _set_aside(path)
            logger.error("the memory database is damaged (%s); it was set aside as %s", error, aside)
            return _connected(path, migrations)
    except (OSError, sqlite3.Error, UnknownSchemaError) as error:
        raise MemoryUnavailableError(f"cannot open the memory database {path}: {error}") from error


def _connected(path: Path, migrations: Sequence[str]) -> sqlite3.Connection:
    """Pods that start together switch the new file to WAL at the same time, and SQLite answers that with BUSY
    at once, without the busy timeout (it could not end well by waiting). So the waiting is done here.
    """
    deadline = time.monotonic() + OPEN_TIMEOUT_SECONDS
    while True:
        try:
            return _connected_once(path, migrations)
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(OPEN_RETRY_SECONDS)


def _connected_once(path: Path, migrations: Sequence[str]) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        timeout=BUSY_TIMEOUT_SECONDS,
        isolation_level=None,  # transactions are begun by hand, with BEGIN IMMEDIATE
        check_same_thread=False,  # the caller's lock guards the connection
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        _migrate(connection, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    """Brings the schema up to date. Safe with several processes at once. Raises UnknownSchemaError."""
    connection.execute("BEGIN IMMEDIATE")  # the other pods wait here, then find the work done
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(migrations):
            raise UnknownSchemaError(version, len(migrations))
        for script in migrations[version:]:
            for statement in _statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> list[str]:
    """The statements of a script: `executescript` would commit the transaction that they run in."""
    statements: list[str] = []
    current = ""
    for line in script.splitlines(keepends=True):
        current += line
        if current.strip() and sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements


def _set_aside(path: Path) -> Path:
    """Renames the database with its write-ahead log: a new one must not replay the old one's log."""
    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
