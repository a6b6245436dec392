"""Fixtures for every kind of test: real clusters, started by the tests themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from support.cluster import IMAGES, RunningCluster, image, run_tool, running_cluster

# No limit on the time of one example: a machine that is busy with a cluster is slow, not wrong.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def control_plane() -> Iterator[RunningCluster]:
    """A real API server and controllers, no node: pods are accepted and stay Pending. Mark: cluster."""
    with running_cluster("test", "control-plane") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def bare_node() -> Iterator[RunningCluster]:
    """A cluster whose node runs real pods, without the project's images. Mark: pods."""
    with running_cluster("test-node", "node") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def node_cluster(bare_node: RunningCluster) -> RunningCluster:
    """A cluster whose node runs real pods and has the project's images of this source. Mark: pods."""
    run_tool("images", "build", *IMAGES)
    bare_node.load_image(*(image(target) for target in IMAGES))
    return bare_node
