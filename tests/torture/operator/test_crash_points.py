"""Wherever the operator is killed, before or after any of its writes, each passage ends as it does without.

TORTURE_LIVES limits the number of lives of each story, to about so many; TORTURE_AT_ONCE is how many are
lived at the same time.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from support.account import summary, table, write_section
from support.cluster import RunningCluster
from support.lives import Plan, Told, World, differences, harms, spread, tell_all, tell_undisturbed
from support.recording_proxy import KILLS
from support.stories import PASSING, STORIES, Story

pytestmark = pytest.mark.cluster

LIVES = int(os.environ.get("TORTURE_LIVES", "0")) or None
AT_ONCE = int(os.environ.get("TORTURE_AT_ONCE", "6"))
NOT_COMPARED = [
    "times, the namespace, UIDs, names of pods, resource versions, and hashes that cover one of these",
    "how often an Event was told: the set of reasons counts",
    f"Events of what may have come and gone while no operator ran: {', '.join(sorted(PASSING))}",
]


async def test_no_crash_point_changes_the_end(cluster: RunningCluster, tmp_path: Path) -> None:
    async with World(cluster, tmp_path) as world:
        plans = [plan for planned in [await deaths(world, story) for story in STORIES] for plan in planned]
        told = await tell_all(world, plans, at_once=AT_ONCE, on_end=show_faults)

    print(table(told, KILLS, lambda point: point.strike))
    found = {**summary(told, "points"), "not_compared": NOT_COMPARED}
    write_section("crash points", found)
    print({key: found[key] for key in ("points", "divergences", "lost", "slowest_recovery_seconds")})
    assert found["diverged"] == {}
    assert LIVES is not None or found["points"] >= 500


async def deaths(world: World, story: Story) -> list[Plan]:
    """Both sides of every write of every passage."""
    expected, again = await asyncio.gather(tell_undisturbed(world, story), tell_undisturbed(world, story))
    for first, second in zip(expected, again, strict=True):
        # A comparison that fails by itself would prove nothing.
        assert differences(first.state, second.state) == [], str(first)
    plans = [Plan(story, expected, harm) for harm in spread(harms(expected, KILLS), LIVES)]
    print(f"\n{story.name}: {sum(len(passage.writes) for passage in expected)} writes, {len(plans)} lives")
    return plans


def show_faults(life: list[Told]) -> None:
    for passage in life:
        if passage.faults:
            print(passage, *passage.faults, sep="\n    ", flush=True)
