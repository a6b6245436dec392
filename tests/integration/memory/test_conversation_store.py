"""Conversations, in whatever they are kept: chains and sessions, bounds, expiry, several pods."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from evolving_agent.memory.sessions import (
    MAX_CALLS_ASKED,
    Bounds,
    Sessions,
    Turn,
    UnknownTurnError,
    estimated_tokens,
)
from support.memories import DAY, Pods

WIDE = Bounds(turns=100, tokens=10_000)


@pytest.fixture
async def sessions(pods: Pods) -> Sessions:
    return await pods.sessions()


def a_turn(number: int, session: str = "s", previous: str | None = None, **more: Any) -> Turn:
    said = [{"role": "user", "content": f"q{number}"}]
    return Turn(id=f"t{number}", session=session, said=said, answer=f"a{number}", previous=previous, **more)


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return [str(message["content"]) for message in messages]


async def test_a_session_comes_back_in_order_to_every_pod(sessions: Sessions, pods: Pods) -> None:
    await sessions.keep(a_turn(1))
    await sessions.keep(a_turn(2))
    await sessions.keep(a_turn(3, session="another"))

    history = await (await pods.sessions()).of_session("s", WIDE)

    assert texts(history.messages) == ["q1", "a1", "q2", "a2"]
    assert [message["role"] for message in history.messages] == ["user", "assistant"] * 2


async def test_an_unknown_session_is_empty_and_an_unknown_turn_an_error(sessions: Sessions) -> None:
    assert (await sessions.of_session("nobody", WIDE)).messages == []
    with pytest.raises(UnknownTurnError):
        await sessions.before("nothing", WIDE)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds(turns=2, tokens=10_000), ["q4", "a4", "q5", "a5"]),
        (Bounds(turns=100, tokens=25), ["q4", "a4", "q5", "a5"]),
        (Bounds(turns=100, tokens=1), []),
    ],
)
async def test_the_latest_whole_turns_within_the_bounds_come_back(
    sessions: Sessions, bounds: Bounds, expected: list[str]
) -> None:
    for number in range(1, 6):
        await sessions.keep(a_turn(number, previous=f"t{number - 1}"))

    assert texts((await sessions.of_session("s", bounds)).messages) == expected
    assert texts((await sessions.before("t5", bounds)).messages) == expected


async def test_a_chain_follows_its_own_branch(sessions: Sessions) -> None:
    await sessions.keep(a_turn(1))
    await sessions.keep(a_turn(2, previous="t1"))
    await sessions.keep(a_turn(3, previous="t1"))

    history = await sessions.before("t3", WIDE)

    assert texts(history.messages) == ["q1", "a1", "q3", "a3"]
    assert history.session == "s"


async def test_what_expired_is_not_seen_and_then_deleted(sessions: Sessions) -> None:
    await sessions.assign("s", "config", at=0.0)
    await sessions.keep(a_turn(1), at=0.0)
    await sessions.keep(a_turn(2, previous="t1"), at=DAY)

    later = DAY + 1
    assert texts((await sessions.of_session("s", WIDE, at=later)).messages) == ["q2", "a2"]
    assert texts((await sessions.before("t2", WIDE, at=later)).messages) == ["q2", "a2"]
    with pytest.raises(UnknownTurnError):
        await sessions.before("t1", WIDE, at=later)

    await sessions.keep(a_turn(3), at=later)
    assert await sessions.count() == 2


async def test_a_session_remembers_who_answers_it_as_long_as_it_lives(sessions: Sessions) -> None:
    assert (await sessions.of_session("s", WIDE)).config is None

    await sessions.assign("s", "stable", at=0.0)
    await sessions.keep(a_turn(1), at=DAY / 2)  # a turn keeps the session alive

    assert (await sessions.of_session("s", WIDE, at=DAY)).config == "stable"
    await sessions.assign("s", "canary", at=DAY)
    assert (await sessions.before("t1", WIDE, at=DAY)).config == "canary"
    assert (await sessions.of_session("s", WIDE, at=3 * DAY)).config is None


async def test_only_responses_are_shown_and_deleted(sessions: Sessions) -> None:
    await sessions.keep(a_turn(1))
    await sessions.keep(a_turn(2, response={"id": "t2", "text": "ü"}))

    assert await sessions.response("t2") == {"id": "t2", "text": "ü"}
    for unknown in ("t1", "t9"):
        with pytest.raises(UnknownTurnError):
            await sessions.response(unknown)
        with pytest.raises(UnknownTurnError):
            await sessions.delete(unknown)
    await sessions.delete("t2")
    assert texts((await sessions.of_session("s", WIDE)).messages) == ["q1", "a1"]


async def test_pods_that_write_at_once_lose_no_turn(pods: Pods) -> None:
    several = [await pods.sessions() for _ in range(4)]

    async def write(writer: int, sessions: Sessions) -> None:
        for number in range(20):
            await sessions.keep(a_turn(100 * writer + number, session=f"s{writer}"))

    await asyncio.gather(*(write(writer, sessions) for writer, sessions in enumerate(several)))

    assert await several[0].count() == 80


async def test_pods_that_forget_at_once_do_not_wait_for_each_other(pods: Pods) -> None:
    several = [await pods.sessions() for _ in range(4)]
    for number in range(100):
        await several[0].keep(a_turn(number), at=0.0)

    later = 2 * DAY
    await asyncio.gather(
        *(sessions.keep(a_turn(1000 + pod), at=later) for pod, sessions in enumerate(several))
    )
    await several[0].keep(a_turn(2000), at=later)

    assert await several[0].count() == 5


@pytest.mark.parametrize("odd", ["nul \0 inside", "s" * 5000, "漢字 🙂", "'; --"])
async def test_a_session_may_have_any_name(sessions: Sessions, odd: str) -> None:
    await sessions.assign(odd, "config")
    turn = Turn("t1", odd, [{"role": "user", "content": odd}], odd.replace("\0", ""), response={"text": odd})
    await sessions.keep(turn)

    history = await sessions.of_session(odd, WIDE)
    assert texts(history.messages) == [odd, odd.replace("\0", "")]
    assert history.config == "config"
    assert (await sessions.before("t1", WIDE)).config == "config"
    assert (await sessions.response("t1")) == {"text": odd}


def test_tokens_are_estimated_from_all_that_is_sent() -> None:
    assert estimated_tokens([{"role": "user", "content": "x" * 400}]) == pytest.approx(100, abs=10)


RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
CALLS = [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]


async def test_a_turn_that_waits_for_its_client_comes_back_with_its_calls(sessions: Sessions) -> None:
    await sessions.keep(replace(a_turn(1), answer="", calls=CALLS))
    await sessions.keep(replace(a_turn(2, previous="t1"), said=[RESULT]))

    expected = [
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        RESULT,
        {"role": "assistant", "content": "a2"},
    ]
    assert (await sessions.of_session("s", WIDE)).messages == expected
    assert (await sessions.before("t2", WIDE)).messages == expected


async def test_no_history_begins_with_the_result_of_a_call_that_is_left_out(sessions: Sessions) -> None:
    await sessions.keep(replace(a_turn(1), answer="", calls=CALLS))
    await sessions.keep(replace(a_turn(2, previous="t1"), said=[RESULT]))
    await sessions.keep(a_turn(3, previous="t2"))

    bounds = Bounds(turns=2, tokens=10_000)
    assert texts((await sessions.of_session("s", bounds)).messages) == ["q3", "a3"]
    assert texts((await sessions.before("t3", bounds)).messages) == ["q3", "a3"]


async def test_what_a_run_had_done_is_found_by_each_of_its_calls_until_it_expires(sessions: Sessions) -> None:
    work = [{"role": "assistant", "content": "did it"}]
    await sessions.keep_work(["call_1", "call_2"], work, at=0.0)
    await sessions.keep_work(["call_1"], work, at=0.0)  # told twice: the connection broke in between

    assert await sessions.work_of(["call_2", "unknown"], at=1.0) == {"call_2": work}
    assert await sessions.work_of([], at=1.0) == {}
    assert await sessions.work_of(["call_1"], at=DAY + 1) == {}
    await sessions.keep_work(["call_3"], work, at=DAY + 1)
    assert await sessions.work_of(["call_1"], at=1.0) == {}  # deleted, not only hidden


async def test_of_very_many_calls_the_latest_are_looked_up(sessions: Sessions) -> None:
    await sessions.keep_work(["first", "last"], [], at=0.0)
    many = ["first", *(f"call_{number}" for number in range(MAX_CALLS_ASKED)), "last"]

    assert list(await sessions.work_of(many, at=1.0)) == ["last"]
