"""Conversations in the store: chains and sessions, bounds, expiry, several pods."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolving_agent.memory.database import Database, MemoryUnavailableError
from evolving_agent.memory.sessions import (
    MAX_CALLS_ASKED,
    MIGRATIONS,
    Bounds,
    Sessions,
    Turn,
    UnknownTurnError,
    estimated_tokens,
)

DAY = 86_400.0
WIDE = Bounds(turns=100, tokens=10_000)
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory" / "sessions.db"


@pytest.fixture
def sessions(path: Path) -> Iterator[Sessions]:
    sessions = Sessions.open(path, ttl_seconds=DAY)
    yield sessions
    sessions.close()


def a_turn(number: int, session: str = "s", previous: str | None = None, **more: Any) -> Turn:
    said = [{"role": "user", "content": f"q{number}"}]
    return Turn(id=f"t{number}", session=session, said=said, answer=f"a{number}", previous=previous, **more)


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return [str(message["content"]) for message in messages]


def test_a_session_comes_back_in_order_to_every_pod(sessions: Sessions, path: Path) -> None:
    sessions.keep(a_turn(1))
    sessions.keep(a_turn(2))
    sessions.keep(a_turn(3, session="another"))

    other = Sessions.open(path, ttl_seconds=DAY)
    history = other.of_session("s", WIDE)
    other.close()

    assert texts(history.messages) == ["q1", "a1", "q2", "a2"]
    assert [message["role"] for message in history.messages] == ["user", "assistant"] * 2


def test_an_unknown_session_is_empty_and_an_unknown_turn_an_error(sessions: Sessions) -> None:
    assert sessions.of_session("nobody", WIDE).messages == []
    with pytest.raises(UnknownTurnError):
        sessions.before("nothing", WIDE)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds(turns=2, tokens=10_000), ["q4", "a4", "q5", "a5"]),
        (Bounds(turns=100, tokens=25), ["q4", "a4", "q5", "a5"]),
        (Bounds(turns=100, tokens=1), []),
    ],
)
def test_the_latest_whole_turns_within_the_bounds_come_back(
    sessions: Sessions, bounds: Bounds, expected: list[str]
) -> None:
    for number in range(1, 6):
        sessions.keep(a_turn(number, previous=f"t{number - 1}"))

    assert texts(sessions.of_session("s", bounds).messages) == expected
    assert texts(sessions.before("t5", bounds).messages) == expected


def test_a_chain_follows_its_own_branch(sessions: Sessions) -> None:
    sessions.keep(a_turn(1))
    sessions.keep(a_turn(2, previous="t1"))
    sessions.keep(a_turn(3, previous="t1"))

    history = sessions.before("t3", WIDE)

    assert texts(history.messages) == ["q1", "a1", "q3", "a3"]
    assert history.session == "s"


def test_what_expired_is_not_seen_and_then_deleted(sessions: Sessions) -> None:
    sessions.assign("s", "config", at=0.0)
    sessions.keep(a_turn(1), at=0.0)
    sessions.keep(a_turn(2, previous="t1"), at=DAY)

    later = DAY + 1
    assert texts(sessions.of_session("s", WIDE, at=later).messages) == ["q2", "a2"]
    assert texts(sessions.before("t2", WIDE, at=later).messages) == ["q2", "a2"]
    with pytest.raises(UnknownTurnError):
        sessions.before("t1", WIDE, at=later)

    sessions.keep(a_turn(3), at=later)
    assert sessions.count() == 2


def test_a_session_remembers_who_answers_it_as_long_as_it_lives(sessions: Sessions) -> None:
    assert sessions.of_session("s", WIDE).config is None

    sessions.assign("s", "stable", at=0.0)
    sessions.keep(a_turn(1), at=DAY / 2)  # a turn keeps the session alive

    assert sessions.of_session("s", WIDE, at=DAY).config == "stable"
    sessions.assign("s", "canary", at=DAY)
    assert sessions.before("t1", WIDE, at=DAY).config == "canary"
    assert sessions.of_session("s", WIDE, at=3 * DAY).config is None


def test_only_responses_are_shown_and_deleted(sessions: Sessions) -> None:
    sessions.keep(a_turn(1))
    sessions.keep(a_turn(2, response={"id": "t2", "text": "ü"}))

    assert sessions.response("t2") == {"id": "t2", "text": "ü"}
    for unknown in ("t1", "t9"):
        with pytest.raises(UnknownTurnError):
            sessions.response(unknown)
        with pytest.raises(UnknownTurnError):
            sessions.delete(unknown)
    sessions.delete("t2")
    assert texts(sessions.of_session("s", WIDE).messages) == ["q1", "a1"]


def test_pods_that_write_at_once_lose_no_turn(path: Path) -> None:
    def write(writer: int) -> None:
        sessions = Sessions.open(path, ttl_seconds=DAY)
        for number in range(20):
            sessions.keep(Turn(id=f"{writer}-{number}", session="s", said=[], answer="a"))
        sessions.close()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    sessions = Sessions.open(path, ttl_seconds=DAY)
    assert sessions.count() == 80
    sessions.close()


def test_a_locked_database_gives_up_with_a_reason_and_still_reads(sessions: Sessions, path: Path) -> None:
    sessions.keep(a_turn(1))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(MemoryUnavailableError, match="locked"):
            sessions.keep(a_turn(2))
        assert texts(sessions.of_session("s", WIDE).messages) == ["q1", "a1"]
    finally:
        other.close()


def test_tokens_are_estimated_from_all_that_is_sent() -> None:
    assert estimated_tokens([{"role": "user", "content": "x" * 400}]) == pytest.approx(100, abs=10)


CALLS = [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]


def test_a_turn_that_waits_for_its_client_comes_back_with_its_calls(sessions: Sessions) -> None:
    sessions.keep(replace(a_turn(1), answer="", calls=CALLS))
    sessions.keep(replace(a_turn(2, previous="t1"), said=[RESULT]))

    expected = [
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        RESULT,
        {"role": "assistant", "content": "a2"},
    ]
    assert sessions.of_session("s", WIDE).messages == expected
    assert sessions.before("t2", WIDE).messages == expected


def test_no_history_begins_with_the_result_of_a_call_that_is_left_out(sessions: Sessions) -> None:
    sessions.keep(replace(a_turn(1), answer="", calls=CALLS))
    sessions.keep(replace(a_turn(2, previous="t1"), said=[RESULT]))
    sessions.keep(a_turn(3, previous="t2"))

    assert texts(sessions.of_session("s", Bounds(turns=2, tokens=10_000)).messages) == ["q3", "a3"]
    assert texts(sessions.before("t3", Bounds(turns=2, tokens=10_000)).messages) == ["q3", "a3"]


def test_what_a_run_had_done_is_found_by_each_of_its_calls_until_it_expires(sessions: Sessions) -> None:
    work = [{"role": "assistant", "content": "did it"}]
    sessions.keep_work(["call_1", "call_2"], work, at=0.0)

    assert sessions.work_of(["call_2", "unknown"], at=1.0) == {"call_2": work}
    assert sessions.work_of([], at=1.0) == {}
    assert sessions.work_of(["call_1"], at=DAY + 1) == {}
    sessions.keep_work(["call_3"], work, at=DAY + 1)
    assert sessions.work_of(["call_1"], at=1.0) == {}  # deleted, not only hidden


def test_of_very_many_calls_the_latest_are_looked_up(sessions: Sessions) -> None:
    sessions.keep_work(["first", "last"], [], at=0.0)
    many = ["first", *(f"call_{number}" for number in range(MAX_CALLS_ASKED)), "last"]

    assert list(sessions.work_of(many, at=1.0)) == ["last"]


def test_a_database_of_the_version_before_is_taken_over(path: Path) -> None:
    Database.open(path, MIGRATIONS[:1], "sessions").close()
    old = sqlite3.connect(path)
    old.execute(
        "INSERT INTO turn (id, session, said, answer, at) VALUES ('t0', 's', ?, 'a0', ?)",
        ('[{"role":"user","content":"q0"}]', time.time()),
    )
    old.commit()
    old.close()

    sessions = Sessions.open(path, ttl_seconds=DAY)
    sessions.keep(a_turn(1))
    assert texts(sessions.of_session("s", WIDE).messages) == ["q0", "a0", "q1", "a1"]
    sessions.close()
