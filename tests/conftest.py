"""Fixtures for every kind of test: real clusters, started by the tests themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from support.cluster import IMAGES, RunningCluster, image, run_tool, running_cluster

# No limit on the time of one example: a machine that is busy with a cluster is slow, not wrong.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


# What belongs together where tests run side by side: those that share a cluster, else those of a file.
CLUSTERS = ("bare_node", "control_plane")


def pytest_itemcollected(item: pytest.Item) -> None:
    used = getattr(item, "fixturenames", ())
    group = next((cluster for cluster in CLUSTERS if cluster in used), item.path.stem)
    item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Groups that are not kept show as tests that fail now and then: one kills the other's API server."""
    if getattr(session.config.option, "loadgroup", False):
        assert all("@" in item.nodeid for item in session.items), "pytest-xdist does not group the tests"


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
