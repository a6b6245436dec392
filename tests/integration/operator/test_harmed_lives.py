"""A sample of the harm that `make torture` does to the operator, another one each time.

OPERATOR_SEED repeats a sample; it is printed when a test fails.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.cluster import RunningCluster
from support.lives import Harm, Plan, Told, World, tell_all, tell_undisturbed
from support.recording_proxy import FAULTS, KILLS, Point, Strike
from support.seeds import drawn_seed
from support.stories import CANARY, CAREFUL, LEARNING, REBASED

pytestmark = pytest.mark.cluster

AT_ONCE = 5
RECOVERED_SECONDS = 30
# Story, lives in which the operator is killed, lives in which its requests fail.
LIVES = ((LEARNING, 2, 1), (CAREFUL, 1, 1), (REBASED, 1, 0), (CANARY, 1, 1))
# A client that is never answered waits for half a minute: that one is for the torture.
QUICK_FAULTS = tuple(fault for fault in FAULTS if fault is not Strike.SILENCE)


def drawn(chance: random.Random, expected: Sequence[Told], strikes: Sequence[Strike]) -> Harm:
    """One harm in each passage, somewhere."""
    return {
        number: frozenset({Point(chance.randrange(len(told.writes)), chance.choice(strikes))})
        for number, told in enumerate(expected)
        if told.writes
    }


async def test_every_passage_ends_the_same_whatever_is_done_to_the_operator(
    cluster_with_crds: RunningCluster, tmp_path: Path
) -> None:
    seed = drawn_seed()
    chance = random.Random(seed)
    # Kills are drawn anew each time; these faults, all of which `make torture` strikes, are always the same.
    of_faults = random.Random(int(os.environ.get("OPERATOR_SEED", "0")))
    async with World(cluster_with_crds, tmp_path) as world:
        expected = await asyncio.gather(*(tell_undisturbed(world, story) for story, _, _ in LIVES))
        plans = [
            Plan(story, passages, drawn(source, passages, strikes))
            for (story, deaths, faults), passages in zip(LIVES, expected, strict=True)
            for source, strikes in ((chance, KILLS),) * deaths + ((of_faults, QUICK_FAULTS),) * faults
        ]
        told = await tell_all(world, plans, at_once=AT_ONCE)

    faulty = [passage for passage in told if passage.faults]
    for passage in faulty:
        print(passage, *passage.faults, sep="\n    ")
    assert list(map(str, faulty)) == []
    struck = [point.strike for passage in told for point in passage.struck]
    assert sum(strike in KILLS for strike in struck) >= 40
    assert sum(strike in FAULTS for strike in struck) >= 20
    slow = {str(passage): passage.recovery for passage in told if passage.recovery > RECOVERED_SECONDS}
    assert slow == {}
