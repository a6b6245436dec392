"""Where everything lies in the store. Every path is made here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StoreLayout:
    """Paths below the store's root; directories are made by whoever writes there first."""

    root: Path

    def episodes(self, writer: str) -> Path:
        """Directory of one writer's episode files (`00000001.jsonl`, …); a writer is one pod."""
        return self.root / "episodes" / writer

    def reflections(self, writer: str) -> Path:
        return self.root / "reflections" / writer

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
