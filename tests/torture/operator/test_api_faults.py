"""Whatever happens to requests and watches, nothing is lost: each passage ends as it does without, in time.

TORTURE_LIVES limits the number of lives of each story: about so many, of all sorts of faults.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from support.account import summary, table, write_section
from support.cluster import RunningCluster
from support.disturbances import api_server_and_etcd_are_gone, watches_are
from support.lives import Harm, Plan, Told, World, spread, tell_all, tell_undisturbed
from support.recording_proxy import FAULTS, Point, Strike, WatchFault
from support.stories import LEARNING, STORIES

pytestmark = pytest.mark.cluster

LIVES = int(os.environ.get("TORTURE_LIVES", "0")) or None
AT_ONCE = int(os.environ.get("TORTURE_AT_ONCE", "6"))
RECOVERED_SECONDS = 30
STRIDE = 4  # a request that is repeated is let through
WATCH_SECONDS = 20
OUTAGE_SECONDS = 60
# Passages in the middle of something: a training that reports, a promotion, a rollback.
OUTAGES = (1, 2, 6)


async def test_no_failed_request_changes_the_end(cluster: RunningCluster, tmp_path: Path) -> None:
    """Each sort of fault at each write of each story, many in one passage."""
    async with World(cluster, tmp_path) as world:
        expected = await asyncio.gather(*(tell_undisturbed(world, story) for story in STORIES))
        plans = [
            Plan(story, passages, harm)
            for story, passages in zip(STORIES, expected, strict=True)
            for harm in spread(request_faults(passages), LIVES)
        ]
        told = await tell_all(world, plans, at_once=AT_ONCE)

    print(table(told, FAULTS, lambda point: point.strike))
    conclude("failed requests", told, sum(len(passage.struck) for passage in told), most=LIVES)


def request_faults(expected: list[Told]) -> list[Harm]:
    quick = [
        {
            number: frozenset(Point(index, fault) for index in range(first, len(told.writes), STRIDE))
            for number, told in enumerate(expected)
        }
        for fault in FAULTS
        if fault is not Strike.SILENCE
        for first in range(STRIDE)
    ]
    # Each of these lasts until the client gives up: one for each passage.
    silent = {
        number: frozenset({Point(len(told.writes) // 2, Strike.SILENCE)})
        for number, told in enumerate(expected)
        if told.writes
    }
    return [*quick, silent]


async def test_no_fault_of_the_watches_changes_the_end(cluster: RunningCluster, tmp_path: Path) -> None:
    settings = {"EVOLVING_OPERATOR_RESYNC_SECONDS": "10"}  # what is dropped comes with the next list
    async with World(cluster, tmp_path, settings) as world:
        expected = await tell_undisturbed(world, LEARNING)
        numbers = range(len(LEARNING.passages) - 1)
        plans = [
            Plan(
                LEARNING,
                expected,
                disturbances={number: watches_are(fault, WATCH_SECONDS) for number in numbers},
            )
            for fault in WatchFault
        ]
        told = await tell_all(world, plans, at_once=AT_ONCE)

    conclude("watches", told, len(told))


async def test_nothing_is_lost_while_api_server_and_etcd_are_gone(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    async with World(cluster, tmp_path, may_give_up=1) as world:  # without its Lease it may not go on
        expected = await tell_undisturbed(world, LEARNING)
        outage = api_server_and_etcd_are_gone(cluster, OUTAGE_SECONDS)
        plan = Plan(LEARNING, expected, disturbances=dict.fromkeys(OUTAGES, outage))
        told = await tell_all(world, [plan], at_once=1)

    conclude("outages", told, len(OUTAGES))


def conclude(name: str, told: list[Told], faults: int, *, most: int | None = None) -> None:
    found = summary(told, "faults") | {"faults": faults}
    if most is not None:
        found["TORTURE_LIVES"] = most
    write_section(name, found)
    print({key: found[key] for key in ("faults", "divergences", "lost", "slowest_recovery_seconds")})
    assert found["diverged"] == {}
    assert {str(passage): passage.recovery for passage in told if passage.recovery > RECOVERED_SECONDS} == {}
