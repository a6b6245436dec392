"""A cluster in containers, made by kind, where a Docker engine runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cluster import loading
from cluster.layout import Admission, Cluster
from tools import progress
from tools.errors import ToolError

READY = "180s"


def unusable() -> str:
    """Why kind cannot be used here; empty when it can. A Docker client without an engine does not count."""
    if not shutil.which("kind"):
        return "kind is not installed"
    if not shutil.which("docker"):
        return "docker is not installed"
    try:
        engine = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "the Docker engine does not answer"
    if engine.returncode or not engine.stdout.strip():
        return "no Docker engine answers"
    return ""


class Kind:
    """A kind cluster has both tiers: it always runs pods."""

    name = "kind"

    def __init__(self, cluster: Cluster) -> None:
        if reason := unusable():
            raise ToolError(
                f"kind cannot be used: {reason}", "install kind and start Docker, or use --provider built"
            )
        self.cluster = cluster

    def _exists(self) -> bool:
        listed = subprocess.run(["kind", "get", "clusters"], capture_output=True, text=True, check=False)
        return self.cluster.full_name in listed.stdout.split()

    def up(self, tier: str, admission: Admission) -> None:
        if admission.pod_security:
            raise ToolError("kind: --pod-security is for the built cluster", "label the namespace instead")
        if admission.plugin:
            raise ToolError("kind: --admission-plugin is for the built cluster", "use --provider built")
        if self._exists():
            print(f"{self.cluster.name}: already up (kind)")
            return
        self.cluster.state.mkdir(parents=True, exist_ok=True)
        name, config = self.cluster.full_name, self.cluster.kubeconfig
        command: list[str | Path] = [
            "kind",
            "create",
            "cluster",
            "--name",
            name,
            "--kubeconfig",
            config,
            "--wait",
            READY,
        ]
        progress.run(f"kind {self.cluster.name}", command, todo="see the log; `docker ps` must work")
        print(f"{self.cluster.name}: up (kind)")

    def down(self) -> None:
        command: list[str | Path] = ["kind", "delete", "cluster", "--name", self.cluster.full_name]
        progress.run(f"kind {self.cluster.name}", command, todo="see the log; `docker ps` must work")
        shutil.rmtree(self.cluster.state, ignore_errors=True)

    def status(self) -> tuple[bool, list[str]]:
        if not self._exists():
            return False, ["not there"]
        return True, ["up", f"kubeconfig  {self.cluster.kubeconfig}"]

    def kubeconfig(self, *, inside: bool) -> Path:
        if inside:
            raise ToolError("a kind cluster has no network namespace of this tool's", "leave --inside out")
        return self.cluster.kubeconfig

    def run(self, command: Sequence[str]) -> int:
        environment = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        return subprocess.run(command, env=environment, check=False).returncode

    def load(self, image: str) -> None:
        archive = loading.archive_of(image)
        command: list[str | Path] = [
            "kind",
            "load",
            "image-archive",
            archive,
            "--name",
            self.cluster.full_name,
        ]
        progress.run(
            f"kind load {image}", command, todo="see the log; the archive must be an OCI or Docker archive"
        )

    def crash(self, component: str) -> None:
        raise ToolError(f"{component}: kind runs its components itself", "use --provider built")
