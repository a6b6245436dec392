"""One namespace of a real cluster with an agent, its provider, its customers: what an e2e test acts on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.cluster import RunningCluster, eventually, program

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "e2e"
BANK = ROOT / "examples" / "bank"
CLIENT = ("exec", "-i", "demo-client", "--", "python", "-m", "evolving_agent.testing.traffic")
STOP_LOAD = (BANK / "stop_load.py").read_text()


class Scene:
    def __init__(self, cluster: RunningCluster, namespace: str, agent: str = "support") -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.agent = agent

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def find(self, *arguments: str) -> dict[str, Any] | None:
        text = self.kubectl("get", *arguments, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def get(self, *arguments: str) -> dict[str, Any]:
        found = self.find(*arguments)
        assert found is not None, f"{' '.join(arguments)} is gone"
        return found

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        found = self.find(*arguments)
        return found["items"] if found else []

    # --- the agent ---

    def status(self) -> dict[str, Any]:
        return (self.find("evolvingagent", self.agent) or {}).get("status") or {}

    def condition(self, kind: str) -> dict[str, Any]:
        found = (c for c in self.status().get("conditions", []) if c["type"] == kind)
        return next(found, {"type": kind, "status": "Unknown", "reason": "NotReported", "message": ""})

    def wait(self, what: str, probe: Callable[[], bool], timeout: float = 180) -> None:
        try:
            eventually(probe, timeout=timeout, message=what)
        except AssertionError as error:
            error.add_note(self.picture())
            raise

    def wait_condition(
        self, kind: str, status: str = "True", reason: str | None = None, timeout: float = 180
    ) -> None:
        def met() -> bool:
            found = self.condition(kind)
            return found["status"] == status and reason in (None, found["reason"])

        self.wait(f"condition {kind}={status} {reason or ''}", met, timeout)

    def wait_rolled_out(self) -> None:
        """Until the wanted pods serve and those before are gone: a leaving pod may answer a last request."""
        selector = f"app.kubernetes.io/instance={self.agent},app.kubernetes.io/component=agent"

        def rolled_out() -> bool:
            pods = self.items("pods", "-l", selector)
            leaving = [pod for pod in pods if "deletionTimestamp" in pod["metadata"]]
            return not leaving and len(pods) == self.status().get("readyReplicas")

        self.kubectl("rollout", "status", f"deployment/{self.agent}", "--timeout=240s")
        self.wait("the pods before to be gone", rolled_out)

    def picture(self) -> str:
        """What a person would look at first."""
        pods = self.kubectl("get", "pods,jobs,arev", "-o", "wide")
        return f"status:\n{json.dumps(self.status(), indent=1)}\n{pods}"

    def patch(self, spec: dict[str, Any]) -> None:
        self.kubectl("patch", "evolvingagent", self.agent, "--type=merge", "-p", json.dumps({"spec": spec}))

    def run(self, verb: str, nonce: str) -> None:
        self.kubectl(
            "annotate", "evolvingagent", self.agent, f"evolvingagents.io/run={verb}:{nonce}", "--overwrite"
        )

    def config(self) -> dict[str, Any]:
        """The document that pods and other programs read."""
        found = self.get("configmap", f"{self.agent}-config")
        document: dict[str, Any] = json.loads(found["data"]["agent_config.json"])
        return document

    def revision_states(self) -> dict[str, str]:
        return {
            r["metadata"]["name"]: r.get("status", {}).get("state", "") for r in self.items("agentrevisions")
        }

    # --- its customers and its provider ---

    def client(self, mode: str, lines: str, *options: str) -> dict[str, Any]:
        """Runs the traffic program in the client pod and returns its summary."""
        output = self.kubectl(*CLIENT, mode, "--url", f"http://{self.agent}", *options, stdin=lines)
        summary: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return summary

    @contextmanager
    def load(self, lines: str, rate: float) -> Iterator[dict[str, Any]]:
        """Live requests while the block runs; fills the dictionary with the summary and the failures."""
        arguments = (*CLIENT, "load", "--url", f"http://{self.agent}", "--rate", str(rate))
        command = [
            program("kubectl"),
            "--kubeconfig",
            str(self.cluster.kubeconfig),
            "-n",
            self.namespace,
            *arguments,
        ]
        result: dict[str, Any] = {}
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdin is not None
                process.stdin.write(lines)
                process.stdin.close()
                process.stdin = None
                yield result
                self.kubectl("exec", "demo-client", "--", "python", "-c", STOP_LOAD)
                output, _ = process.communicate(timeout=120)
            finally:
                process.kill()
        events = [json.loads(line) for line in output.splitlines()]
        result.update(events[-1], failures=[e["error"] for e in events if e["event"] == "failed"])

    def provider(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """A call to the provider double, from inside the cluster."""
        program = (
            "import sys, httpx; r = httpx.request(sys.argv[1], 'http://provider' + sys.argv[2], "
            "content=sys.stdin.read() or None, headers={'content-type': 'application/json', "
            "'authorization': 'Bearer secret'}, timeout=30); r.raise_for_status(); print(r.text)"
        )
        text = self.kubectl(
            *("exec", "-i", "demo-client", "--", "python", "-c", program, method, path),
            stdin=json.dumps(body) if body is not None else "",
        )
        answer: dict[str, Any] = json.loads(text)
        return answer

    # --- setting up ---

    def apply(self, path: Path) -> None:
        self.kubectl("apply", "-f", str(path))

    def create_namespace(self) -> None:
        self.cluster.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--timeout=120s")
        self.cluster.kubectl("create", "namespace", self.namespace)

    def ask_in_evaluations(self, lines: str) -> None:
        """The suite's cases, in place of those that were there."""
        name = "support-validation"
        self.kubectl("delete", "configmap", name, "--ignore-not-found")
        self.kubectl("create", "configmap", name, "--from-file=cases.jsonl=/dev/stdin", stdin=lines)

    def set_the_bank_up(self) -> None:
        """Customers and the ticket desk, and the questions that a candidate must answer."""
        self.kubectl("create", "configmap", "ticket-desk", f"--from-file={BANK / 'ticket_desk.py'}")
        self.kubectl(
            "create",
            "configmap",
            "support-validation",
            f"--from-file=cases.jsonl={BANK / 'validation.jsonl'}",
        )
        self.apply(BANK / "ticket-desk.yaml")
        self.apply(BANK / "client.yaml")
        self.kubectl("wait", "--for=condition=Ready", "pod/demo-client", "--timeout=120s")
