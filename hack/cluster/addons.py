"""What a node needs besides its components: the local images, a default StorageClass, and cluster DNS."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cluster import build, loading
from cluster.api import Api
from cluster.layout import Cluster
from tools.errors import ToolError
from tools.progress import step

MANIFEST = Path(__file__).with_name("addons.yaml")


def install(cluster: Cluster) -> None:
    """Load the node's own images and apply the add-ons; the same again changes nothing."""
    for archive in build.node_images():
        loading.load_archive(cluster, archive)
    kubectl = build.binaries_for("control-plane") / "kubectl"
    with step("add-ons"):
        applied = subprocess.run(
            [kubectl, "--kubeconfig", cluster.kubeconfig, "apply", "--server-side", "-f", MANIFEST],
            capture_output=True,
            text=True,
            check=False,
        )
    if applied.returncode:
        raise ToolError(f"the add-ons were refused: {applied.stderr.strip()}", f"look into {cluster.logs}")


def dns_is_ready(api: Api) -> bool:
    status, deployment = api.get("/apis/apps/v1/namespaces/kube-system/deployments/coredns")
    return status == 200 and deployment["status"].get("readyReplicas", 0) >= 1
