"""The writer's side of the store: one process appends its episodes and reflections, and loses none.

An append returns when its line is in the file: a killed process loses nothing that was acknowledged. The
disk is synced in a thread of its own, again and again while there is something new: a machine that dies
loses at most what one sync takes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from evolving_agent.store.layout import StoreLayout
from evolving_agent.store.records import Episode, ReflectionRecord

ROTATE_BYTES = 64 * 2**20
MAX_BUFFERED_BYTES = 16 * 2**20  # while the store refuses writes
RETRY_SECONDS = 1.0
RECENT_EPISODES = 2_000

logger = logging.getLogger(__name__)

_ENCODER = msgspec.json.Encoder()
_EPISODES = msgspec.json.Decoder(Episode)


class LogObserver(Protocol):
    """Told what becomes of lines; called from the writer's thread. `kind`: episode or reflection."""

    def line_written(self, kind: str) -> None: ...
    def line_dropped(self, kind: str) -> None: ...
    def write_failed(self, kind: str) -> None: ...
    def buffered(self, kind: str, size: int) -> None: ...


@dataclass(frozen=True)
class _Line:
    """One encoded line, and the future of whoever waits for it."""

    data: bytes
    waiter: asyncio.Future[None]

    def acknowledge(self) -> None:
        self.waiter.get_loop().call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if not self.waiter.done():
            self.waiter.set_result(None)


class Journal:
    """Appends lines to numbered files in one directory, in a thread; never continues an older file.

    While writes fail (disk full, volume gone) lines wait in memory, at most `max_buffered_bytes`, then the
    oldest are dropped and counted; `append` does not wait for the disk then, so that serving goes on.
    """

    def __init__(
        self,
        kind: str,
        directory: Path,
        observer: LogObserver,
        *,
        rotate_bytes: int = ROTATE_BYTES,
        max_buffered_bytes: int = MAX_BUFFERED_BYTES,
    ) -> None:
        self._kind = kind
        self._directory = directory
        self._observer = observer
        self._rotate_bytes = rotate_bytes
        self._max_buffered_bytes = max_buffered_bytes
        self._lines: deque[_Line] = deque()
        self._buffered_bytes = 0
        self._failing = False
        self._closing = False
        self._changed = threading.Condition()
        self._file = -1
        self._size = 0
        self._syncer = _Syncer()
        self._thread = threading.Thread(target=self._write_forever, name=f"{kind}-journal", daemon=True)
        self._thread.start()

    async def append(self, data: bytes) -> None:
        """Returns when `data` (one line, without its end) is in the file, or could not be put there now."""
        line = _Line(data + b"\n", asyncio.get_running_loop().create_future())
        with self._changed:
            self._lines.append(line)
            self._buffered_bytes += len(line.data)
            self._drop_surplus()
            wait = not self._failing
            self._changed.notify()
        if wait:
            await line.waiter

    def close(self) -> None:
        """Writes what is left, if the disk takes it, and syncs. Blocks; call it from a thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._syncer.close()

    def _drop_surplus(self) -> None:
        while self._buffered_bytes > self._max_buffered_bytes and self._lines:
            oldest = self._lines.popleft()
            self._buffered_bytes -= len(oldest.data)
            oldest.acknowledge()
            self._observer.line_dropped(self._kind)

    def _write_forever(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._closing:
                    self._changed.wait()
                if not self._lines:
                    break
                batch = list(self._lines)
                self._lines.clear()
                self._buffered_bytes = 0
            try:
                self._write(b"".join(line.data for line in batch))
            except OSError as error:
                if not self._put_back(batch, error):
                    break
                continue
            self._written(batch)
        if self._file >= 0:
            self._syncer.finish(self._file)

    def _written(self, batch: list[_Line]) -> None:
        for line in batch:
            line.acknowledge()
            self._observer.line_written(self._kind)
        if self._failing:
            self._failing = False
            logger.warning("the store takes %ss again", self._kind)
        self._observer.buffered(self._kind, 0)
        self._syncer.wake(self._file)

    def _put_back(self, batch: list[_Line], error: OSError) -> bool:
        """Keeps the batch for another try, and releases who waits. False: closing, it is given up."""
        self._observer.write_failed(self._kind)
        for line in batch:
            line.acknowledge()
        with self._changed:
            if not self._failing:
                self._failing = True
                logger.error(
                    "cannot write %ss to %s: %s; serving goes on and they wait: make room on the volume",
                    self._kind,
                    self._directory,
                    error,
                )
            self._lines.extendleft(reversed(batch))
            self._buffered_bytes = sum(len(line.data) for line in self._lines)
            self._drop_surplus()
            self._observer.buffered(self._kind, self._buffered_bytes)
            if self._closing:
                for _ in self._lines:
                    self._observer.line_dropped(self._kind)
                return False
        time.sleep(RETRY_SECONDS)
        return True

    def _write(self, data: bytes) -> None:
        """All of `data`, or nothing of it. Raises OSError."""
        if self._file < 0 or self._size >= self._rotate_bytes:
            self._start_file()
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            # a torn line must not become the beginning of the next one
            try:
                os.ftruncate(self._file, self._size)
            except OSError:
                self._size = self._rotate_bytes  # then it stays the last one of its file
            raise
        self._size += written

    def _start_file(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        last = max((int(path.stem) for path in self._directory.glob("*.jsonl")), default=0)
        path = self._directory / f"{last + 1:08d}.jsonl"
        new = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        if self._file >= 0:
            self._syncer.finish(self._file)
        self._file, self._size = new, 0


class _Syncer:
    """Syncs one file after the other, in a thread; a burst of wakes while it syncs costs one more sync."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._dirty: int | None = None
        self._finished: list[int] = []
        self._closing = False
        self._thread = threading.Thread(target=self._sync_forever, name="journal-sync", daemon=True)
        self._thread.start()

    def wake(self, file: int) -> None:
        with self._changed:
            self._dirty = file
            self._changed.notify()

    def finish(self, file: int) -> None:
        """Syncs and closes a file that gets no more lines."""
        with self._changed:
            self._finished.append(file)
            if self._dirty == file:
                self._dirty = None
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _sync_forever(self) -> None:
        while True:
            with self._changed:
                while self._dirty is None and not self._finished and not self._closing:
                    self._changed.wait()
                if self._dirty is None and not self._finished:
                    return
                finished, self._finished = self._finished, []
                dirty, self._dirty = self._dirty, None
            for file in [*finished, *([dirty] if dirty is not None else [])]:
                try:
                    os.fsync(file)
                except OSError as error:
                    logger.error("cannot sync the experience log: %s", error)
            for file in finished:
                os.close(file)


