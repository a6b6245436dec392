"""The operator as a process of its own, and the namespace that it works in."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.chart import render
from support.cluster import RunningCluster, eventually

LEASE_SECONDS = 3


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class OperatorProcess:
    """`python -m evolving_operator run`, restricted to one namespace."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int  # of /metrics, /healthz and /readyz

    def ask(self, path: str) -> str:
        """The answer of its own HTTP server; "" while it does not answer, or answers with an error."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def metrics(self) -> dict[str, float]:
        """Every sample, by its name with labels."""
        samples = (line.rpartition(" ") for line in self.ask("/metrics").splitlines() if line[0] != "#")
        return {name: float(value) for name, _, value in samples}

    def kill(self) -> None:
        """As a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As Kubernetes would. Returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=15)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def refusals(self) -> list[dict[str, Any]]:
        """What it was not allowed to do, kopf's watches included."""
        return [line for line in self.lines() if "forbidden" in json.dumps(line).lower()]

    def errors(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["level"] in ("ERROR", "CRITICAL")]

    def is_leading(self) -> bool:
        return any(line["message"] == "leading" for line in self.lines())


def start_operator_process(place: Place, log: Path) -> OperatorProcess:
    """Restricted to the place's namespace, its Lease included, with the rights that the chart gives it."""
    port = free_port()
    environment = {
        **os.environ,
        "KUBECONFIG": str(place.operator_kubeconfig),
        "EVOLVING_OPERATOR_LEASE_NAME": place.release,
        "EVOLVING_OPERATOR_NAMESPACES": place.namespace,
        "EVOLVING_OPERATOR_LEASE_NAMESPACE": place.namespace,
        "EVOLVING_OPERATOR_LEASE_SECONDS": str(LEASE_SECONDS),
        "EVOLVING_OPERATOR_METRICS_PORT": str(port),
    }
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "evolving_operator", "run"]
        return OperatorProcess(subprocess.Popen(command, env=environment, stderr=stream), log, port)


StartOperator = Callable[[], OperatorProcess]


@dataclass(frozen=True)
class Place:
    """A namespace of one test, on a cluster with the CRDs; the operator's rights there are the chart's."""

    cluster: RunningCluster
    namespace: str
    release: str  # of the chart: the name of its ServiceAccount, and of the Lease
    operator_kubeconfig: Path

    @staticmethod
    def prepare(cluster: RunningCluster, namespace: str, directory: Path, **values: Any) -> Place:
        """Install the chart's account and roles, without its Deployment, and log in as that account."""
        chart = render({"watchNamespaces": [namespace], **values}, release="operator", namespace=namespace)
        account = chart.one("ServiceAccount")
        cluster.apply(account, *chart.all("Role"), *chart.all("RoleBinding"))
        name = account["metadata"]["name"]
        token = cluster.kubectl("create", "token", name, "-n", namespace).strip()
        kubeconfig = yaml.safe_load(cluster.kubeconfig.read_text())
        kubeconfig["users"] = [{"name": "operator", "user": {"token": token}}]
        for context in kubeconfig["contexts"]:
            context["context"]["user"] = "operator"
        path = directory / "operator.kubeconfig"
        path.write_text(yaml.safe_dump(kubeconfig))
        return Place(cluster, namespace, name, path)

    def get(self, *arguments: str) -> Any:
        return self.cluster.get(*arguments, "-n", self.namespace)

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.kubectl(*arguments, "-n", self.namespace)

    def apply(self, manifest: dict[str, Any]) -> None:
        metadata = {**manifest["metadata"], "namespace": self.namespace}
        self.cluster.apply({**manifest, "metadata": metadata})

    def condition(self, agent: str, kind: str) -> dict[str, Any]:
        conditions = self.get("evolvingagent", agent).get("status", {}).get("conditions", [])
        return next((item for item in conditions if item["type"] == kind), {})


def restarted_with_nothing_to_do(
    operator: OperatorProcess,
    start: StartOperator,
    place: Place,
    versions: Callable[[Place], dict[str, str]],
    agent: dict[str, Any],
) -> OperatorProcess:
    """A new process in place of `operator`, once it has decided upon another agent, which is like `agent`.

    `versions` (of what is in the place, by name) are the same by then: nothing of it was written.
    """
    assert operator.stop() == 0
    before = versions(place)
    operator = start()
    eventually(operator.is_leading, timeout=30, message="the new process leads")
    place.apply({**agent, "metadata": {"name": "other"}})
    eventually(
        lambda: place.get("evolvingagent", "other").get("status", {}).get("conditions"),
        timeout=30,
        message="the new process has decided upon another agent",
    )
    after = versions(place)
    assert {name: after[name] for name in before} == before
    return operator
