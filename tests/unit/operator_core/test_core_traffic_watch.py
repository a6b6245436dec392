"""Pods are asked while their counts matter, and what has changed is told."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from evolving_agent.contract.served import SERVED_PATH, ServedAs, ServedCount, ServedCounts
from evolving_operator.cluster.pods import PodClient, PodSilentError
from evolving_operator.core.observed import Heard
from evolving_operator.core.plan import Counting
from evolving_operator.shell.traffic_watch import TrafficWatch

KEY = ("default", "support")
PODS = Counting((("a", "10.0.0.1"), ("b", "10.0.0.2")), every_seconds=0.01)


def counted(requests: int) -> ServedCounts:
    return ServedCounts(
        counts=(ServedCount(config="c", served_as=ServedAs.ACTIVE, requests=requests, errors=0),)
    )


class Pods:
    """By address: what they tell, or why not."""

    def __init__(self) -> None:
        self.told: dict[str, ServedCounts | str] = {"10.0.0.1": counted(1), "10.0.0.2": counted(2)}
        self.asked: list[str] = []
        self._question = asyncio.Condition()

    async def ask(self, address: str) -> ServedCounts:
        async with self._question:
            self.asked.append(address)
            self._question.notify_all()
        told = self.told[address]
        if isinstance(told, str):
            raise PodSilentError(told)
        return told

    async def asked_again(self) -> None:
        """Each of them is asked at least once more from now on."""
        enough = len(self.asked) + 2 * len(self.told)
        async with asyncio.timeout(10), self._question:
            await self._question.wait_for(lambda: len(self.asked) >= enough)


class News:
    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def __call__(self, _: tuple[str, str]) -> None:
        self.count += 1
        self._event.set()

    async def next(self) -> None:
        await asyncio.wait_for(self._event.wait(), 10)
        self._event.clear()


@pytest.fixture
def pods() -> Pods:
    return Pods()


@pytest.fixture
def news() -> News:
    return News()


@pytest.fixture
async def watch(pods: Pods, news: News) -> AsyncIterator[TrafficWatch]:
    watch = TrafficWatch(pods.ask, news)
    yield watch
    await watch.close()


async def test_only_what_has_changed_is_news(watch: TrafficWatch, pods: Pods, news: News) -> None:
    watch.follow(KEY, PODS)
    await news.next()
    assert watch.heard(KEY) == {"a": Heard(counted(1)), "b": Heard(counted(2))}
    await pods.asked_again()
    assert news.count == 1

    pods.told["10.0.0.2"] = counted(3)
    await news.next()

    assert watch.heard(KEY)["b"] == Heard(counted(3))


async def test_a_silent_pod_is_told_of_and_does_not_hide_the_others(
    watch: TrafficWatch, pods: Pods, news: News
) -> None:
    pods.told["10.0.0.1"] = "is gone"
    watch.follow(KEY, PODS)
    await news.next()

    assert watch.heard(KEY) == {"a": Heard(silence="is gone"), "b": Heard(counted(2))}


async def test_other_pods_are_asked_at_once(watch: TrafficWatch, pods: Pods, news: News) -> None:
    watch.follow(KEY, Counting(PODS.pods[:1], every_seconds=3600))
    await news.next()

    watch.follow(KEY, Counting(PODS.pods[1:], every_seconds=3600))
    await news.next()

    assert set(watch.heard(KEY)) == {"b"}
    assert pods.asked == ["10.0.0.1", "10.0.0.2"]


async def test_who_need_not_be_asked_at_once_is_asked_within_the_first_interval(
    pods: Pods, news: News
) -> None:
    watch = TrafficWatch(pods.ask, news, chance=random.Random(7))
    waits = 3600 * random.Random(7).uniform(0, 1)
    assert waits > 60

    watch.follow(KEY, Counting(PODS.pods, every_seconds=3600, at_once=False))
    await asyncio.sleep(0.05)
    assert pods.asked == []

    watch.follow(KEY, PODS)  # now it matters
    await news.next()
    assert set(pods.asked) == {"10.0.0.1", "10.0.0.2"}
    await watch.close()


async def test_who_is_no_longer_followed_is_not_asked(watch: TrafficWatch, pods: Pods, news: News) -> None:
    watch.follow(KEY, PODS)
    await news.next()

    watch.follow(KEY, None)
    asked = len(pods.asked)
    await asyncio.sleep(0.05)

    assert len(pods.asked) == asked
    assert watch.heard(KEY) == {}


@asynccontextmanager
async def answering(answer: web.Response, in_pieces: bytes = b"") -> AsyncIterator[PodClient]:
    """A client for a pod on this machine that answers so, or with one byte after the other."""

    async def served(request: web.Request) -> web.StreamResponse:
        if not in_pieces:
            return answer
        stream = web.StreamResponse()
        await stream.prepare(request)
        for byte in in_pieces:
            await stream.write(bytes([byte]))
            await asyncio.sleep(0)
        return stream

    app = web.Application()
    app.router.add_get(SERVED_PATH, served)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with PodClient(runner.addresses[0][1]) as client:
        yield client
    await runner.cleanup()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param({"status": 404}, "with HTTP 404", id="an older image"),
        pytest.param({"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}}, "HTTP 302", id="moved"),
        pytest.param({"text": "<html>"}, "something else than counts", id="another server"),
        pytest.param({"text": '{"counts": [{"requests": -1}]}'}, "something else", id="nonsense"),
    ],
)
async def test_what_is_no_answer_is_named(answer: dict[str, Any], said: str) -> None:
    async with answering(web.Response(**answer)) as client:
        with pytest.raises(PodSilentError, match=said):
            await client.served("127.0.0.1")


async def test_a_pod_that_is_gone_is_silent() -> None:
    async with PodClient(1) as client:
        with pytest.raises(
            PodSilentError, match=r"cannot be asked at http://127.0.0.1:1/served .*let them in"
        ):
            await client.served("127.0.0.1")


async def test_counts_come_over_the_wire_as_they_are() -> None:
    async with answering(web.json_response(counted(7).to_wire())) as client:
        assert await client.served("127.0.0.1") == counted(7)


async def test_counts_that_come_in_pieces_are_put_together() -> None:
    whole = json.dumps(counted(7).to_wire()).encode()
    async with answering(web.Response(), in_pieces=whole) as client:
        assert await client.served("127.0.0.1") == counted(7)


async def test_no_end_of_counts_is_read() -> None:
    async with answering(web.Response(body=b" " * 100_000)) as client:
        with pytest.raises(PodSilentError, match="more than 65536 bytes"):
            await client.served("127.0.0.1")
