"""Which cluster it is: one the user named, kind's, or the built one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cluster import built, kind, loading, named, processes
from cluster.layout import Admission, Cluster
from tools.errors import ToolError

NAMES = ("context", "kind", "built")


class Provider(Protocol):
    """What every kind of cluster can be asked. Each call raises ToolError for what the user must act on."""

    name: str

    def up(self, tier: str, admission: Admission) -> None: ...

    def down(self) -> None: ...

    def status(self) -> tuple[bool, list[str]]:
        """Whether it is up and healthy, and what to tell about it (first the verdict)."""
        ...

    def kubeconfig(self, *, inside: bool) -> Path: ...

    def run(self, command: Sequence[str]) -> int:
        """Run a command where it can reach pods and services, as far as the provider can; its exit status."""
        ...

    def load(self, image: str) -> None:
        """Make an image (a name in a local builder, or the path of an archive) known to the node."""
        ...

    def crash(self, component: str) -> None: ...


class Built:
    """See built.py."""

    name = "built"

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def up(self, tier: str, admission: Admission) -> None:
        built.up(self.cluster, tier, admission)

    def down(self) -> None:
        built.down(self.cluster)

    def status(self) -> tuple[bool, list[str]]:
        return built.status(self.cluster)

    def kubeconfig(self, *, inside: bool) -> Path:
        processes.need_running(self.cluster)
        return self.cluster.kubeconfig_inside if inside else self.cluster.kubeconfig

    def run(self, command: Sequence[str]) -> int:
        return processes.run_in_network(self.cluster, command)

    def load(self, image: str) -> None:
        loading.load(self.cluster, image)

    def crash(self, component: str) -> None:
        processes.crash(self.cluster, component)


def choose(cluster: Cluster, provider: str | None, context: str) -> Provider:
    """What the user names, else the built one if it was started before, else kind, else the built one."""
    if provider == "context" and not context:
        raise ToolError("no context is named", "add --context NAME, or set EVOLVING_CONTEXT")
    if context and provider in (None, "context"):
        return named.Named(cluster, context)
    if provider == "kind" or (
        provider is None and not processes.last_started(cluster) and not kind.unusable()
    ):
        return kind.Kind(cluster)
    return Built(cluster)
