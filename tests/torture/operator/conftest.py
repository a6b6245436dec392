"""A cluster of its own: thousands of writes would slow other tests' clusters down."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.cluster import RunningCluster, running_cluster
from support.kinds import serve_kinds


@pytest.fixture(scope="session")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster("torture", "control-plane") as started:
        serve_kinds(started)
        yield started
