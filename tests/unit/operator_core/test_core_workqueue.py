"""The workqueue: each key once, by one worker at a time, later after each failure."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from evolving_operator.shell.workqueue import WorkQueue


@pytest.fixture
def queue() -> WorkQueue[str]:
    return WorkQueue(chance=random.Random(1))


async def test_a_key_that_waits_is_not_added_again(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("a")
    queue.add("b")

    assert len(queue) == 2
    assert [await queue.take(), await queue.take()] == ["a", "b"]


async def test_a_key_that_is_worked_on_comes_again_after(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert await queue.take() == "a"

    queue.add("a")
    queue.add("a")
    assert len(queue) == 0  # nobody else may have it now

    queue.done("a")
    assert len(queue) == 1
    assert await queue.take() == "a"


async def test_news_come_before_the_backlog(queue: WorkQueue[str]) -> None:
    for key in "abc":
        queue.add_to_backlog(key)
    queue.add("c")  # something has happened to it while it waited
    queue.add_to_backlog("c")
    queue.add("d")

    assert len(queue) == 4
    assert [await queue.take() for _ in range(4)] == ["c", "d", "a", "b"]


async def test_a_worker_is_woken_for_the_backlog(queue: WorkQueue[str]) -> None:
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0)

    queue.add_to_backlog("a")

    assert await taking == "a"
    queue.add_to_backlog("a")  # while it is worked on
    assert len(queue) == 0
    queue.done("a")
    assert await queue.take() == "a"


async def test_a_waiting_worker_is_woken(queue: WorkQueue[str]) -> None:
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0)

    queue.add("a")

    assert await taking == "a"


async def test_a_worker_that_leaves_passes_its_call_on(queue: WorkQueue[str]) -> None:
    first, second = asyncio.create_task(queue.take()), asyncio.create_task(queue.take())
    await asyncio.sleep(0)

    queue.add("a")  # calls the first
    first.cancel()

    assert await asyncio.wait_for(second, 5) == "a"


async def test_the_earliest_of_several_times_stands(queue: WorkQueue[str]) -> None:
    queue.add_after("a", 0.02)
    queue.add_after("a", 3600)
    queue.add_after("b", 3600)
    queue.add_after("b", 0.01)

    assert [await asyncio.wait_for(queue.take(), 5) for _ in range(2)] == ["b", "a"]
    assert len(queue) == 0


async def test_each_failure_waits_longer_until_a_success(queue: WorkQueue[str]) -> None:
    delays = [queue.retry("a") for _ in range(12)]

    assert delays[0] == pytest.approx(0.05, rel=0.2)
    assert all(later > sooner for sooner, later in itertools.pairwise(delays[:8]))
    assert delays[-1] == pytest.approx(20, rel=0.2)
    assert max(delays) < 30  # however long an outage lasted, all has been tried again soon after its end
    queue.succeeded("a")
    assert queue.retry("a") == pytest.approx(0.05, rel=0.2)


async def test_the_server_may_ask_for_a_longer_wait(queue: WorkQueue[str]) -> None:
    assert queue.retry("a", at_least=30) == pytest.approx(30, rel=0.2)


async def test_a_wait_that_would_be_to_forget_the_key_is_cut_short(queue: WorkQueue[str]) -> None:
    assert 60 <= queue.retry("a", at_least=86_400) <= 72


async def test_nobody_comes_before_the_time_that_the_server_has_asked_for(queue: WorkQueue[str]) -> None:
    assert min(queue.retry("a", at_least=7) for _ in range(7)) >= 7


async def test_times_that_were_replaced_by_earlier_ones_are_not_kept(queue: WorkQueue[str]) -> None:
    """Each change of an agent ends with its next schedule, and begins with a look at once."""
    for _ in range(3000):
        queue.add_after("a", 86_400)
        queue.add_after("a", 0)
        assert await asyncio.wait_for(queue.take(), 5) == "a"
        queue.done("a")

    assert queue.delayed < 300
    queue.add_after("a", 0.01)
    assert await asyncio.wait_for(queue.take(), 5) == "a"
