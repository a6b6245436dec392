"""The schemas of the two databases: their migrations, applied in order, each exactly once."""

from __future__ import annotations

# Entry n brings a database from version n to n + 1. Never edit one that was released: add another.
GRAPH_MIGRATIONS: tuple[str, ...] = (
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
SESSION_MIGRATIONS: tuple[str, ...] = (
    """
    -- `session` is never empty: a response that continues nothing begins a session of its own.
    -- `said` holds what the client said in this turn, `response` what GET /v1/responses/{id} shows.
    -- Times are seconds since the epoch, UTC.
    CREATE TABLE turn (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        session TEXT NOT NULL,
        previous TEXT,
        said TEXT NOT NULL,
        answer TEXT NOT NULL,
        response TEXT,
        at REAL NOT NULL
    );
    CREATE INDEX turn_by_session ON turn (session, number);
    CREATE INDEX turn_by_time ON turn (at);
    -- The configuration (its hash) that answers a session.
    CREATE TABLE session (
        id TEXT PRIMARY KEY,
        config TEXT NOT NULL,
        at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX session_by_time ON session (at);
    """,
    """
    -- `calls`: of the client's tools, by the assistant in this turn; NULL where it answered.
    ALTER TABLE turn ADD COLUMN calls TEXT;
    -- What a run had done itself when it called the client's tools, by the ID of each of those calls.
    CREATE TABLE work (
        call TEXT PRIMARY KEY,
        messages TEXT NOT NULL,
        at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX work_by_time ON work (at);
    """,
)
