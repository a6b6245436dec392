"""An agent's own schema in the database: its name, and the migrations, each applied exactly once."""

from __future__ import annotations

import hashlib

from evolving_agent.memory.errors import UnknownSchemaError
from evolving_agent.memory.postgres.connection import Connection

_MAX_NAME_CHARS = 63  # PostgreSQL cuts longer names, and two agents would share a schema
_DIGEST_CHARS = 8

# Entry n brings a schema from version n to n + 1. Never edit one that was released: add another.
MIGRATIONS: tuple[str, ...] = (
    """
    -- `digest` stands for kind and name, `statement` (below) for predicate and object: the entries of an
    -- index are at most 2.7 kB, and texts may be longer. See events.py.
    CREATE TABLE entity (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        digest bytea NOT NULL UNIQUE,
        kind text NOT NULL,
        name text NOT NULL
    );
    -- A TemporalEvent: what was true of an entity from valid_from until valid_to (NULL: still true).
    -- Times are seconds since the epoch, UTC. `words` are the content words of `search`, see matching.py:
    -- whoever changes what they are adds a migration that makes them anew.
    CREATE TABLE event (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        subject bigint NOT NULL REFERENCES entity (id),
        predicate text NOT NULL,
        object text NOT NULL,
        statement bytea NOT NULL,
        text text NOT NULL,
        search text NOT NULL,
        words text[] NOT NULL,
        valid_from double precision NOT NULL,
        valid_to double precision,
        source text NOT NULL
    );
    CREATE INDEX event_by_statement ON event (subject, statement);
    -- Without a list of what is still to be indexed: each recall would read through it.
    CREATE INDEX event_by_word ON event USING gin (words) WITH (fastupdate = off);
    -- `session` is never empty: a response that continues nothing begins a session of its own.
    -- `said` holds what the client said in this turn, `calls` those of the client's tools by the assistant
    -- (NULL where it answered), `response` what GET /v1/responses/{id} shows.
    CREATE TABLE turn (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id text NOT NULL UNIQUE,
        session text NOT NULL,
        previous text,
        said text NOT NULL,
        answer text NOT NULL,
        calls text,
        response text,
        at double precision NOT NULL
    );
    CREATE INDEX turn_by_session ON turn (session, number);
    CREATE INDEX turn_by_time ON turn (at);
    -- The configuration (its hash) that answers a session.
    CREATE TABLE session (
        id text PRIMARY KEY,
        config text NOT NULL,
        at double precision NOT NULL
    );
    CREATE INDEX session_by_time ON session (at);
    -- What a run had done itself when it called the client's tools, by the ID of each of those calls.
    CREATE TABLE work (
        call text PRIMARY KEY,
        messages text NOT NULL,
        at double precision NOT NULL
    );
    CREATE INDEX work_by_time ON work (at);
    """,
)


def schema_name(namespace: str, agent: str) -> str:
    """Unique, for names of Kubernetes have no underscores; and readable, for people look for it."""
    name = f"evolving_{namespace}_{agent}"
    if len(name) <= _MAX_NAME_CHARS:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{name[: _MAX_NAME_CHARS - _DIGEST_CHARS - 1]}_{digest}"


def search_path(schema: str) -> str:
    """The setting under which the unqualified names of tables are those of the schema, and of no other."""
    return f'"{schema}"'


async def migrate(connection: Connection, schema: str, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Makes the schema, or brings it up to date. Safe with several pods at once. Raises UnknownSchemaError.

    The connection's search path must be the schema's. A role that may not create schemas needs one that
    is its own, made before.
    """
    if await _version(connection) == len(migrations):
        return
    async with connection.transaction():
        # the other pods wait here, then find the work done
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _lock_key(schema))
        if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", search_path(schema)):
            await connection.execute(f"CREATE SCHEMA {search_path(schema)}")
        version = await _version(connection)
        if version > len(migrations):
            raise UnknownSchemaError(version, len(migrations))
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migration "
            "(version integer PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
        )
        for number, script in enumerate(migrations[version:], start=version + 1):
            await connection.execute(script)
            await connection.execute("INSERT INTO migration (version) VALUES ($1)", number)


async def _version(connection: Connection) -> int:
    """0 where there is nothing yet."""
    if await connection.fetchval("SELECT to_regclass('migration')") is None:
        return 0
    return int(await connection.fetchval("SELECT coalesce(max(version), 0) FROM migration"))


def _lock_key(schema: str) -> int:
    return int.from_bytes(hashlib.sha256(schema.encode()).digest()[:8], signed=True)
