"""Where everything lies in the store, and how it gets there. Every path is made here."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evolving_agent.contract import env
from evolving_agent.store.durable import exclusive, write_atomically
from evolving_agent.store.lease import leased

if TYPE_CHECKING:  # only pods with an object store load its client
    from evolving_agent.store.object_store import ObjectInfo, ObjectStore

DOWNLOADS_AT_A_TIME = 8


@dataclass(frozen=True)
class StoreLayout:
    """Paths below the store's root; directories are made by whoever writes there first.

    With a volume, the root is the store. With an object store (`remote`), the root is a directory of the
    pod's own under the same paths: `pull` brings what is to be read, and the writing methods write through.
    All of them raise StoreUnavailableError.
    """

    root: Path
    remote: ObjectStore | None = None
    # of the objects as this process has read or written them
    _tags: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_environment(cls, root: Path, variables: Mapping[str, str]) -> StoreLayout:
        url = variables.get(env.OBJECT_STORE)
        if not url:
            return cls(root)
        from evolving_agent.store.object_store import ObjectStore  # noqa: PLC0415 (see TYPE_CHECKING above)

        return cls(root, ObjectStore(url, variables))

    def pull(self, directory: Path) -> None:
        """Brings everything below `directory` that is not here as it is there."""
        if self.remote is None:
            return
        with ThreadPoolExecutor(DOWNLOADS_AT_A_TIME) as threads:
            list(threads.map(self._pull_object, self.remote.list(self.key(directory))))

    def pull_file(self, path: Path) -> None:
        """Brings one file; does nothing where there is none."""
        if self.remote is None:
            return
        found = self.remote.get(self.key(path))
        if found is not None:
            self._arrived(path, *found)

    def save(self, path: Path, content: bytes) -> None:
        """Writes a file whole, whatever was there: for what can be made again."""
        if self.remote is not None:
            self._tags[self.key(path)] = self.remote.put(self.key(path), content)
        write_atomically(path, content)

    def replace(self, path: Path, content: bytes) -> None:
        """Writes a file whole, where nobody else has written it since this process read or wrote it.

        Raises StoreBusyError, on an object store alone: on a volume the lock (`exclusive`) is enough.
        """
        if self.remote is not None:
            key = self.key(path)
            self._tags[key] = self.remote.put_if(key, content, self._tags.get(key))
        write_atomically(path, content)

    def exclusive(self, path: Path, owner: str) -> AbstractContextManager[None]:
        """Holds the lock at `path` for as long as the block; `owner` is the run's ID.

        Raises StoreBusyError where another run holds it.
        """
        if self.remote is None:
            return exclusive(path)
        return leased(self.remote, self.key(path), owner)

    def key(self, path: Path) -> str:
        """A path below the root, as the object store names it."""
        return path.relative_to(self.root).as_posix()

    def _pull_object(self, info: ObjectInfo) -> None:
        path = self.root / info.key
        if self._tags.get(info.key) != info.tag or not path.exists():
            self.pull_file(path)

    def _arrived(self, path: Path, content: bytes, tag: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self._tags[self.key(path)] = tag

    def episodes(self, writer: str) -> Path:
        """Directory of one writer's episode files (`00000001.jsonl`, …); a writer is one pod."""
        return self.root / "episodes" / writer

    def reflections(self, writer: str) -> Path:
        return self.root / "reflections" / writer

    @property
    def log_directories(self) -> tuple[Path, Path]:
        return self.root / "episodes", self.root / "reflections"

    @property
    def episode_files(self) -> list[Path]:
        return sorted((self.root / "episodes").glob("*/*.jsonl"))

    @property
    def reflection_files(self) -> list[Path]:
        return sorted((self.root / "reflections").glob("*/*.jsonl"))

    @property
    def quarantine(self) -> Path:
        """Lines that could not be read, as they were, with the place they came from."""
        return self.root / "quarantine"

    @property
    def memory_database(self) -> Path:
        return self.root / "memory" / "memory.db"

    @property
    def session_database(self) -> Path:
        return self.root / "memory" / "sessions.db"

    def dataset(self, version: str) -> Path:
        """Directory of a finished dataset: train.jsonl, holdout.jsonl, manifest.json."""
        return self.root / "datasets" / version

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    def runs(self, kind: str) -> Path:
        return self.root / "runs" / kind

    def run(self, kind: str, run_id: str) -> Path:
        """Directory of one resumable run (kind: curation, training, evaluation): state.json, report.json."""
        return self.runs(kind) / run_id
