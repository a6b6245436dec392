"""One schema for each agent: made once by many pods, brought up to date once, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from evolving_agent.memory.errors import UnknownSchemaError
from evolving_agent.memory.graph import Memory
from evolving_agent.memory.postgres.database import PostgresDatabase
from evolving_agent.memory.postgres.events import PostgresEvents
from evolving_agent.memory.postgres.schema import MIGRATIONS, migrate, schema_name, search_path
from support.memories import SCHEMA, unobserved
from support.postgres import PostgresServer, database_of

NEXT = (*MIGRATIONS, "CREATE TABLE courtesy (id int); INSERT INTO courtesy VALUES (1)")


@asynccontextmanager
async def connected(uri: str, schema: str = SCHEMA) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(uri, server_settings={"search_path": search_path(schema)})
    try:
        yield connection
    finally:
        await connection.close()


async def test_pods_that_start_together_make_the_schema_once(server: PostgresServer) -> None:
    for _ in range(5):
        uri = server.new_database()

        async def start(uri: str = uri) -> None:
            async with connected(uri) as connection:
                await migrate(connection, SCHEMA)

        await asyncio.gather(*(start() for _ in range(12)))

        async with connected(uri) as connection:
            assert await connection.fetchval("SELECT array_agg(version) FROM migration") == [1]


async def test_pods_that_are_upgraded_together_migrate_once(server: PostgresServer) -> None:
    uri = server.new_database()

    async def start(migrations: tuple[str, ...]) -> None:
        async with connected(uri) as connection:
            await migrate(connection, SCHEMA, migrations)

    await start(MIGRATIONS)
    await asyncio.gather(*(start(NEXT) for _ in range(8)))

    async with connected(uri) as connection:
        assert await connection.fetchval("SELECT count(*) FROM courtesy") == 1
        with pytest.raises(UnknownSchemaError, match="run the version of the agent image"):
            await migrate(connection, SCHEMA)


async def test_a_migration_that_fails_leaves_nothing_behind(server: PostgresServer) -> None:
    async with connected(server.new_database()) as connection:
        with pytest.raises(asyncpg.PostgresError):
            await migrate(connection, SCHEMA, (*MIGRATIONS, "CREATE TABLE half (id int); SELECT 1 / 0"))

        assert await connection.fetchval("SELECT to_regnamespace($1) IS NULL", search_path(SCHEMA))
        await migrate(connection, SCHEMA)


async def test_a_newer_schema_is_left_alone_and_told(server: PostgresServer) -> None:
    uri = server.new_database()
    async with connected(uri) as connection:
        await migrate(connection, SCHEMA, NEXT)
    database = PostgresDatabase(uri, SCHEMA, unobserved)
    try:
        await database.open()
        assert "schema version 2, this program knows 1" in (database.problem or "")
    finally:
        await database.close()


async def test_agents_share_a_database_and_nothing_in_it(server: PostgresServer) -> None:
    uri = server.new_database()
    databases = [
        PostgresDatabase(uri, schema_name(namespace, agent), unobserved)
        for namespace, agent in (("bank", "support"), ("bank", "sales"), ("shop", "support"))
    ]
    memories = [Memory(PostgresEvents(database)) for database in databases]
    try:
        for number, (database, memory) in enumerate(zip(databases, memories, strict=True)):
            await database.open()
            await memory.assert_fact("Ada", "lives in", f"City {number}", source="e")
        recalled = [[event.text for event in await memory.recall("Ada lives")] for memory in memories]
    finally:
        for database in databases:
            await database.close()

    assert recalled == [[f"Ada lives in City {number}"] for number in range(3)]


async def test_a_role_that_may_make_no_schema_is_given_one(server: PostgresServer) -> None:
    uri = server.new_database()
    name = database_of(uri)
    server.execute(f"ALTER DATABASE {name} OWNER TO owner; REVOKE CREATE ON DATABASE {name} FROM {name}")
    async with connected(uri) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await migrate(connection, SCHEMA)

        server.execute(f'CREATE SCHEMA "{SCHEMA}" AUTHORIZATION {name}', name)
        await migrate(connection, SCHEMA)


def test_the_name_of_a_schema_is_readable_and_never_anothers() -> None:
    assert schema_name("bank", "support") == "evolving_bank_support"
    assert schema_name("a-b", "c") != schema_name("a", "b-c")
    long = {schema_name("n" * 63, "a" * 39 + end) for end in "xy"}
    assert len(long) == 2
    assert all(len(name) == 63 for name in long)
