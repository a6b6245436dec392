"""A control plane of this benchmark's own: a real API server and controllers, and no node."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "bench"


@contextmanager
def control_plane() -> Iterator[Path]:
    """Up, with this project's kinds; yields its kubeconfig. Taken down at the end, whatever was there."""
    _tool("cluster", "up", "--name", NAME, "--tier", "control-plane")
    try:
        kubeconfig = Path(_tool("cluster", "kubeconfig", "--name", NAME))
        kubectl(kubeconfig, "apply", "--server-side", "-f", str(REPOSITORY / "crds"))
        kubectl(kubeconfig, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield kubeconfig
    finally:
        _tool("cluster", "down", "--name", NAME)


def kubectl(kubeconfig: Path, *arguments: str) -> str:
    return _output([_tool("tools", "kubectl"), "--kubeconfig", str(kubeconfig), *arguments])


def _tool(tool: str, *arguments: str) -> str:
    return _output([sys.executable, str(REPOSITORY / "hack" / tool), *arguments])


def _output(command: list[str]) -> str:
    """What the command printed; raises RuntimeError with what it complained of."""
    # Programs and arguments are this module's own.
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout.strip()
