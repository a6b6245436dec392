"""Carries one pod's journals to the object store: what is on the pod's disk is there within seconds.

The journals' directories are a spool. A file that still grows is sent again as it grows, under the same
name; one that is complete goes from the spool once it is sent. The newest file of each journal always
stays: its number is where a restarted container counts on, so that no object is ever written over by
another file.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evolving_agent.store.durable import StoreUnavailableError
from evolving_agent.store.layout import StoreLayout

if TYPE_CHECKING:  # only pods with an object store load its client
    from evolving_agent.store.object_store import ObjectStore

SHIP_SECONDS = 5.0
MAX_SPOOL_BYTES = 256 * 2**20  # while the object store does not answer
CLOSE_SECONDS = 20.0

logger = logging.getLogger(__name__)


class ShipObserver(Protocol):
    """Told how shipping goes, from the shipper's thread."""

    def lines_dropped(self, kind: str, count: int) -> None: ...
    def ship_failed(self) -> None: ...

    def unshipped(self, size: int) -> None:
        """So many bytes lie in the spool and not yet in the object store."""


class Shipper:
    """Ships `directories` (by kind of line) until it is closed; close the journals first."""

    def __init__(
        self,
        layout: StoreLayout,
        remote: ObjectStore,
        directories: dict[str, Path],
        observer: ShipObserver,
        *,
        every_seconds: float = SHIP_SECONDS,
        max_spool_bytes: int = MAX_SPOOL_BYTES,
    ) -> None:
        self._layout = layout
        self._remote = remote
        self._directories = directories
        self._observer = observer
        self._every_seconds = every_seconds
        self._max_spool_bytes = max_spool_bytes
        self._shipped: dict[Path, int] = {}  # how much of each file of the spool is in the object store
        self._problem = ""
        self._is_dropping = False  # since the object store last took something
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._ship_forever, name="shipper", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why experience waits on the pod's disk, and whether some is lost already; "" where none waits."""
        if not self._problem:
            return ""
        waits, goes = "what they teach waits on the pod's disk", "the oldest of what they teach is lost"
        return f"{self._problem}; answers still go out, and {goes if self._is_dropping else waits}"

    def close(self) -> None:
        """Ships what is left, if the object store takes it. Blocks; call it from a thread."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        if left := self._unshipped():
            logger.error(
                "%d bytes of experience are not in %s; they go with this pod", left, self._remote.url
            )

    def _ship_forever(self) -> None:
        last = False
        while not last:
            last = self._closing.wait(self._every_seconds)
            try:
                self._ship()
            except Exception:  # what goes wrong once must not end the shipping
                logger.exception("shipping failed in a way that was not foreseen")
                self._observer.ship_failed()
            self._drop_surplus()
            self._observer.unshipped(self._unshipped())

    def _ship(self) -> None:
        for directory in self._directories.values():
            files = sorted(directory.glob("*.jsonl"))
            for path in files:
                if not self._ship_file(path):
                    return
                if path != files[-1]:
                    path.unlink()
                    del self._shipped[path]

    def _ship_file(self, path: Path) -> bool:
        """Whether the object store has all of the file now."""
        if path.stat().st_size == self._shipped.get(path, 0):
            return True
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # a line that is being written follows next time
        try:
            self._remote.put(self._layout.key(path), whole)
        except StoreUnavailableError as error:
            self._observer.ship_failed()
            is_news, self._problem = not self._problem, str(error)
            if is_news:
                logger.error("%s", self.problem)
            return False
        if self._problem:
            self._problem, self._is_dropping = "", False
            logger.warning("%s takes the experience log again", self._remote.url)
        self._shipped[path] = len(content)
        return True

    def _unshipped(self) -> int:
        return sum(size - self._shipped.get(path, 0) for _, path, size in self._spool())

    def _drop_surplus(self) -> None:
        """The oldest files go, and are counted, where the spool has grown too long."""
        spool = self._spool()
        size = sum(size for _, _, size in spool)
        for kind, path, part in _droppable(spool):
            if size <= self._max_spool_bytes:
                return
            self._is_dropping = True
            self._observer.lines_dropped(kind, path.read_bytes().count(b"\n"))
            logger.error("%s was dropped: the spool is full, and the object store takes nothing", path)
            path.unlink()
            self._shipped.pop(path, None)
            size -= part

    def _spool(self) -> list[tuple[str, Path, int]]:
        """Kind, path and size of every file, the oldest first."""
        files = [
            (kind, path, path.stat())
            for kind, directory in self._directories.items()
            for path in directory.glob("*.jsonl")
        ]
        files.sort(key=lambda file: file[2].st_mtime)
        return [(kind, path, stat.st_size) for kind, path, stat in files]


def _droppable(spool: Sequence[tuple[str, Path, int]]) -> list[tuple[str, Path, int]]:
    """All files but the newest of each directory, which its journal writes."""
    newest = {path.parent: path for _, path, _ in sorted(spool, key=lambda file: file[1].name)}
    return [file for file in spool if file[1] != newest[file[1].parent]]
