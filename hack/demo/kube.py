"""kubectl and helm against the demo's cluster; the standard library must do, nothing is installed yet."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.progress import Step

NAMESPACE = "demo"
OPERATOR_NAMESPACE = "evolving-agents"
POLL_SECONDS = 2.0


class DemoError(Exception):
    """What happened, where, and what to do: shown to the person as it is."""


@dataclass(frozen=True)
class Kube:
    kubectl: str
    helm: str
    kubeconfig: Path

    def _run(self, command: list[str], stdin: str | None = None) -> str:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DemoError(
                f"{' '.join(command[:6])} … failed:\n{done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    def command(self, *arguments: str) -> list[str]:
        return [self.kubectl, "--kubeconfig", str(self.kubeconfig), "-n", NAMESPACE, *arguments]

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        return self._run(self.command(*arguments), stdin)

    def get(self, *arguments: str) -> dict[str, Any] | None:
        """The object as JSON, or None where it does not exist."""
        text = self("get", *arguments, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def install_chart(self, chart: Path, registry: str) -> None:
        self._run(
            [
                *(self.helm, "upgrade", "--install", "evolving-agents", str(chart)),
                *("--kubeconfig", str(self.kubeconfig), "-n", OPERATOR_NAMESPACE, "--create-namespace"),
                *("--set", f"image.registry={registry}", "--wait", "--timeout", "5m"),
            ]
        )
        # A second run may bring another image under the same tag, which is no change that Helm sees.
        operator = ("-n", OPERATOR_NAMESPACE, "deployment/evolving-agents")
        self("rollout", "restart", *operator)
        self("rollout", "status", *operator, "--timeout=180s")

    def stream(self, *arguments: str, stdin: Path) -> Iterator[dict[str, Any]]:
        """JSON lines of a command that runs in a pod, as they come."""
        with stdin.open() as source:
            process = subprocess.Popen(
                self.command(*arguments),
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
            errors = process.stderr.read()
            if process.wait():
                raise DemoError(f"{' '.join(arguments[:4])} … failed:\n{errors.strip()[-2000:]}")

    def wait(self, what: str, probe: Callable[[], str | None], timeout: float, step: Step) -> None:
        """Polls until `probe` returns None; what it returns meanwhile is shown, and said when time is up."""
        deadline = time.monotonic() + timeout
        while (state := probe()) is not None:
            step.detail = state
            if time.monotonic() > deadline:
                raise DemoError(f"{what}: not there after {timeout:.0f} s. Last seen: {state}")
            time.sleep(POLL_SECONDS)


def condition(agent: dict[str, Any] | None, kind: str) -> dict[str, Any]:
    """The condition of that type in an EvolvingAgent's status; an Unknown one where it is not there yet."""
    conditions = ((agent or {}).get("status") or {}).get("conditions") or []
    missing = {"type": kind, "status": "Unknown", "reason": "NotReported", "message": ""}
    return next((c for c in conditions if c["type"] == kind), missing)
