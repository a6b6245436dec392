"""The names, folders and addresses of one built cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tools import cache
from tools.errors import ToolError

NODE = "node1"
# Addresses from the documentation and benchmark ranges. They exist only inside the cluster's own network
# namespace, so every cluster uses the same ones and none can collide with a network of the machine.
NODE_IP = "198.51.100.1"
POD_CIDR = "198.18.0.0/16"
SERVICE_CIDR = "198.19.0.0/16"
SERVICE_IP = "198.19.0.1"
DNS_IP = "198.19.0.10"
API_PORT = 6443

TIERS = ("control-plane", "node")


@dataclass(frozen=True)
class Admission:
    """How strict the API server of a built cluster is, beyond what every one is."""

    pod_security: str = ""  # the standard of namespaces that set none
    plugin: str = ""  # an admission plugin that Kubernetes does not enable by itself


@dataclass(frozen=True)
class Cluster:
    """A cluster by name. Everything it owns on the machine carries that name."""

    name: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", self.name):
            raise ToolError(
                f"{self.name!r} cannot name a cluster",
                "use up to 32 lower-case letters, digits and hyphens, with no hyphen at either end",
            )

    @property
    def full_name(self) -> str:
        """What the network namespace, the cgroup, the kubeconfig context and the kind cluster are called."""
        return f"evolving-{self.name}"

    @property
    def state(self) -> Path:
        return cache.root() / "clusters" / self.name

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def certificates(self) -> Path:
        return self.state / "certificates"

    @property
    def pids(self) -> Path:
        """One file per component with its process ID inside the cluster's own pid namespace."""
        return self.state / "pids"

    @property
    def record(self) -> Path:
        """JSON: what `up` started (see built.Running)."""
        return self.state / "running.json"

    @property
    def kubeconfig(self) -> Path:
        """For clients on the machine: 127.0.0.1 and the forwarded port."""
        return self.state / "kubeconfig"

    @property
    def kubeconfig_inside(self) -> Path:
        """For clients inside the cluster's network namespace."""
        return self.state / "kubeconfig.inside"

    @property
    def audit_log(self) -> Path:
        """One JSON object per request that the API server answered."""
        return self.logs / "audit.jsonl"

    @property
    def volumes(self) -> Path:
        """Where the directories behind PersistentVolumes lie."""
        return self.state / "volumes"

    @property
    def netns(self) -> Path:
        return Path("/run/netns") / self.full_name


def known_clusters() -> list[Cluster]:
    """Every cluster with state on this machine, running or not."""
    folder = cache.root() / "clusters"
    return [Cluster(path.name) for path in sorted(folder.glob("*")) if path.is_dir()]
