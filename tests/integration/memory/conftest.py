"""What memory is kept in: SQLite in a directory, and a real PostgreSQL that the tests start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.memories import Pods
from support.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """For all tests that let it live."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["SQLite", "PostgreSQL"])
async def pods(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pods]:
    uri = None
    if request.param == "PostgreSQL":
        server: PostgresServer = request.getfixturevalue("server")
        uri = server.new_database()
    pods = Pods(tmp_path, uri)
    async with pods.resources:
        yield pods
