"""Where a real scheduler puts the pods of an agent: two nodes that no kubelet serves are enough to see it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.api.models import AccessMode
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.context import BuildContext
from evolving_operator.core.builders.deployment import build_deployment
from evolving_operator.core.builders.job import build_on_demand_job
from evolving_operator.core.builders.service_account import build_service_account
from evolving_operator.core.builders.store_claim import build_store_claim
from support.cluster import RunningCluster, eventually, running_cluster
from support.golden import context_of

pytestmark = pytest.mark.cluster

NODES = ("left", "right")
CAPACITY = {"cpu": "4", "memory": "8Gi", "pods": "20"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """A cluster of its own: in another one, pods that others want to see pending would be given a node."""
    with running_cluster("test-placement", "control-plane") as started:
        for name in NODES:
            labels = {"kubernetes.io/hostname": name}
            started.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
            status = {"status": {"capacity": CAPACITY, "allocatable": CAPACITY}}
            started.kubectl(
                "patch",
                "node",
                name,
                "--subresource=status",
                "--type=merge",
                "-p",
                json.dumps(status),
            )
        yield started


def volume(namespace: str, claim: str, mode: AccessMode) -> Manifest:
    """A volume of no particular node, for one claim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{claim}"},
        "spec": {
            "capacity": {"storage": "50Gi"},
            "accessModes": [mode.value],
            "claimRef": {"namespace": namespace, "name": claim},
            "hostPath": {"path": "/nowhere"},
            "storageClassName": "",
        },
    }


def agent(namespace: str, mode: AccessMode) -> BuildContext:
    """Four replicas that put up with nodes which are not ready."""
    context = context_of("lora")
    spec = context.spec.to_wire()
    spec["agent"]["replicas"] = 4
    spec["agent"]["memory"] = {"type": "Disabled"}
    spec["agent"]["podTemplate"] = {"spec": {"tolerations": [{"operator": "Exists"}]}}
    spec["storage"] = {"volume": {"accessModes": [mode.value], "storageClassName": ""}}
    return replace(context, namespace=namespace, spec=type(context.spec).model_validate(spec))


def without_owner(manifest: Manifest) -> Manifest:
    """The agent itself is not here: what it owns would be collected."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "ownerReferences"}
    return {**manifest, "metadata": metadata}


def nodes_of(cluster: RunningCluster, namespace: str, count: int) -> set[str]:
    def placed() -> list[str]:
        pods: list[dict[str, Any]] = cluster.get("-n", namespace, "pods")["items"]
        nodes = [pod["spec"].get("nodeName", "") for pod in pods]
        assert len(nodes) == count
        assert all(nodes), [pod["status"].get("conditions") for pod in pods]
        return nodes

    return set(eventually(placed, 60, f"{count} pods are given a node"))


@pytest.mark.parametrize("mode", AccessMode)
def test_a_volume_for_one_node_keeps_all_pods_together(cluster: RunningCluster, mode: AccessMode) -> None:
    namespace = f"placement-{mode.lower()}"
    context = agent(namespace, mode)
    cluster.kubectl("create", "namespace", namespace)
    cluster.apply(volume(namespace, names.store_claim(context.name), mode))
    shared = (build_service_account(context), build_store_claim(context))
    cluster.apply(*map(without_owner, shared))

    cluster.apply(without_owner(build_deployment(context, "0123456789")))
    served_on = nodes_of(cluster, namespace, 4)
    job = build_on_demand_job(context, names.COMPONENT_CURATE, "curate:1")
    cluster.apply(without_owner(job))
    with_the_job = nodes_of(cluster, namespace, 5)

    if mode is AccessMode.READ_WRITE_ONCE:
        assert len(with_the_job) == 1, "a pod on another node could not mount the volume"
    else:
        assert served_on == set(NODES), "nothing ties these pods together: the scheduler spreads them"
