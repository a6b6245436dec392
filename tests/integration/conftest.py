"""The CRDs on a real API server, and a namespace of its own for a test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from support.cluster import RunningCluster
from support.kinds import serve_kinds


@pytest.fixture(scope="session")
def api(control_plane: RunningCluster) -> RunningCluster:
    """The API server with this project's CRDs established."""
    serve_kinds(control_plane)
    return control_plane


@pytest.fixture
def namespace(api: RunningCluster) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    api.kubectl("create", "namespace", name)
    yield name
    api.kubectl("delete", "namespace", name, "--wait=false")