class ExperienceLog:
    """One pod's episodes and reflections. `writer` is the pod's name: no two processes share it."""

    def __init__(self, layout: StoreLayout, writer: str, observer: LogObserver) -> None:
        self._layout = layout
        self._writer = writer
        self._episodes = Journal("episode", layout.episodes(writer), observer)
        self._reflections = Journal("reflection", layout.reflections(writer), observer)
        self._recent: OrderedDict[str, Episode] = OrderedDict()

    async def append_episode(self, episode: Episode) -> None:
        self._recent[episode.id] = episode
        while len(self._recent) > RECENT_EPISODES:
            self._recent.popitem(last=False)
        await self._episodes.append(_ENCODER.encode(episode))

    async def append_reflection(self, reflection: ReflectionRecord) -> None:
        await self._reflections.append(_ENCODER.encode(reflection))

    async def episode(self, episode_id: str) -> Episode | None:
        """The episode of that ID, whichever pod wrote it; None where there is none."""
        if known := self._recent.get(episode_id):
            return known
        return await asyncio.to_thread(find_episode, self._layout, episode_id)

    async def close(self) -> None:
        await asyncio.to_thread(self._episodes.close)
        await asyncio.to_thread(self._reflections.close)


# An episode's ID names its writer and its time, so that any pod finds it without an index.
_EPISODE_ID = re.compile(
    r"chatcmpl-(?P<writer>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)-(?P<millis>\d{13})[0-9a-f]{8}"
)


def new_episode_id(writer: str) -> str:
    """`chatcmpl-<writer>-<13 digits: milliseconds since the epoch><8 hex digits>`."""
    return f"chatcmpl-{writer}-{time.time_ns() // 1_000_000:013d}{os.urandom(4).hex()}"


def find_episode(layout: StoreLayout, episode_id: str) -> Episode | None:
    """Scans the files of the ID's writer that were written to after the ID's time, newest first."""
    named = _EPISODE_ID.fullmatch(episode_id)
    if named is None:
        return None
    since = int(named["millis"]) / 1000 - 1.0
    needle = f'"id":"{episode_id}"'.encode()
    files = sorted(layout.episodes(named["writer"]).glob("*.jsonl"), reverse=True)
    for path in files:
        if path.stat().st_mtime < since:
            return None  # this file and all before it are older than the episode
        for line in _lines_with(path, needle):
            try:
                return _EPISODES.decode(line)
            except msgspec.MsgspecError:
                continue  # a torn line; curation quarantines it
    return None


def _lines_with(path: Path, needle: bytes) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if needle in line:
                yield line
