"""The API server goes away in the middle of a rollout, and watches freeze: nothing is lost, all goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cluster import RunningCluster
from support.disturbances import api_server_and_etcd_are_gone, watches_are
from support.lives import Plan, World, tell_harmed, tell_undisturbed
from support.recording_proxy import WatchFault
from support.stories import LEARNING

pytestmark = pytest.mark.cluster

TRAINING, PROMOTION = 1, 2  # passages; the second one: evaluation, restart of the pods, validation
OUTAGE_SECONDS = 5
FROZEN_SECONDS = 8
RECOVERED_SECONDS = 30


async def test_training_and_promotion_outlive_frozen_watches_and_a_dead_api_server(
    cluster_with_crds: RunningCluster, tmp_path: Path
) -> None:
    disturbances = {
        TRAINING: watches_are(WatchFault.FROZEN, FROZEN_SECONDS),
        PROMOTION: api_server_and_etcd_are_gone(cluster_with_crds, OUTAGE_SECONDS),
    }
    async with World(cluster_with_crds, tmp_path, may_give_up=1) as world:
        expected = await tell_undisturbed(world, LEARNING, PROMOTION)
        told = await tell_harmed(world, Plan(LEARNING, expected, disturbances=disturbances))

    assert {str(passage): passage.faults for passage in told if passage.faults} == {}
    assert len(told) == PROMOTION + 1
    assert {passage.number for passage in told if passage.recovery > RECOVERED_SECONDS} == set()
