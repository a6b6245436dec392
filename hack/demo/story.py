"""`make demo`: one agent, once round the whole loop, on a real cluster with a real model.

    requests → reflections → dataset → LoRA fine-tune → evaluation → promotion under live traffic

Writes build/demo-report.json, leaves the cluster up, and says how to look around.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo.kube import NAMESPACE, OPERATOR_NAMESPACE, DemoError, Kube, condition
from tools.progress import Step

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "build" / "demo-report.json"
CLUSTER = "demo"
REGISTRY = "localhost/evolving-agents"
AGENT = "support"
REQUESTS = ROOT / "examples" / "bank" / "requests.jsonl"
VALIDATION = ROOT / "examples" / "bank" / "validation.jsonl"
STOP_LOAD = ROOT / "examples" / "bank" / "stop_load.py"
CLIENT = ("exec", "-i", "demo-client", "--", "python", "-m", "evolving_agent.testing.traffic")
URL = f"http://{AGENT}.{NAMESPACE}"
STEPS = 11


class Progress:
    """Numbers the steps and keeps their durations, in seconds."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, key: str, name: str) -> Iterator[Step]:
        with Step(f"[{len(self.seconds) + 1}/{self.total}] {name}") as step:
            yield step
        self.seconds[key] = round(step.elapsed, 1)


def tool(*arguments: str) -> str:
    """Runs one of the project's developer tools, which shows its own progress; returns what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise DemoError(f"`python3 {' '.join(arguments)}` failed, as it says above")
    return done.stdout.strip()


def load_image(name: str) -> None:
    """Without a word, unless it fails: it goes on beside a step that shows its progress."""
    command = [sys.executable, "hack/cluster", "load-image", "--name", CLUSTER, name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"image {name} was not loaded: {done.stderr.strip()}")


def connect() -> Kube:
    return Kube(
        kubectl=tool("hack/tools", "kubectl"),
        helm=tool("hack/tools", "helm"),
        kubeconfig=Path(tool("hack/cluster", "kubeconfig", "--name", CLUSTER)),
    )


def fresh_namespace(kube: Kube) -> None:
    """A second run starts with an agent that has learned nothing; what was built is reused."""
    kube("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true", "--timeout=180s")
    kube("create", "namespace", NAMESPACE)


def apply_agent(kube: Kube) -> None:
    kube("create", "configmap", "support-validation", f"--from-file=cases.jsonl={VALIDATION}")
    kube("create", "configmap", "ticket-desk", f"--from-file={ROOT / 'examples' / 'bank' / 'ticket_desk.py'}")
    for name in ("model-server.yaml", "bank/ticket-desk.yaml", "bank/client.yaml", "support-agent.yaml"):
        kube("apply", "-f", str(ROOT / "examples" / name))


def agent_of(kube: Kube) -> dict[str, Any] | None:
    return kube.get("evolvingagent", AGENT)


def expect(kube: Kube, kind: str, step: Step, timeout: float, *, since: str = "") -> dict[str, Any]:
    """Waits for the agent's condition to be True; a Degraded condition is shown on the way."""

    def probe() -> str | None:
        agent = agent_of(kube)
        wanted, degraded = condition(agent, kind), condition(agent, "Degraded")
        if wanted["status"] == "True" and wanted["reason"] != since:
            return None
        trouble = f" · {degraded['reason']}: {degraded['message']}" if degraded["status"] == "True" else ""
        return f"{kind}: {wanted['reason']} {wanted['message']}{trouble}"

    kube.wait(f"condition {kind} of evolvingagent/{AGENT}", probe, timeout, step)
    met = condition(agent_of(kube), kind)
    step.detail = met["message"]
    return met


def under_way(kube: Kube) -> str | None:
    """What the rollout is at; None once it is done: restarted, validated, baked."""
    rollout = (agent_of(kube) or {})["status"].get("rollout") or {}
    return None if rollout.get("step") == "Done" else f"{rollout.get('step')}: {rollout.get('message')}"


def run_client(kube: Kube, mode: str, source: Path, step: Step) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for event in kube.stream(*CLIENT, mode, "--url", URL, stdin=source):
        if event["event"] == "progress":
            step.done, step.total = event["done"], event["total"]
            step.detail = f"{event['right']} right"
        elif event["event"] == "summary":
            summary = event
    return summary


class Traffic:
    """Live requests in the background, from before the promotion until after it."""

    def __init__(self, kube: Kube) -> None:
        self.summary: dict[str, Any] = {}
        self.failures: list[str] = []
        self._kube = kube
        self._error: DemoError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        arguments = ("load", "--url", URL, "--rate", "0.5", "--seconds", "3600")
        try:
            for event in self._kube.stream(*CLIENT, *arguments, stdin=REQUESTS):
                if event["event"] == "failed":
                    self.failures.append(event["error"])
                else:
                    self.summary = event
        except DemoError as error:
            self._error = error

    def stop(self) -> dict[str, Any]:
        """Requests and failures, once the running requests are answered."""
        self._kube("exec", "demo-client", "--", "python", "-c", STOP_LOAD.read_text())
        self._thread.join(timeout=180)
        if self._error is not None:
            raise self._error
        if self.summary.get("event") != "summary":
            raise DemoError(
                "the traffic generator did not report: kubectl logs and pods of namespace demo tell why"
            )
        return self.summary


def annotate(kube: Kube, verb: str) -> None:
    run = f"evolvingagents.io/run={verb}:demo-{int(time.time())}"
    kube("annotate", "evolvingagent", AGENT, run, "--overwrite")


