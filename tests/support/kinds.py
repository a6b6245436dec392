"""This project's kinds on a real API server."""

from __future__ import annotations

from support.cluster import REPOSITORY, RunningCluster, eventually


def serve_kinds(cluster: RunningCluster) -> None:
    """Applies crds/ and waits until kubectl finds both kinds."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(REPOSITORY / "crds"))
    eventually(
        lambda: "arev" in (found := cluster.kubectl("api-resources")) and "eva" in found,
        30,
        "both kinds are served",
    )
