"""Datasets in the store: immutable directories, named after their content, and a pointer to the latest.

A directory holds train.jsonl, holdout.jsonl and manifest.json, and appears whole, by one rename.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evolving_agent.contract.base import Document, canonical_json
from evolving_agent.contract.learning import Curation, DatasetFormat
from evolving_agent.contract.report import DatasetRef
from evolving_agent.curation.examples import Example
from evolving_agent.store.durable import sync_directory, write_synced
from evolving_agent.store.layout import StoreLayout

TRAIN_FILE = "train.jsonl"
HOLDOUT_FILE = "holdout.jsonl"
MANIFEST_FILE = "manifest.json"
POINTER_FILE = "LATEST"
_BYTES_PER_TOKEN = 4  # a common rule of thumb for English; only the price limit rests on it


class Lineage(Document):
    """Where one example comes from. `input` names the redacted input, not its text."""

    split: str  # "train" or "holdout"
    line: int  # in its file, from 1
    input: str
    episode: str
    reflection: str
    trust: str
    task_type: str
    rejected: str | None = None  # of a pair: the episode that gave the wrong answer


class Manifest(Document):
    """What is known of a dataset. The digest covers the examples alone, so equal data is one dataset."""

    format: int = 1
    version: str
    digest: str
    created: str
    parent: str | None = None
    examples: int
    holdout: int
    estimated_tokens: int
    episodes: int
    reflections: int
    quarantined: int
    conflicts: int
    redacted: dict[str, int]
    dropped: dict[str, int]
    settings: Curation
    lineage: tuple[Lineage, ...]

    @property
    def ref(self) -> DatasetRef:
        return DatasetRef(
            version=self.version,
            digest=self.digest,
            examples=self.examples,
            holdout=self.holdout,
            format=self.settings.format,
        )


class DatasetError(Exception):
    """A dataset that should be in the store cannot be read from there."""


def read_manifest(layout: StoreLayout, version: str) -> Manifest:
    path = layout.dataset(version) / MANIFEST_FILE
    layout.pull_file(path)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as problem:
        raise DatasetError(f"{path}: {problem}") from problem


def latest_manifest(layout: StoreLayout) -> Manifest | None:
    """The dataset that the last successful curation found or made; None before the first one."""
    layout.pull_file(layout.datasets / POINTER_FILE)
    try:
        version = (layout.datasets / POINTER_FILE).read_text().strip()
    except FileNotFoundError:
        return None
    return read_manifest(layout, version)


def training_lines(examples: Sequence[Example]) -> bytes:
    """The training file: of pairs in OpenAI's preference format, of other examples in its chat format."""
    return _lines(
        e.training_line() if e.rejected is None else e.preference_line(e.rejected) for e in examples
    )


def held_out_lines(examples: Sequence[Example]) -> bytes:
    """The held-out file, with a suite's case in each line; the same whatever the training file's format."""
    return _lines(e.held_out_line() for e in examples)


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """JSON Lines, in canonical JSON: equal examples give equal bytes."""
    return b"".join(canonical_json(row).encode() + b"\n" for row in rows)


def content_digest(train: bytes, holdout: bytes) -> str:
    """64 hex digits over both files."""
    return hashlib.sha256(hashlib.sha256(train).digest() + hashlib.sha256(holdout).digest()).hexdigest()


def version_name(content: str) -> str:
    return f"ds-{content[:8]}"


def estimate_tokens(train: bytes, dataset_format: DatasetFormat) -> int:
    """Tokens of one pass over the training split, roughly; of a pair, the prompt counts for either side."""
    size = len(train)
    if dataset_format is DatasetFormat.PREFERENCE:
        size += sum(len(canonical_json(json.loads(line)["input"]).encode()) for line in train.splitlines())
    return -(-size // _BYTES_PER_TOKEN)


def lineage_of(train: Sequence[Example], held_out: Sequence[Example]) -> tuple[Lineage, ...]:
    return tuple(
        Lineage(
            split=split,
            line=number,
            input=example.input_digest,
            episode=example.episode,
            reflection=example.reflection,
            trust=example.trust.name,
            task_type=example.task_type,
            rejected=example.rejected.episode if split == "train" and example.rejected else None,
        )
        for split, examples in (("train", train), ("holdout", held_out))
        for number, example in enumerate(examples, start=1)
    )


def write_dataset(layout: StoreLayout, train: bytes, holdout: bytes, manifest: Manifest) -> None:
    """Puts the dataset into the store. The caller has seen that its version is not there yet."""
    layout.datasets.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=layout.datasets))
    try:
        unfinished.chmod(0o755)  # mkdtemp's 0700 would lock out a trainer that runs as another user
        write_synced(unfinished / TRAIN_FILE, train)
        write_synced(unfinished / HOLDOUT_FILE, holdout)
        write_synced(unfinished / MANIFEST_FILE, canonical_json(manifest.to_wire()).encode())
        sync_directory(unfinished)
        unfinished.rename(layout.dataset(manifest.version))
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync_directory(layout.datasets)
    if layout.remote is not None:
        for name in (TRAIN_FILE, HOLDOUT_FILE, MANIFEST_FILE):  # a dataset is there when its manifest is
            path = layout.dataset(manifest.version) / name
            layout.remote.put(layout.key(path), path.read_bytes())


def dataset_exists(layout: StoreLayout, version: str) -> bool:
    path = layout.dataset(version) / MANIFEST_FILE
    layout.pull_file(path)
    return path.exists()


def point_to(layout: StoreLayout, version: str) -> None:
    layout.save(layout.datasets / POINTER_FILE, version.encode() + b"\n")


def remove_unfinished(layout: StoreLayout) -> None:
    """Removes what a killed curation left behind. The caller holds the lock of curation."""
    for leftover in layout.datasets.glob(".unfinished-*"):
        shutil.rmtree(leftover, ignore_errors=True)
