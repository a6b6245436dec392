"""Reads the experience log of all writers. What cannot be read is quarantined, never fatal."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from evolving_agent.store.layout import StoreLayout
from evolving_agent.store.records import SCHEMA_VERSION, Episode, Gap, ReflectionRecord

Line = TypeVar("Line", Episode, ReflectionRecord)


@dataclass(frozen=True)
class BadLine:
    """A line that is no record: `number` counts from 1, `reason` is the decoder's own words."""

    file: Path
    number: int
    reason: str
    raw: bytes


@dataclass
class Experience:
    """All records in the order of their files, the lines that were none, and how many records are missing."""

    episodes: list[Episode] = field(default_factory=list)
    reflections: list[ReflectionRecord] = field(default_factory=list)
    bad_lines: list[BadLine] = field(default_factory=list)
    lost: int = 0  # dropped by pods while their store refused writes


def read_experience(layout: StoreLayout) -> Experience:
    """Reads every episode and reflection file of the store."""
    for directory in layout.log_directories:
        layout.pull(directory)
    experience = Experience()
    for path in layout.episode_files:
        experience.episodes += _read_file(path, Episode, experience)
    for path in layout.reflection_files:
        experience.reflections += _read_file(path, ReflectionRecord, experience)
    return experience


def _read_file(path: Path, kind: type[Line], experience: Experience) -> list[Line]:
    """The records of one file; what else it says is noted in `experience`.

    A last line without its newline is still being written: it is left alone.
    """
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    bad_lines = experience.bad_lines
    decoder: msgspec.json.Decoder[Line | Gap] = msgspec.json.Decoder(kind | Gap)
    records: list[Line] = []
    for number, raw in enumerate(complete.split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            record = decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            bad_lines.append(BadLine(path, number, str(problem), raw))
            continue
        if record.v > SCHEMA_VERSION:
            reason = f"schema version {record.v} is newer than {SCHEMA_VERSION}, which this image reads"
            bad_lines.append(BadLine(path, number, reason, raw))
            continue
        if isinstance(record, Gap):
            experience.lost += record.lost
        else:
            records.append(record)
    return records


def quarantine(layout: StoreLayout, bad_lines: list[BadLine]) -> None:
    """Keeps bad lines beside the log, one file per source file; reading the log again changes nothing."""
    by_file: dict[Path, list[BadLine]] = {}
    for line in bad_lines:
        by_file.setdefault(line.file, []).append(line)
    for file, lines in by_file.items():
        source = file.relative_to(layout.root)
        rows = [
            json.dumps(
                {
                    "file": str(source),
                    "line": line.number,
                    "reason": line.reason,
                    "raw": line.raw.decode(errors="backslashreplace"),
                }
            )
            for line in lines
        ]
        layout.save(layout.quarantine / "--".join(source.parts), ("\n".join(rows) + "\n").encode())
