"""Keeps the cache true to one kind: a list, then a watch from where the list ended, whatever breaks between.

Errors are waited out. A broken watch goes on from the last version that was seen; where the API server
no longer knows that version, or has failed often enough, the list is read again and what went meanwhile is
dropped. A watch on which nothing comes, not even a bookmark, is given up: its connection may be dead.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.errors import ClusterError, Outdated, Unavailable
from evolving_operator.cluster.kinds import Kind
from evolving_operator.cluster.records import (
    AgentKey,
    GarbledError,
    ListPart,
    ObjectKey,
    WatchError,
    parse_event,
)

logger = logging.getLogger(__name__)

# The server ends a watch after this time, with up to half of it on top so that not all end at once.
_WATCH_SECONDS = 300
# Bookmarks come about once a minute.
_SILENT_SECONDS = 150.0
_FIRST_BACKOFF, _LAST_BACKOFF = 0.1, 10.0
_FAILURES_UNTIL_LIST = 3
_SHORTEST_SECONDS = 1.0
_GONE = 410


class Source(Protocol):
    """The API server. Both raise a `ClusterError`."""

    def listed(self, kind: Kind, namespace: str | None) -> AsyncIterator[ListPart]:
        """The list, part by part."""
        ...

    def lines(
        self, kind: Kind, namespace: str | None, version: str, *, seconds: int, silent: float
    ) -> AsyncIterator[bytes]:
        """One JSON text for each event after the version, until the server ends it."""
        ...


class HistoryLostError(Exception):
    """The versions of the cluster's objects have gone back, as when etcd is restored from a backup.

    A list is never older than one that has ended before it was asked for: it names no version, so the API
    server asks etcd for the newest. Of what was known, the newer is no longer true, and cannot be told apart:
    only a process that begins anew finds out what there is.
    """


class Informer:
    """Of one kind, in one namespace or (None) all. `on_news` is told of each agent that has changed."""

    def __init__(
        self,
        source: Source,
        cache: Cache,
        kind: Kind,
        namespace: str | None,
        on_news: Callable[[AgentKey], None],
        *,
        chance: random.Random | None = None,
    ) -> None:
        self._source = source
        self._cache = cache
        self._kind = kind
        self.namespace = namespace
        self._on_news = on_news
        self._chance = chance or random.Random()  # noqa: S311 - jitter, not secrets
        self._listed = 0  # the version of the last list
        self._version = ""  # that the next watch continues; "" where a list has to come first
        # Of two lists at once, the older one could come last, and bring back what the other had dropped.
        self._listing = asyncio.Lock()

    async def list(self) -> None:
        """Read the list, and take it in. Raises ClusterError, and HistoryLostError."""
        async with self._listing:
            await self._list()

    async def _list(self) -> None:
        listed: set[ObjectKey] = set()
        version = ""
        async for part in self._source.listed(self._kind, self.namespace):
            for record in part.records:
                listed.add(record.key)
                for agent in self._cache.take_in(record):
                    self._on_news(agent)
            version = part.version
        if int(version) < self._listed:
            raise HistoryLostError(
                f"the list of {self._kind.plural} is of version {version}, the one before of {self._listed}: "
                "was etcd restored from a backup?"
            )
        self._listed = int(version)
        for agent in self._cache.drop_unlisted(self._kind, self.namespace, listed, version):
            self._on_news(agent)
        self._version = version

    async def run(self) -> None:
        """For ever. Raises HistoryLostError."""
        failures = 0
        while True:
            seen = self._version
            try:
                if not self._version:
                    await self.list()
                await self._watch()
                failures = 0
            except (ClusterError, WatchError, GarbledError) as error:
                # A watch that brought something before it broke was a good one.
                failures = 1 if seen and self._version != seen else failures + 1
                is_too_old = isinstance(error, Outdated) or getattr(error, "code", 0) == _GONE
                if is_too_old or failures >= _FAILURES_UNTIL_LIST:
                    self._version = ""
                backoff = min(_LAST_BACKOFF, _FIRST_BACKOFF * 2 ** min(failures, 20))
                backoff *= self._chance.uniform(0.5, 1)
                # A version that is too old is forgotten, and nobody need know; a list knows of no version.
                level = logging.DEBUG if is_too_old and seen else logging.WARNING
                what = {"kind": self._kind.kind, "error": str(error), "retry_in": round(backoff, 2)}
                logger.log(level, "watch broken", extra=what)
                await asyncio.sleep(backoff)

    async def _watch(self) -> None:
        loop, came = asyncio.get_running_loop(), False
        started, seconds = loop.time(), round(_WATCH_SECONDS * self._chance.uniform(1, 1.5))
        lines = self._source.lines(
            self._kind, self.namespace, self._version, seconds=seconds, silent=_SILENT_SECONDS
        )
        async for line in lines:
            event = parse_event(self._kind, line)
            if event.record is not None:
                take = self._cache.take_out if event.type == "DELETED" else self._cache.take_in
                for agent in take(event.record):
                    self._on_news(agent)
            came = came or event.version != self._version
            self._version = event.version
        if loop.time() - started < _SHORTEST_SECONDS:
            if not came:
                raise Unavailable("the watch ended as soon as it began")
            await asyncio.sleep(_FIRST_BACKOFF)
