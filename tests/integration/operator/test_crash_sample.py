"""A sample of the crash points that `make torture` goes through, another one each time."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from support.cluster import RunningCluster
from support.crash import crash_points, live, live_all

pytestmark = pytest.mark.cluster

POINTS = 4


async def test_an_agents_life_ends_the_same_wherever_the_operator_dies(
    cluster_with_crds: RunningCluster, tmp_path: Path
) -> None:
    seed = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"CRASH_SEED={seed}")
    undisturbed = await live(cluster_with_crds, tmp_path)
    assert undisturbed.faults == ()
    assert undisturbed.state is not None

    points = random.Random(seed).sample(crash_points(len(undisturbed.writes)), POINTS)
    lives = await live_all(cluster_with_crds, tmp_path, points, undisturbed.state, at_once=2)

    assert {str(life): life.faults for life in lives if life.faults} == {}
    assert any(life.strikes for life in lives)
