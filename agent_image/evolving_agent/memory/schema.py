"""The memory database's schema and its migrations, applied in order, each exactly once."""

from __future__ import annotations

import sqlite3

# Entry n brings a database from version n to n + 1. Never edit one that was released: add another.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE entity (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        UNIQUE (kind, name)
    );
    -- A TemporalEvent: what was true of an entity from valid_from until valid_to (NULL: still true).
    -- Times are seconds since the epoch, UTC. `search` is what a query is matched against.
    CREATE TABLE event (
        id INTEGER PRIMARY KEY,
        subject INTEGER NOT NULL REFERENCES entity (id),
        predicate TEXT NOT NULL,
        object TEXT NOT NULL,
        text TEXT NOT NULL,
        search TEXT NOT NULL,
        valid_from REAL NOT NULL,
        valid_to REAL,
        source TEXT NOT NULL
    );
    CREATE INDEX event_by_subject ON event (subject, predicate, valid_to);
    CREATE VIRTUAL TABLE event_text USING fts5 (search, content='event', content_rowid='id',
        tokenize='porter unicode61 remove_diacritics 2');
    CREATE TRIGGER event_indexed AFTER INSERT ON event BEGIN
        INSERT INTO event_text (rowid, search) VALUES (new.id, new.search);
    END;
    """,
)


class UnknownSchemaError(Exception):
    """The database was written by a newer version of this program."""


def migrate(connection: sqlite3.Connection) -> None:
    """Brings the schema up to date. Safe with several processes at once. Raises UnknownSchemaError."""
    connection.execute("BEGIN IMMEDIATE")  # the other pods wait here, then find the work done
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise UnknownSchemaError(
                f"the memory database has schema version {version}, this program knows {len(MIGRATIONS)}; "
                "run the version of the agent image that wrote it, or a newer one"
            )
        for script in MIGRATIONS[version:]:
            for statement in _statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
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
