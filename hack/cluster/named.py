"""A cluster that the user runs and names by its kubeconfig context: used, never changed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cluster import build
from cluster.layout import Admission, Cluster
from tools.errors import ToolError


class Named:
    """The context must exist in the user's kubeconfig; `up` and `down` leave the cluster as it is."""

    name = "context"

    def __init__(self, cluster: Cluster, context: str) -> None:
        self.cluster = cluster
        self.context = context

    def _kubectl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = shutil.which("kubectl") or str(build.binaries_for("control-plane") / "kubectl")
        command = [program, "--context", self.context, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def up(self, tier: str, admission: Admission) -> None:
        well, lines = self.status()
        if not well:
            raise ToolError(
                f"context {self.context}: {lines[0]}", "start that cluster, or leave --context out"
            )
        print(f"context {self.context}: {lines[0]}")

    def down(self) -> None:
        self._file().unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not there, or a built cluster of the same name lives in it
            self.cluster.state.rmdir()
        print(f"context {self.context}: left as it is")

    def status(self) -> tuple[bool, list[str]]:
        answer = self._kubectl("get", "--raw", "/readyz", "--request-timeout=10s")
        if answer.returncode:
            return False, [f"no answer: {answer.stderr.strip().splitlines()[-1]}"]
        return True, ["healthy"]

    def _file(self) -> Path:
        return self.cluster.state / "context.kubeconfig"

    def kubeconfig(self, *, inside: bool) -> Path:
        """A kubeconfig with this context alone, so that no client can reach another one by accident."""
        shown = self._kubectl("config", "view", "--minify", "--flatten", "--raw")
        if shown.returncode:
            raise ToolError(f"context {self.context}: {shown.stderr.strip()}", "kubectl config get-contexts")
        target = self._file()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(mode=0o600)
        target.write_text(shown.stdout, encoding="utf-8")
        return target

    def run(self, command: Sequence[str]) -> int:
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig(inside=False))}
        return subprocess.run(command, env=environment, check=False).returncode

    def load(self, image: str) -> None:
        raise ToolError(
            f"{image} cannot be copied into a cluster that this tool did not start",
            "push it to a registry from which that cluster pulls",
        )

    def crash(self, component: str) -> None:
        raise ToolError(
            f"{component} of context {self.context} is not this tool's to kill", "use the built cluster"
        )
