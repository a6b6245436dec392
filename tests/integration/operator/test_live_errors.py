"""Pods that tell of failing requests, and an operator process that asks them: at addresses of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from evolving_agent.contract import env
from evolving_agent.contract.config import CONFIG_KEY
from evolving_agent.contract.served import (
    SERVED_PATH,
    Problem,
    ProblemReason,
    ServedAs,
    ServedCount,
    ServedCounts,
)
from evolving_operator.api import names
from evolving_operator.testing.simulation import evaluation_report, revision_of, training_report
from support.cluster import eventually
from support.kubelet import Kubelet
from support.operator_process import Place, StartOperator

pytestmark = pytest.mark.cluster

POD_IP = "127.77.0.9"  # where all pods of the test are
MODEL = "smollm2-ft-1"
REVISION = revision_of("support", MODEL)
AGENT: dict[str, Any] = {
    "apiVersion": names.API_VERSION,
    "kind": names.AGENT_KIND,
    "metadata": {"name": "support"},
    "spec": {
        "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
        "agent": {"instructions": "You route requests."},
        "curation": {"schedule": "0 1 1 1 *"},
        "training": {
            "schedule": "0 3 1 1 *",
            "backend": {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}},
        },
        "rollout": {
            "bakeSeconds": 600,
            "shadow": {"percent": 50, "minRequests": 20},
            "rollback": {"maxErrorPercent": 10, "minRequests": 20},
        },
    },
}


class Counters:
    """What every pod at `POD_IP` tells; None: HTTP 404, as an agent image without counters."""

    def __init__(self) -> None:
        self.told: ServedCounts | None = None
        self.asked = 0

    @contextmanager
    def serving(self) -> Iterator[None]:
        counters = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                counters.asked += 1
                told = counters.told if self.path == SERVED_PATH else None
                body = b"{}" if told is None else told.model_dump_json(by_alias=True).encode()
                self.send_response(200 if told is not None else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer((POD_IP, env.SERVE_PORT), Answer)
        thread = Thread(target=server.serve_forever, name="pods")
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def tell(self, config: str, served_as: ServedAs, requests: int, errors: int) -> None:
        trial = None if served_as is ServedAs.ACTIVE else config
        count = ServedCount(config=config, served_as=served_as, requests=requests, errors=errors)
        self.told = ServedCounts(trial=trial, counts=(count,))


@pytest.fixture
def counters() -> Iterator[Counters]:
    counters = Counters()
    with counters.serving():
        yield counters


@pytest.fixture
def kubelet(place: Place) -> Kubelet:
    return Kubelet(place.cluster, place.namespace, POD_IP)


def rollout(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = place.get("evolvingagent", "support").get("status", {}).get("rollout", {})
    return found


def stamp(place: Place) -> str:
    template = place.get("deployment", "support")["spec"]["template"]["metadata"]
    return str(template["annotations"][names.ANNOTATION_CONFIG_HASH])


def traffic(place: Place) -> dict[str, Any]:
    raw = place.get("configmap", names.config_map("support"))
    shares: dict[str, Any] = json.loads(raw["data"][CONFIG_KEY]).get("traffic", {})
    return shares


def shadow_share(place: Place) -> str:
    """Hash of the configuration that answers unseen."""
    return str(traffic(place)["shadow"]["config"])


def begin_shadow(place: Place, kubelet: Kubelet) -> None:
    """An agent that is served, and a proven candidate that answers unseen."""
    place.apply(AGENT)
    eventually(lambda: place.get("deployment", "support"), timeout=30, message="a Deployment")
    kubelet.wait_for_service("support", stamp(place), replicas=1)
    eventually(
        lambda: place.condition("support", "Ready").get("status") == "True", timeout=30, message="Ready"
    )
    place.kubectl("annotate", "--overwrite", "evolvingagent/support", f"{names.ANNOTATION_RUN}=finetune:1")
    kubelet.end_job(names.on_demand_job("support", "finetune", "finetune:1"), training_report(MODEL))
    kubelet.end_job(names.evaluate_job(REVISION, ""), evaluation_report(REVISION, lower=2000))
    eventually(lambda: rollout(place).get("step") == "Shadow", timeout=30, message="a shadow")
    eventually(lambda: "shadow" in traffic(place), timeout=30, message="its share")


def test_a_shadow_ends_by_requests_and_failing_requests_take_the_revision_back(
    place: Place, kubelet: Kubelet, counters: Counters, start_operator: StartOperator
) -> None:
    operator = start_operator()
    begin_shadow(place, kubelet)
    old_stamp = stamp(place)
    eventually(lambda: counters.asked, timeout=30, message="a question")

    counters.tell(shadow_share(place), ServedAs.SHADOW, requests=20, errors=0)
    eventually(lambda: stamp(place) != old_stamp, timeout=30, message="the rolling restart")
    kubelet.wait_for_service("support", stamp(place), replicas=1)
    eventually(lambda: rollout(place)["step"] == "Bake", timeout=30, message="the bake")

    counters.tell(stamp(place), ServedAs.ACTIVE, requests=40, errors=5)
    eventually(lambda: rollout(place)["step"] == "RolledBack", timeout=30, message="the way back")

    assert rollout(place)["reason"] == "ErrorsExceeded"
    assert rollout(place)["message"].startswith("5 of 40 live requests failed (12.5%)")
    eventually(lambda: stamp(place) == old_stamp, timeout=30, message="the old stamp")
    eventually(
        lambda: place.get("agentrevision", REVISION)["status"]["state"] == "RolledBack",
        timeout=30,
        message="the revision's state",
    )
    kubelet.wait_for_service("support", old_stamp, replicas=1)
    assert operator.errors() == []
    assert operator.stop() == 0


def test_an_operator_that_starts_anew_learns_the_counts_from_the_pods(
    place: Place, kubelet: Kubelet, counters: Counters, start_operator: StartOperator
) -> None:
    first = start_operator()
    begin_shadow(place, kubelet)
    old_stamp = stamp(place)
    counters.tell(shadow_share(place), ServedAs.SHADOW, requests=19, errors=0)
    asked = counters.asked
    eventually(lambda: counters.asked > asked + 1, timeout=30, message="two more questions")
    first.kill()

    counters.tell(shadow_share(place), ServedAs.SHADOW, requests=20, errors=20)
    start_operator()
    eventually(lambda: rollout(place)["step"] == "RolledBack", timeout=60, message="the candidate's end")

    assert rollout(place)["reason"] == "ErrorsExceeded"
    assert stamp(place) == old_stamp


def test_pods_that_do_not_tell_are_warned_of_once_and_stop_nothing(
    place: Place, kubelet: Kubelet, counters: Counters, start_operator: StartOperator
) -> None:
    operator = start_operator()
    begin_shadow(place, kubelet)
    eventually(lambda: counters.asked >= 3, timeout=60, message="questions")

    warnings = [line for line in operator.lines() if line.get("message") == "pod cannot be asked"]

    assert len(warnings) == 1
    assert warnings[0]["error"] == f"answers http://{POD_IP}:{env.SERVE_PORT}{SERVED_PATH} with HTTP 404"
    assert rollout(place)["step"] == "Shadow"
    assert operator.errors() == []


def test_a_pods_problem_becomes_a_condition_and_goes_again(
    place: Place, kubelet: Kubelet, counters: Counters, start_operator: StartOperator
) -> None:
    start_operator()
    begin_shadow(place, kubelet)  # so that the pods are asked every few seconds
    lost = Problem(
        reason=ProblemReason.EXPERIENCE_NOT_STORED, message="cannot write episodes to /store: full"
    )

    counters.told = ServedCounts(problems=(lost,))
    eventually(
        lambda: place.condition("support", "Degraded").get("reason") == "ExperienceNotStored",
        timeout=60,
        message="the condition",
    )
    assert lost.message in place.condition("support", "Degraded")["message"]
    assert place.condition("support", "Ready")["status"] == "True"

    counters.told = ServedCounts()
    eventually(
        lambda: place.condition("support", "Degraded")["status"] == "False", timeout=60, message="its end"
    )
