"""Specs that change at random, as the CRD's schema allows: each change reaches the children, and goes back.

OPERATOR_SEED repeats the walks; it is printed when the test fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cluster import RunningCluster
from support.lives import World
from support.seeds import drawn_seed
from support.walking import walk_all

pytestmark = pytest.mark.cluster

WALKS, TRANSITIONS = 5, 10


async def test_every_change_of_a_spec_reaches_the_children_and_can_be_taken_back(
    cluster_with_crds: RunningCluster, tmp_path: Path
) -> None:
    seed = drawn_seed()
    async with World(cluster_with_crds, tmp_path) as world:
        accounts = await walk_all(world, range(seed, seed + WALKS), TRANSITIONS, at_once=WALKS)

    assert [fault for account in accounts for fault in account.faults] == []
    assert sum(account.transitions for account in accounts) == WALKS * TRANSITIONS
    assert all(account.returns for account in accounts)
