"""SQLite databases on a shared volume: opened together, locked, damaged, of another version."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from evolving_agent.memory.errors import MemoryUnavailableError
from evolving_agent.memory.graph import Memory
from evolving_agent.memory.sessions import Bounds, Sessions, Turn
from evolving_agent.memory.sqlite.database import Database
from evolving_agent.memory.sqlite.events import SQLiteEvents
from evolving_agent.memory.sqlite.schema import GRAPH_MIGRATIONS, SESSION_MIGRATIONS
from evolving_agent.memory.sqlite.turns import SQLiteTurns


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory" / "memory.db"


def test_pods_that_start_together_make_the_schema_once(path: Path) -> None:
    for start in range(30):  # it is a race: one start in eight lost it before the opening was retried
        opened: list[SQLiteEvents] = []
        fresh = path.with_name(f"{start}.db")
        threads = [threading.Thread(target=_open_into, args=(opened, fresh)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(opened) == 12
        for memory in opened:
            memory.close()


def _open_into(opened: list[SQLiteEvents], path: Path) -> None:
    opened.append(SQLiteEvents.open(path))


def test_a_database_of_a_newer_version_is_left_alone(path: Path) -> None:
    SQLiteEvents.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(GRAPH_MIGRATIONS) + 1}")
    connection.close()

    with pytest.raises(MemoryUnavailableError, match="run the version of the agent image"):
        SQLiteEvents.open(path)
    assert list(path.parent.glob("*damaged*")) == []


async def test_a_database_of_the_version_before_is_taken_over(path: Path) -> None:
    Database.open(path, SESSION_MIGRATIONS[:1], "sessions").close()
    with sqlite3.connect(path) as old:
        old.execute(
            "INSERT INTO turn (id, session, said, answer, at) VALUES ('t0', 's', ?, 'a0', 1.0)",
            ('[{"role":"user","content":"q0"}]',),
        )
    old.close()

    turns = SQLiteTurns.open(path)
    history = await Sessions(turns, ttl_seconds=60).of_session("s", Bounds(turns=9, tokens=999), at=2.0)
    turns.close()
    assert [message["content"] for message in history.messages] == ["q0", "a0"]


def damage(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 1000)


async def test_a_damaged_database_is_set_aside_and_serving_goes_on(path: Path) -> None:
    damage(path)

    events = SQLiteEvents.open(path)
    memory = Memory(events)
    await memory.assert_fact("Ada", "lives in", "Paris", source="e1")

    assert [event.text for event in await memory.recall("Ada lives")] == ["Ada lives in Paris"]
    (aside,) = path.parent.glob("memory.db.damaged-*")
    assert aside.read_bytes().startswith(b"this is no database")
    events.close()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(MemoryUnavailableError, match="file"):
        SQLiteEvents.open(tmp_path / "file" / "memory.db")


async def test_a_locked_database_gives_up_with_a_reason(path: Path) -> None:
    events = SQLiteEvents.open(path)
    memory = Memory(events)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(MemoryUnavailableError, match="locked"):
            await memory.assert_fact("Ada", "lives in", "Paris", source="e1")
        assert await memory.recall("Ada lives") == []  # reading goes on
    finally:
        other.close()
        events.close()


async def test_a_locked_database_of_sessions_still_reads(path: Path) -> None:
    turns = SQLiteTurns.open(path)
    sessions = Sessions(turns, ttl_seconds=60.0)
    await sessions.keep(Turn("t1", "s", [{"role": "user", "content": "q1"}], "a1"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(MemoryUnavailableError, match="locked"):
            await sessions.keep(Turn("t2", "s", [], "a2"))
        history = await sessions.of_session("s", Bounds(turns=10, tokens=100))
        assert [message["content"] for message in history.messages] == ["q1", "a1"]
    finally:
        other.close()
        turns.close()
