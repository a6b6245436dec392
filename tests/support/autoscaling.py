"""An autoscaler of the agent `support`, as the cluster in memory sees it."""

from __future__ import annotations

from evolving_operator.testing.simulation import Simulation


def autoscale(world: Simulation, replicas: int, manager: str = "kube-controller-manager") -> None:
    """As a HorizontalPodAutoscaler's controller does, by the subresource `scale`."""
    deployment = world.node.deployment("support")
    deployment["spec"]["replicas"] = replicas
    deployment["metadata"]["managedFields"].append(
        {
            "manager": manager,
            "operation": "Update",
            "subresource": "scale",
            "fieldsV1": {"f:spec": {"f:replicas": {}}},
        }
    )
    world.cluster.put(deployment)
    world.node.roll_out("support")
