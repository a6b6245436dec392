"""A cluster of its own: an operator that watches all namespaces would work on other tests' agents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.cluster import RunningCluster, running_cluster
from support.kinds import serve_kinds


@pytest.fixture(scope="module")
def api() -> Iterator[RunningCluster]:
    with running_cluster("test-rights", "control-plane") as cluster:
        serve_kinds(cluster)
        yield cluster
