"""A namespace with CRDs, an operator that serves it, and somebody who plays kubelet."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster import REPOSITORY, RunningCluster
from support.kubelet import Kubelet
from support.operator_process import OperatorProcess, Place, StartOperator, start_operator_process


@pytest.fixture(scope="session")
def cluster_with_crds(control_plane: RunningCluster) -> RunningCluster:
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(REPOSITORY / "crds"))
    for plural in ("evolvingagents", "agentrevisions"):
        crd = f"crd/{plural}.evolvingagents.io"
        control_plane.kubectl("wait", "--for=condition=Established", crd, "--timeout=30s")
    return control_plane


@pytest.fixture
def place(cluster_with_crds: RunningCluster, tmp_path: Path) -> Iterator[Place]:
    with cluster_with_crds.namespace(f"operator-{uuid.uuid4().hex[:8]}") as namespace:
        yield Place.prepare(cluster_with_crds, namespace, tmp_path)


@pytest.fixture
def kubelet(place: Place) -> Kubelet:
    return Kubelet(place.cluster, place.namespace)


@pytest.fixture
def start_operator(place: Place, tmp_path: Path) -> Iterator[StartOperator]:
    started: list[OperatorProcess] = []

    def start() -> OperatorProcess:
        started.append(start_operator_process(place, tmp_path / f"operator-{len(started)}.log"))
        return started[-1]

    yield start
    for operator in started:
        if operator.process.poll() is None:
            operator.kill()
