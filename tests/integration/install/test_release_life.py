"""A release of the chart on a real cluster: installed, upgraded, removed, and installed again."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from evolving_operator.api import names
from support.chart import CHART
from support.cluster import RunningCluster, eventually, running_cluster

pytestmark = pytest.mark.cluster

AGENT = {
    "apiVersion": names.API_VERSION,
    "kind": names.AGENT_KIND,
    "metadata": {"name": "greeter", "namespace": "default"},
    "spec": {"model": {"base": "m"}, "agent": {"instructions": "Greet people."}},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """A cluster of its own: in others the CRDs belong to no release."""
    with running_cluster("test-install", "control-plane") as started:
        yield started


def helm(cluster: RunningCluster, verb: str, *arguments: str) -> str:
    chart = [str(CHART)] if verb in ("install", "upgrade") else []
    return cluster.helm(verb, "learning", *chart, "--namespace", "ops", *arguments)


def test_agents_outlive_the_release_that_brought_their_kind(cluster: RunningCluster) -> None:
    notes = helm(cluster, "install", "--create-namespace")
    assert "kubectl -n ops rollout status deployment/learning-evolving-agents" in notes
    for plural in (names.AGENT_PLURAL, names.REVISION_PLURAL):
        crd = f"crd/{plural}.{names.GROUP}"
        cluster.kubectl("wait", "--for=condition=Established", crd, "--timeout=30s")
    eventually(lambda: cluster.kubectl("create", "-f", "-", stdin=json.dumps(AGENT)), 30, "an agent is taken")

    helm(cluster, "upgrade", "--set", "replicas=3", "--set", "logLevel=debug")
    deployment = cluster.get("-n", "ops", "deployment", "learning-evolving-agents")
    assert deployment["spec"]["replicas"] == 3

    helm(cluster, "uninstall", "--wait")
    assert cluster.get("-n", "ops", "deployments")["items"] == []
    kept = cluster.get("eva", "greeter")["spec"]["model"]
    assert (kept["base"], kept["endpoint"]["baseURL"]) == ("m", "https://api.openai.com/v1")

    helm(cluster, "install")
    assert cluster.get("eva", "greeter")["metadata"]["generation"] == 1
    assert cluster.get("-n", "ops", "deployment", "learning-evolving-agents")
