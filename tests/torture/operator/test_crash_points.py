"""Wherever the operator is killed, before or after any of its writes, the agent's life ends the same.

TORTURE_POINTS limits the number of crash points (default 60, spread over all writes and both sides).
Writes docs/results/torture-operator.json.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import pytest

from support.agent_story import PASSING
from support.cluster import REPOSITORY, RunningCluster, running_cluster
from support.crash import Life, crash_points, live, live_all, spread
from support.kinds import serve_kinds
from support.recording_proxy import CrashPoint, Side, Write

pytestmark = pytest.mark.cluster

RESULTS = REPOSITORY / "docs" / "results" / "torture-operator.json"
POINTS = int(os.environ.get("TORTURE_POINTS", "60"))
AT_ONCE = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """One of its own: thousands of writes would slow other tests' clusters down."""
    with running_cluster("torture", "control-plane") as started:
        serve_kinds(started)
        yield started


async def test_no_crash_point_changes_the_end(cluster: RunningCluster, tmp_path: Path) -> None:
    undisturbed = await live(cluster, tmp_path)
    assert undisturbed.faults == ()
    assert undisturbed.state is not None
    # A comparison that fails by itself would prove nothing.
    again = await live(cluster, tmp_path, expected=undisturbed.state)
    assert again.faults == ()

    points = spread(crash_points(len(undisturbed.writes)), POINTS)
    ended = 0

    def progress(life: Life) -> None:
        nonlocal ended
        ended += 1
        print(f"{ended}/{len(points) + 1} {life}", *life.faults, sep="\n    ", flush=True)

    print(f"\n{len(undisturbed.writes)} writes, {len(points)} crash points")
    lives = await live_all(cluster, tmp_path, points, undisturbed.state, at_once=AT_ONCE, on_end=progress)

    lives.append(await live(cluster, tmp_path, *again_and_again(), expected=undisturbed.state))
    progress(lives[-1])

    print(table(undisturbed.writes, lives))
    RESULTS.write_text(json.dumps(summary(undisturbed.writes, lives), indent=2) + "\n")
    assert {str(life): life.faults for life in lives if life.faults} == {}
    # Writes differ by a few between runs: a point behind the last one is never reached.
    assert sum(life.strikes > 0 for life in lives) >= 0.9 * len(lives)


def again_and_again() -> list[CrashPoint]:
    """A death at every eighth write of one life."""
    return [CrashPoint(index, side) for index, side in zip(range(3, 100, 8), cycle(Side), strict=False)]


def summary(writes: Sequence[Write], lives: Sequence[Life]) -> dict[str, object]:
    return {
        "command": f"TORTURE_POINTS={POINTS} make torture",
        "scenario": "create, curate, train, evaluate, promote, restart, validate, done; again, and roll back",
        "not_compared": ["times", *sorted(f"Event {reason}" for reason in PASSING)],
        "writes": len(writes),
        "lives": len(lives),
        "points": sum(len(life.points) for life in lives),
        "faults": sum(life.strikes for life in lives),
        "divergences": sum(bool(life.faults) for life in lives),
        "lost": sum(life.state is None for life in lives),
        "diverged": {str(life): life.faults for life in lives if life.faults},
    }


def table(writes: Sequence[Write], lives: Sequence[Life]) -> str:
    """One line for each sort of write: deaths before and after it, and how many of those lives diverged."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys((*Side, "diverged"), 0))
    for life in lives:
        for point in life.points:
            if point.index < len(life.writes):
                row = counts[life.writes[point.index].sort]
                row[point.side] += 1
                row["diverged"] += bool(life.faults)
    lines = [f"{'killed at':<34}{'before':>8}{'after':>8}{'diverged':>10}"]
    for sort, row in sorted(counts.items()):
        lines.append(f"{sort:<34}{row[Side.BEFORE]:>8}{row[Side.AFTER]:>8}{row['diverged']:>10}")
    total = summary(writes, lives)
    lines.append(
        f"{total['lives']} lives, {total['points']} points, {total['faults']} kills, "
        f"{total['divergences']} divergences, {total['lost']} lost"
    )
    return "\n".join(lines)