def train(kube: Kube, step: Step) -> None:
    """Asks for a training run and follows its log: the trainer prints step, loss and elapsed time."""
    annotate(kube, "finetune")
    selector = f"evolvingagents.io/agent={AGENT},app.kubernetes.io/component=finetune"

    def probe() -> str | None:
        trained = condition(agent_of(kube), "Trained")
        if trained["status"] == "True":
            return None
        if trained["reason"] == "TrainingFailed":
            raise DemoError(f"training failed: {trained['message']}")
        log = subprocess.run(
            kube.command("logs", "-l", selector, "--tail=1"), capture_output=True, text=True, check=False
        )
        return log.stdout.strip()[-110:] or f"{trained['reason']} {trained['message']}"

    kube.wait("the training run", probe, 3600, step)
    step.detail = condition(agent_of(kube), "Trained")["message"]


def demo(beside: Executor) -> dict[str, Any]:
    progress = Progress(STEPS)
    with progress.step("cluster", "Kubernetes cluster"):
        tool("hack/cluster", "up", "--name", CLUSTER, "--tier", "node")
        kube = connect()
    with progress.step("images", "Container images"):
        tool("hack/images", "build")
        names = [f"{REGISTRY}/{name}:0.1.0" for name in ("operator", "agent", "model-server")]
        tool("hack/cluster", "load-image", "--name", CLUSTER, *names)
        # Gigabytes, and needed last.
        trainer = beside.submit(load_image, f"{REGISTRY}/trainer:0.1.0")
    with progress.step("install", "Helm chart"):
        kube.install_chart(ROOT / "charts" / "evolving-agents", REGISTRY)
    with progress.step("apply", "Agent and model server") as step:
        fresh_namespace(kube)
        apply_agent(kube)
        expect(kube, "Ready", step, 600)
        kube("wait", "--for=condition=Ready", "pod/demo-client", "--timeout=120s")
        model_before = (agent_of(kube) or {})["status"]["active"]["modelID"]
    with progress.step("measure_before", "Held-out requests, before") as step:
        before = run_client(kube, "measure", VALIDATION, step)
    with progress.step("requests", "Requests, reflections and feedback") as step:
        taught = run_client(kube, "teach", REQUESTS, step)
    with progress.step("curation", "Curated dataset") as step:
        annotate(kube, "curate")
        expect(kube, "DatasetReady", step, 300)
        examples = (agent_of(kube) or {})["status"]["dataset"]["examples"]
    with progress.step("training", "LoRA fine-tune on CPU") as step:
        step.detail = "loading the trainer's image"
        trainer.result()
        train(kube, step)
    traffic = Traffic(kube)
    with progress.step("evaluation", "Evaluation: candidate against incumbent") as step:
        expect(kube, "Evaluated", step, 1800)
    with progress.step("promotion", "Promotion: rolling restart under live traffic") as step:
        expect(kube, "Promoted", step, 1200)
        kube.wait("the end of the rollout", lambda: under_way(kube), 1200, step)
    load = traffic.stop()
    with progress.step("measure_after", "Held-out requests, after") as step:
        after = run_client(kube, "measure", VALIDATION, step)
        model_after = (agent_of(kube) or {})["status"]["active"]["modelID"]
    return {
        "accuracy_before": before["accuracy"],
        "accuracy_after": after["accuracy"],
        "held_out": after["asked"],
        "model_before": model_before,
        "model_after": model_after,
        "requests": taught["asked"] + load["requests"],
        "requests_during_rollout": load["requests"],
        "failed_requests": load["failed"],
        "failures": traffic.failures[:10],
        "examples": examples,
        "corrected": taught["corrected"],
        "seconds": progress.seconds,
    }


def show(report: dict[str, Any]) -> None:
    rows = [
        ("accuracy, held-out", f"{report['accuracy_before']:.1%}", f"{report['accuracy_after']:.1%}"),
        ("model", report["model_before"], report["model_after"]),
    ]
    width = max(len(cell) for row in rows for cell in row)
    print(f"\n{'':24}{'before':{width + 3}}{'after':{width}}")
    for name, old, new in rows:
        print(f"{name:24}{old:{width + 3}}{new:{width}}")
    print(f"{'held-out requests':24}{report['held_out']}")
    print(
        f"{'training examples':24}{report['examples']} ({report['corrected']} answers corrected by feedback)"
    )
    print(f"{'requests in all':24}{report['requests']}")
    during = (
        f"{report['failed_requests']} of {report['requests_during_rollout']} during evaluation and rollout"
    )
    print(f"{'failed requests':24}{during}")
    minutes = sum(report["seconds"].values()) / 60
    print(f"{'time':24}{minutes:.1f} minutes")


LOOK_AROUND = f"""
The cluster is still up. Look around:
  export KUBECONFIG=$(python3 hack/cluster kubeconfig --name {CLUSTER})
  alias kubectl=$(python3 hack/tools kubectl)
  kubectl -n {NAMESPACE} get eva,arev,pods      kubectl -n {NAMESPACE} describe eva {AGENT}
  kubectl -n {NAMESPACE} get events             kubectl -n {OPERATOR_NAMESPACE} logs deploy/evolving-agents
Remove it:
  make demo-down"""


def main() -> int:
    argparse.ArgumentParser(prog="make demo", description=__doc__).parse_args()
    try:
        with ThreadPoolExecutor(max_workers=1) as beside:
            report = demo(beside)
    except DemoError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; `make demo` goes on from what is built", file=sys.stderr)
        return 130
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    show(report)
    print(f"\nWritten to {REPORT.relative_to(ROOT)}.{LOOK_AROUND}")
    return 0
