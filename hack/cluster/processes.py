"""The processes of a built cluster: whether they run, and how to act inside their namespaces."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from cluster import host
from cluster.layout import Admission, Cluster
from tools.errors import ToolError


@dataclass(frozen=True)
class Running:
    """What the last `up` started. `started` (ticks since boot) tells it from a later process with that ID."""

    pid: int
    started: int
    tier: str
    pod_security: str
    port: int
    binaries: str
    admission_plugin: str = ""

    @property
    def admission(self) -> Admission:
        return Admission(self.pod_security, self.admission_plugin)

    def alive(self) -> bool:
        return host.start_time(self.pid) == self.started


def last_started(cluster: Cluster) -> Running | None:
    known = {field.name for field in fields(Running)}
    try:
        record = json.loads(cluster.record.read_text(encoding="utf-8"))
        # another version of this program may have written more
        return Running(**{name: value for name, value in record.items() if name in known})
    except (FileNotFoundError, TypeError, json.JSONDecodeError):
        return None


def running(cluster: Cluster) -> Running | None:
    """The cluster's processes, if they are there (they may not be healthy)."""
    record = last_started(cluster)
    return record if record and record.alive() else None


def need_root() -> None:
    if os.geteuid() != 0:
        raise ToolError(
            "a built cluster needs root: it makes network, mount and pid namespaces",
            "run this with sudo, or start a Docker engine and install kind, or name a context with --context",
        )


def need_running(cluster: Cluster) -> Running:
    if record := running(cluster):
        return record
    raise ToolError(f"{cluster.name} is not running", f"python3 hack/cluster up --name {cluster.name}")


def run_in_network(cluster: Cluster, command: Sequence[str]) -> int:
    """Run `command` in the cluster's network namespace, on the machine's own files; its exit status."""
    need_root()
    record = need_running(cluster)
    environment = {
        **os.environ,
        "KUBECONFIG": str(cluster.kubeconfig_inside),
        "PATH": f"{record.binaries}:{os.environ.get('PATH', '')}",
    }
    for name in ("http_proxy", "https_proxy", "all_proxy"):  # there is no way out of the namespace
        environment.pop(name, None)
        environment.pop(name.upper(), None)
    entered = ["nsenter", f"--net={cluster.netns}", "--", *command]
    return subprocess.run(entered, env=environment, check=False).returncode


def inside(cluster: Cluster, command: Iterable[str]) -> list[str]:
    """The command line that runs `command` in all of the cluster's namespaces."""
    record = need_running(cluster)
    entered = ["nsenter", f"--target={record.pid}", "--net", "--mount", "--pid", "--"]
    return [*entered, "env", f"PATH={record.binaries}:/usr/sbin:/usr/bin:/sbin:/bin", *command]


def crash(cluster: Cluster, component: str) -> None:
    """Kill one component with SIGKILL; the supervisor starts it again after a second."""
    need_root()
    pid_file = cluster.pids / component
    if not pid_file.exists():
        known = ", ".join(sorted(path.name for path in cluster.pids.glob("*")))
        raise ToolError(f"{cluster.name} runs no {component}", f"name one of: {known}")
    subprocess.run(inside(cluster, ["kill", "-KILL", pid_file.read_text().strip()]), check=True)
