"""A real PostgreSQL for a test: a server of its own, in a temporary directory, that can go and come back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from support.cluster import eventually, program

START_SECONDS = 120
PASSWORD = "p@ss/word"  # of all roles; it must be percent-encoded in a URI
ENCODED_PASSWORD = "p%40ss%2Fword"


@dataclass
class PostgresServer:
    """On a socket in its directory (nobody is asked for a password) and on TCP (everybody is)."""

    directory: Path
    port: int = 0
    # PostgreSQL does not run as root
    user: str | None = field(default_factory=lambda: "nobody" if os.getuid() == 0 else None)

    @property
    def owner(self) -> str:
        """The connection string of a superuser."""
        return f"host={self.directory} port={self.port} user=owner dbname=postgres"

    def initialise(self) -> None:
        if self.user is not None:
            shutil.chown(self.directory, self.user)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._run(
            "initdb",
            *("--auth-local=trust", "--auth-host=scram-sha-256", "--username=owner", "--encoding=UTF8"),
            *("--locale=C", "--no-sync", "-D", str(self._data)),
        )

    def start(self, **settings: str) -> None:
        """One that was killed leaves processes, which must end before another one can start."""
        more = "".join(f" -c {name}={value}" for name, value in settings.items())
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.directory} "
            f"-c fsync=off{more}"
        )

        def started() -> bool:
            self._control("-o", options, "-l", f"{self.directory}/log", "start")
            return True

        eventually(started, START_SECONDS, "a PostgreSQL that has started")

    def stop(self, mode: str = "immediate") -> None:
        self._control("-m", mode, "stop")

    def kill(self) -> None:
        """kill -9 of the postmaster; its processes notice and end."""
        postmaster = int((self._data / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)

    def execute(self, statement: Any, database: str = "postgres") -> list[TupleRow]:
        """As the superuser; the rows, where there are any."""
        with psycopg.connect(self.owner, dbname=database, autocommit=True) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def new_database(self, *limits: str) -> str:
        """The URI of an empty database whose owner is a role of its own, e.g. with `CONNECTION LIMIT 2`."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' {' '.join(limits)}")
        self.execute(f"CREATE DATABASE {name} OWNER {name}")
        return f"postgresql://{name}:{ENCODED_PASSWORD}@127.0.0.1:{self.port}/{name}"

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-t", str(START_SECONDS), *arguments)

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [program(name), *arguments],
            user=self.user,
            cwd="/",
            stdin=subprocess.DEVNULL,
            # a server that goes on would hold a pipe open
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if name == "pg_ctl" else subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{name} ended with {done.returncode}: {done.stderr}"


def database_of(uri: str) -> str:
    """The name of the database, which is also that of its owner."""
    return uri.rpartition("/")[2]


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Running; it may be stopped and killed meanwhile."""
    with tempfile.TemporaryDirectory() as directory:
        server = PostgresServer(Path(directory))
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            if (server.directory / "data" / "postmaster.pid").exists():
                server.stop()


@contextmanager
def postgres() -> Iterator[str]:
    """The connection string of a superuser."""
    with postgres_server() as server:
        yield server.owner
