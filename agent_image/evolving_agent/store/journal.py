"""Appends lines to files of one directory, and says of each line when it is on the disk.

Group commit: a thread takes all lines that wait, writes them, syncs the file once, and then releases
whoever waits for them. What comes in meanwhile is the next group, so that a slow disk makes groups larger
and not the queue longer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from evolving_agent.store.durable import make_directory, sync_directory
from evolving_agent.store.records import Gap, utc_now

MAX_BUFFERED_BYTES = 16 * 2**20  # while the store refuses writes
RETRY_SECONDS = 1.0
PATIENCE_SECONDS = 2.0  # of an answer with a disk that neither takes nor refuses its line
CLOSE_SECONDS = 10.0

logger = logging.getLogger(__name__)

_GAPS = msgspec.json.Encoder()


class LogObserver(Protocol):
    """Told what becomes of lines, from any thread. `kind`: episode or reflection."""

    def lines_written(self, kind: str, count: int, seconds: float) -> None:
        """A group is on the disk; `seconds` is what writing and syncing took."""

    def lines_dropped(self, kind: str, count: int) -> None: ...
    def write_failed(self, kind: str) -> None: ...
    def buffered(self, kind: str, size: int) -> None: ...

    def late(self, kind: str) -> None:
        """An answer went out although its line is not on the disk yet."""


@dataclass(frozen=True)
class Rotation:
    """When a file is closed and the next one begun; whichever comes first."""

    max_bytes: int = 64 * 2**20
    max_seconds: float = 24 * 3600.0


@dataclass(frozen=True)
class _Line:
    """One encoded line, and the future of whoever waits for it: whether it is on the disk."""

    data: bytes
    waiter: asyncio.Future[bool]


class Journal:
    """The one writer of the numbered files in one directory; never continues an older file.

    While the disk refuses (full, read-only, gone) lines wait in memory, at most `max_buffered_bytes`, then
    the oldest are dropped; how many were lost is itself a line (a Gap) once the disk takes lines again.
    """

    def __init__(
        self,
        kind: str,
        directory: Path,
        observer: LogObserver,
        *,
        rotation: Rotation = Rotation(),
        max_buffered_bytes: int = MAX_BUFFERED_BYTES,
    ) -> None:
        self._kind = kind
        self._directory = directory
        self._observer = observer
        self._rotation = rotation
        self._max_buffered_bytes = max_buffered_bytes
        self._lines: deque[_Line] = deque()
        self._buffered_bytes = 0
        self._problem = ""  # why lines do not reach the disk at present: nobody waits for them then
        self._in_flight = 0  # lines of the group that is being written
        self._lost = 0  # since the last Gap was written
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._file = -1
        self._size = 0
        self._begun = 0.0
        self._thread = threading.Thread(target=self._write_forever, name=f"{kind}-journal", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why lines wait in memory, and whether some are lost already; "" where none wait."""
        if not self._problem:
            return ""
        fate = "the oldest of what they teach is lost" if self._lost else "what they teach waits in memory"
        return (
            f"{self._problem}; answers still go out, and {fate}: make room on the volume, or see why it is "
            "not writable"
        )

    async def append(self, data: bytes) -> None:
        """Returns when `data` (one line, without its end) is on the disk, or known not to get there now."""
        line = _Line(data + b"\n", asyncio.get_running_loop().create_future())
        with self._changed:
            self._lines.append(line)
            self._buffered_bytes += len(line.data)
            self._drop_surplus()
            on_disk = not self._problem  # else nobody waits
            self._changed.notify()
        if on_disk:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    on_disk = await line.waiter
            except TimeoutError:
                self._refused(f"no write has ended for {PATIENCE_SECONDS:g} s")
                on_disk = False
        if not on_disk:
            self._observer.late(self._kind)

    def close(self) -> None:
        """Writes and syncs what is left, if the disk takes it. Blocks; call it from a thread."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)
        with self._changed:
            left = len(self._lines) + self._in_flight
        if left:
            logger.error("%d %ss are lost: %s is not writable", left, self._kind, self._directory)
            self._observer.lines_dropped(self._kind, left)

    def _drop_surplus(self) -> None:
        dropped: list[_Line] = []
        while self._buffered_bytes > self._max_buffered_bytes and self._lines:
            oldest = self._lines.popleft()
            self._buffered_bytes -= len(oldest.data)
            dropped.append(oldest)
        if dropped:
            self._lost += len(dropped)
            _release(dropped, on_disk=False)
            self._observer.lines_dropped(self._kind, len(dropped))

    def _write_forever(self) -> None:
        last_try = False  # of a journal that is closed while the disk refuses
        while True:
            with self._changed:
                while not self._lines and not self._closing.is_set():
                    self._changed.wait()
                if not self._lines:
                    break
                group, lost = list(self._lines), self._lost
                self._in_flight = len(group)
                self._lines.clear()
                self._buffered_bytes = 0
            gap = _gap_line(self._kind, lost) if lost else b""
            started = time.perf_counter()
            try:
                self._write(gap + b"".join(line.data for line in group))
            except OSError as error:
                self._put_back(group, error)
                if last_try:
                    break
                last_try = self._closing.wait(RETRY_SECONDS)
                continue
            self._written(group, lost, time.perf_counter() - started)
        if self._file >= 0:
            os.close(self._file)

    def _written(self, group: list[_Line], lost: int, seconds: float) -> None:
        with self._changed:
            recovered, self._problem = self._problem, ""
            self._lost -= lost
            self._in_flight = 0
        _release(group, on_disk=True)
        self._observer.lines_written(self._kind, len(group), seconds)
        self._observer.buffered(self._kind, 0)
        if recovered:
            logger.warning("the store takes %ss again; %d were lost meanwhile", self._kind, lost)

    def _put_back(self, group: list[_Line], error: OSError) -> None:
        """Keeps the group for another try, and releases who waits."""
        self._observer.write_failed(self._kind)
        self._refused(str(error))
        _release(group, on_disk=False)
        with self._changed:
            self._in_flight = 0
            self._lines.extendleft(reversed(group))
            self._buffered_bytes = sum(len(line.data) for line in self._lines)
            self._drop_surplus()
            self._observer.buffered(self._kind, self._buffered_bytes)

    def _refused(self, why: str) -> None:
        with self._changed:
            already, self._problem = self._problem, f"cannot write {self._kind}s to {self._directory}: {why}"
        if not already:
            logger.error("%s", self.problem)

    def _write(self, data: bytes) -> None:
        """All of `data`, synced, or nothing of it. Raises OSError."""
        age = time.monotonic() - self._begun
        if self._file < 0 or self._size >= self._rotation.max_bytes or age >= self._rotation.max_seconds:
            self._start_file()
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            os.fdatasync(self._file)
        except OSError:
            self._give_up_file()
            raise
        self._size += len(data)

    def _give_up_file(self) -> None:
        """Cuts off what is not wholly written. The next try goes to a new file.

        After a failed sync the kernel holds the pages for clean, so that a second sync of this file would
        succeed without having written them.
        """
        try:
            os.ftruncate(self._file, self._size)
        except OSError as error:
            logger.warning("the last line of %s may be torn: %s", self._directory, error)
        os.close(self._file)
        self._file = -1

    def _start_file(self) -> None:
        make_directory(self._directory)
        names = (path.stem for path in self._directory.glob("*.jsonl"))
        last = max((int(name) for name in names if name.isdecimal()), default=0)
        path = self._directory / f"{last + 1:08d}.jsonl"
        new = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        sync_directory(self._directory)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size, self._begun = new, 0, time.monotonic()


def _release(lines: Sequence[_Line], *, on_disk: bool) -> None:
    """Wakes whoever waits for these lines, each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[bool]]] = {}
    for line in lines:
        by_loop.setdefault(line.waiter.get_loop(), []).append(line.waiter)
    for loop, waiters in by_loop.items():
        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(_resolve, waiters, on_disk)


def _resolve(waiters: Sequence[asyncio.Future[bool]], on_disk: bool) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(on_disk)


def _gap_line(kind: str, lost: int) -> bytes:
    return _GAPS.encode(Gap(time=utc_now(), kind=kind, lost=lost)) + b"\n"
