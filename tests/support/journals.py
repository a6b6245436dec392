"""Looks at what a journal tells and at what it leaves on the disk."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from evolving_agent.store.journal import Journal
from support.cluster import eventually_async


class Observed:
    """Counts what the log tells."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def lines_written(self, kind: str, count: int, seconds: float) -> None:
        self.counts["written"] += count

    def lines_dropped(self, kind: str, count: int) -> None:
        self.counts["dropped"] += count

    def write_failed(self, kind: str) -> None:
        self.counts["failed"] += 1

    def buffered(self, kind: str, size: int) -> None:
        self.counts["buffered"] = size

    def ship_failed(self) -> None:
        self.counts["ship failed"] += 1

    def unshipped(self, size: int) -> None:
        self.counts["unshipped"] = size

    def late(self, kind: str) -> None:
        self.counts["late"] += 1

    async def until(self, what: str, count: int) -> None:
        async def enough() -> bool:
            return self.counts[what] >= count

        await eventually_async(enough, 30, f"{what} {count} times")


def lines(directory: Path) -> list[str]:
    return [line for path in sorted(directory.glob("*.jsonl")) for line in path.read_text().splitlines()]


async def closed(journal: Journal) -> None:
    await asyncio.to_thread(journal.close)
