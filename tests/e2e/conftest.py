from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.cluster import RunningCluster, image, run_tool
from support.scene import ROOT, Scene


@pytest.fixture(scope="session")
def installed(node_cluster: RunningCluster) -> RunningCluster:
    """A cluster with the operator in it, installed as a user installs it."""
    # CRDs outlive a release, and belong to it: those that another test left are not this one's to take over.
    crds = ("evolvingagents.evolvingagents.io", "agentrevisions.evolvingagents.io")
    node_cluster.kubectl("delete", "crd", *crds, "--ignore-not-found", "--timeout=120s")
    node_cluster.helm(
        *("upgrade", "--install", "evolving-agents", str(ROOT / "charts" / "evolving-agents")),
        *("--namespace", "evolving-agents", "--create-namespace", "--wait", "--timeout", "5m"),
    )
    # In a cluster that was up before, the same tag may mean another image now.
    node_cluster.kubectl("-n", "evolving-agents", "rollout", "restart", "deployment/evolving-agents")
    node_cluster.kubectl(
        "-n", "evolving-agents", "rollout", "status", "deployment/evolving-agents", "--timeout=180s"
    )
    return node_cluster


@pytest.fixture(scope="session")
def trainer_image(installed: RunningCluster) -> None:
    """The one large image, built and loaded for the tests that train."""
    run_tool("images", "build", "trainer")
    installed.load_image(image("trainer"))


@pytest.fixture
def scene(installed: RunningCluster, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A namespace of its own, with the bank's customers and its ticket desk; removed afterwards."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40].rstrip("-")
    scene = Scene(installed, f"e2e-{name}")
    scene.create_namespace()
    scene.set_the_bank_up()
    yield scene
    scene.cluster.kubectl("delete", "namespace", scene.namespace, "--wait=false")
