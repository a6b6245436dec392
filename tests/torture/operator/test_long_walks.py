"""A thousand random changes of specs, as the CRD's schema allows, and the way back to where they began.

TORTURE_TRANSITIONS is their number, TORTURE_SEED the seed of the first walk (always the same, if not set).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.account import write_section
from support.cluster import RunningCluster
from support.lives import World
from support.walking import walk_all

pytestmark = pytest.mark.cluster

TRANSITIONS = int(os.environ.get("TORTURE_TRANSITIONS", "1000"))
SEED = int(os.environ.get("TORTURE_SEED", "1"))
WALKS = 20


async def test_every_change_of_a_spec_reaches_the_children_and_can_be_taken_back(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    async with World(cluster, tmp_path) as world:
        accounts = await walk_all(world, range(SEED, SEED + WALKS), -(-TRANSITIONS // WALKS), at_once=5)

    faults = [fault for account in accounts for fault in account.faults]
    transitions = sum(account.transitions for account in accounts)
    found = {
        "seeds": f"{SEED} to {SEED + WALKS - 1}",
        "transitions": transitions,
        "rejected_by_the_api_server": sum(account.rejected for account in accounts),
        "told_in_degraded": sum(account.told for account in accounts),
        "returns_to_the_seed": sum(account.returns for account in accounts),
        "divergences": len(faults),
        "diverged": faults,
    }
    print(found)
    write_section("spec walks", found)
    assert faults == []
    assert transitions >= TRANSITIONS
