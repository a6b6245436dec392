"""Informers: whatever breaks, the cache ends up with what there is, and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.errors import ClusterError, Forbidden, Outdated, Unavailable
from evolving_operator.cluster.informer import HistoryLostError, Informer
from evolving_operator.cluster.kinds import OWNED, Kind
from evolving_operator.cluster.records import ListPart, parse_list
from support.cluster import eventually_async

JOBS = next(kind for kind in OWNED if kind.kind == "Job")
KEY = ("default", "support")


def job(name: str, version: int) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "labels": {names.LABEL_AGENT: "support"},
        }
    }


def event(kind: str, raw: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": raw}).encode()


def gone() -> bytes:
    return event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})


@dataclass
class ScriptedSource:
    """Lists what is in `objects`; each watch plays the next of `watches`, and is silent after the last."""

    objects: list[dict[str, Any]] = field(default_factory=list)
    version: int = 10
    watches: list[list[bytes | ClusterError]] = field(default_factory=list)
    lists: int = 0
    watched_from: list[str] = field(default_factory=list)

    async def listed(self, kind: Kind, namespace: str | None) -> AsyncIterator[ListPart]:
        """In two parts."""
        self.lists += 1
        text = json.dumps({"metadata": {"resourceVersion": str(self.version)}, "items": self.objects})
        records, version = parse_list(kind, text.encode())
        yield ListPart(records[:2])
        yield ListPart(records[2:], version)

    async def lines(
        self, kind: Kind, namespace: str | None, version: str, *, seconds: int, silent: float
    ) -> AsyncIterator[bytes]:
        self.watched_from.append(version)
        if not self.watches:
            await asyncio.Event().wait()
        for item in self.watches.pop(0):
            if isinstance(item, ClusterError):
                raise item
            yield item


@dataclass
class Scene:
    source: ScriptedSource
    cache: Cache = field(default_factory=Cache)
    news: list[tuple[str, str]] = field(default_factory=list)

    def held(self) -> list[str]:
        return sorted(raw["metadata"]["name"] for raw in self.cache.owned(KEY))

    async def run_until(self, is_reached: Callable[[], bool]) -> None:
        informer = Informer(self.source, self.cache, JOBS, None, self.news.append, chance=random.Random(1))
        task = asyncio.create_task(informer.run())

        async def reached() -> bool:
            return is_reached()

        try:
            await eventually_async(reached, 20, "the cache is as it should be")
        finally:
            task.cancel()


async def test_a_list_in_parts_and_then_its_watch() -> None:
    source = ScriptedSource([job(name, 5) for name in "abc"])
    source.watches = [[event("ADDED", job("d", 11)), event("DELETED", job("a", 12))]]
    scene = Scene(source)

    await scene.run_until(lambda: scene.held() == ["b", "c", "d"])

    assert source.watched_from[0] == "10"
    assert set(scene.news) == {KEY}
    assert len(scene.news) == 5


async def test_a_broken_watch_goes_on_where_it_was() -> None:
    source = ScriptedSource([job("a", 5)])
    bookmark = event("BOOKMARK", {"metadata": {"resourceVersion": "30"}})
    source.watches = [
        [event("ADDED", job("b", 20)), bookmark, Unavailable("reset")],
        [event("ADDED", job("c", 31))],
    ]
    scene = Scene(source)

    await scene.run_until(lambda: scene.held() == ["a", "b", "c"])

    assert source.watched_from[:2] == ["10", "30"]
    assert source.lists == 1


@pytest.mark.parametrize("answer", [gone(), Outdated("410")], ids=["as an event", "as an answer"])
async def test_what_went_unseen_goes_when_the_version_is_too_old(answer: bytes | ClusterError) -> None:
    source = ScriptedSource([job("b", 6)], version=40)
    source.watches = [[answer]]
    scene = Scene(source)
    scene.cache.put({"apiVersion": "batch/v1", "kind": "Job", **job("a", 5)})

    await scene.run_until(lambda: source.lists == 2 and len(source.watched_from) == 2)

    assert scene.held() == ["b"]
    assert KEY in scene.news


@pytest.mark.parametrize(
    "failure",
    [
        Unavailable("Too large resource version"),
        Forbidden("not yours"),
        event("ERROR", {"code": 500}),
        event("ERROR", {"code": 429, "message": None}),
        b'{"type',
        b"<html>",
        b"\xff\xfe",
        b"null",
        b'{"type": "ERROR", "object": null}',
        event("BOOKMARK", {"metadata": {}}),
        event("BOOKMARK", {"metadata": {"resourceVersion": ""}}),
        event("ADDED", {"metadata": {**job("a", 5)["metadata"], "resourceVersion": "x"}}),
        event("ADDED", {"kind": "Status"}),
    ],
    ids=[
        "from the future",
        "forbidden",
        "an error event",
        "an error event without a message",
        "half a line",
        "a web page",
        "no text",
        "nothing",
        "an error without a status",
        "a bookmark of nothing",
        "a bookmark of no version",
        "a version that is no number",
        "a status for an object",
    ],
)
async def test_a_watch_that_fails_again_and_again_ends_in_a_list(failure: bytes | ClusterError) -> None:
    source = ScriptedSource([job("a", 5)])
    source.watches = [[failure]] * 3
    scene = Scene(source)

    await scene.run_until(lambda: len(source.watched_from) == 4)

    assert source.lists == 2
    assert scene.held() == ["a"]


async def test_a_watch_that_ends_at_once_is_not_asked_for_without_pause() -> None:
    source = ScriptedSource(watches=[[], [], []])
    scene = Scene(source)

    await scene.run_until(lambda: len(source.watched_from) == 4)

    assert source.lists == 2  # it was taken for a failure, three times


async def test_a_watch_that_brings_a_bookmark_and_ends_is_not_asked_for_without_pause() -> None:
    bookmark = event("BOOKMARK", {"metadata": {"resourceVersion": "10"}})
    source = ScriptedSource(watches=[[bookmark], [bookmark], [bookmark]])
    scene = Scene(source)

    await scene.run_until(lambda: len(source.watched_from) == 4)

    assert source.lists == 2  # it was taken for a failure, three times


async def test_of_two_lists_at_once_the_older_one_brings_nothing_back() -> None:
    """A list of now and then is slow while a broken watch lists, too: what went between them stays gone."""

    @dataclass
    class Slow(ScriptedSource):
        may_answer: asyncio.Event = field(default_factory=asyncio.Event)

        async def listed(self, kind: Kind, namespace: str | None) -> AsyncIterator[ListPart]:
            parts = [part async for part in super().listed(kind, namespace)]
            if self.lists == 1:
                await self.may_answer.wait()
            for part in parts:
                yield part

    source = Slow([job("a", 5)])
    scene = Scene(source)
    informer = Informer(source, scene.cache, JOBS, None, scene.news.append)
    older = asyncio.create_task(informer.list())
    await asyncio.sleep(0)
    source.objects, source.version = [], 20
    newer = asyncio.create_task(informer.list())
    await asyncio.sleep(0)
    source.may_answer.set()
    await asyncio.gather(older, newer)

    assert scene.held() == []


async def test_versions_that_go_back_end_it() -> None:
    """etcd was restored from a backup: what the cache has of later days would win over what there is."""
    source = ScriptedSource([job("a", 900)], version=1000)
    informer = Informer(source, Cache(), JOBS, None, lambda _: None)
    await informer.list()
    await informer.list()  # nothing has happened

    source.objects, source.version = [job("a", 400)], 500

    with pytest.raises(HistoryLostError, match="500"):
        await informer.list()
