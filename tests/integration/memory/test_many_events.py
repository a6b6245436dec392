"""A hundred thousand events in PostgreSQL: the one that fits is found, and by the index."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from evolving_agent.memory.graph import Memory
from evolving_agent.memory.postgres.database import PostgresDatabase
from evolving_agent.memory.postgres.events import MAX_CANDIDATES, PostgresEvents
from support.cluster import eventually_async
from support.memories import SCHEMA, unobserved
from support.postgres import PostgresServer, database_of

# Every event tells of a lost card, each with two words of its own.
FILL = f"""
    SET search_path = "{SCHEMA}";
    INSERT INTO entity (digest, kind, name) VALUES ('cards', 'task', 'cards');
    INSERT INTO event (subject, predicate, object, statement, text, search, words, valid_from, source)
    SELECT 1, 'lesson', text, convert_to(text, 'UTF8'), text, text,
           ARRAY['lost', 'card', 'branch' || number, 'desk' || number], number, 'e'
    FROM generate_series(1, 100000) AS number,
        LATERAL (SELECT 'lost card branch' || number || ' desk' || number AS text) AS told;
    ANALYZE event
"""


@pytest.fixture
async def many(server: PostgresServer) -> AsyncIterator[tuple[Memory, str]]:
    uri = server.new_database()
    database = PostgresDatabase(uri, SCHEMA, unobserved)
    await database.open()
    server.execute(FILL, database_of(uri))
    yield Memory(PostgresEvents(database)), database_of(uri)
    await database.close()


async def test_the_event_that_fits_is_found_among_many_that_share_words(
    many: tuple[Memory, str], server: PostgresServer
) -> None:
    memory, database = many

    (oldest,) = await memory.recall("I lost my card at branch17, desk17", budget_chars=40)
    assert oldest.text == "lost card branch17 desk17"
    assert len(await memory.recall("desk70000 branch70000")) == 1
    assert await memory.recall("desk1 branch2 hotel telephone") == []

    async def scanned() -> bool:  # a server tells of its statistics a little later
        ((scans,),) = server.execute(
            "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'event_by_word'", database
        )
        return bool(scans >= 2)

    await eventually_async(scanned, 60, "the rare words lead to few events, and the index knows them")


async def test_of_many_that_fit_equally_well_the_newest_are_looked_at(many: tuple[Memory, str]) -> None:
    memory, _ = many

    recalled = await memory.recall("lost card", budget_chars=10_000)

    assert len(recalled) == 50
    assert min(event.valid_from for event in recalled) > 100_000 - MAX_CANDIDATES
