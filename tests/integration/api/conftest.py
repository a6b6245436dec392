"""The CRDs on a real API server, and a namespace for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from support.cluster import REPOSITORY, RunningCluster, eventually


@pytest.fixture(scope="session")
def api(control_plane: RunningCluster) -> RunningCluster:
    """The API server with this project's CRDs established."""
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(REPOSITORY / "crds"))
    eventually(
        lambda: "eva" in control_plane.kubectl("api-resources", "--api-group=evolvingagents.io"),
        30,
        "the kinds are served",
    )
    return control_plane


@pytest.fixture
def namespace(api: RunningCluster) -> Iterator[str]:
    name = f"api-{uuid.uuid4().hex[:8]}"
    api.kubectl("create", "namespace", name)
    yield name
    api.kubectl("delete", "namespace", name, "--wait=false")
