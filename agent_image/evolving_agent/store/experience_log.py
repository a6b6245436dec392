"""One pod's episodes and reflections: written to its own files, and found again by any pod."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from evolving_agent.store.journal import Journal, LogObserver, Rotation
from evolving_agent.store.layout import StoreLayout
from evolving_agent.store.records import Episode, ReflectionRecord
from evolving_agent.store.shipper import ShipObserver, Shipper

RECENT_EPISODES = 2_000
# What grows in the object store is sent again as a whole: small files cost little of that.
SPOOL_ROTATION = Rotation(max_bytes=2**20, max_seconds=3600.0)
VISIBLE_SECONDS = 15.0  # so long it may take until a pod's episode can be read in the object store
RETRY_SECONDS = 1.0
CLOCK_SKEW_SECONDS = 60.0  # between pods and the object store, at most

_ENCODER = msgspec.json.Encoder()
_EPISODES = msgspec.json.Decoder(Episode)


class ExperienceObserver(LogObserver, ShipObserver, Protocol):
    """Told what becomes of lines on the pod's disk and, where there is one, in the object store."""


class ExperienceLog:
    """One pod's episodes and reflections. `writer` is the pod's name: no two processes share it."""

    def __init__(self, layout: StoreLayout, writer: str, observer: ExperienceObserver) -> None:
        self._layout = layout
        remote = layout.remote
        directories = {"episode": layout.episodes(writer), "reflection": layout.reflections(writer)}
        rotation = Rotation() if remote is None else SPOOL_ROTATION
        self._episodes, self._reflections = (
            Journal(kind, directory, observer, rotation=rotation) for kind, directory in directories.items()
        )
        self._shipper = Shipper(layout, remote, directories, observer) if remote is not None else None
        self._recent: OrderedDict[str, Episode] = OrderedDict()

    @property
    def problems(self) -> list[str]:
        """Why experience is at risk at present, for people; nothing where all is well."""
        parts = (self._episodes, self._reflections, self._shipper)
        return [part.problem for part in parts if part is not None and part.problem]

    async def append_episode(self, episode: Episode) -> None:
        self._recent[episode.id] = episode
        while len(self._recent) > RECENT_EPISODES:
            self._recent.popitem(last=False)
        await self._episodes.append(_ENCODER.encode(episode))

    async def append_reflection(self, reflection: ReflectionRecord) -> None:
        await self._reflections.append(_ENCODER.encode(reflection))

    async def episode(self, episode_id: str) -> Episode | None:
        """The episode of that ID, whichever pod wrote it; None where there is none.

        Raises StoreUnavailableError where the object store that may hold it does not answer.
        """
        while True:
            if known := self._recent.get(episode_id):
                return known
            found = await asyncio.to_thread(find_episode, self._layout, episode_id)
            if found is not None or self._layout.remote is None or not _may_be_on_its_way(episode_id):
                return found
            await asyncio.sleep(RETRY_SECONDS)

    async def close(self) -> None:
        for part in (self._episodes, self._reflections, self._shipper):
            if part is not None:
                await asyncio.to_thread(part.close)


# An episode's ID names its writer and its time, so that any pod finds it without an index.
_EPISODE_ID = re.compile(
    r"chatcmpl-(?P<writer>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)-(?P<millis>\d{13})[0-9a-f]{8}"
)


def new_episode_id(writer: str) -> str:
    """`chatcmpl-<writer>-<13 digits: milliseconds since the epoch><8 hex digits>`."""
    return f"chatcmpl-{writer}-{time.time_ns() // 1_000_000:013d}{os.urandom(4).hex()}"


def find_episode(layout: StoreLayout, episode_id: str) -> Episode | None:
    """Scans what the ID's writer wrote since then, the newest first. Raises StoreUnavailableError."""
    named = _EPISODE_ID.fullmatch(episode_id)
    if named is None:
        return None
    needle = f'"id":"{episode_id}"'.encode()
    for line in _lines_since(layout, layout.episodes(named["writer"]), int(named["millis"]) / 1000):
        if needle not in line:
            continue
        try:
            return _EPISODES.decode(line)
        except msgspec.MsgspecError:
            continue  # a torn line; curation quarantines it
    return None


def _may_be_on_its_way(episode_id: str) -> bool:
    """Whether an episode of another pod is so young that it may still come to the object store."""
    named = _EPISODE_ID.fullmatch(episode_id)
    return named is not None and time.time() < int(named["millis"]) / 1000 + VISIBLE_SECONDS


def _lines_since(layout: StoreLayout, directory: Path, since: float) -> Iterator[bytes]:
    """Lines of the files that were written to after `since` (seconds since the epoch)."""
    for path in sorted(directory.glob("*.jsonl"), reverse=True):
        with suppress(FileNotFoundError):  # it has just been shipped
            if path.stat().st_mtime < since - 1.0:
                break  # this file and all before it are older
            with path.open("rb") as file:
                yield from file
    if layout.remote is None:
        return
    for info in reversed(layout.remote.list(layout.key(directory))):
        if info.modified.timestamp() < since - CLOCK_SKEW_SECONDS:
            break
        if found := layout.remote.get(info.key):
            yield from found[0].splitlines(keepends=True)
