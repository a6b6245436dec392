"""The embedded default: a real LoRA training in a pod, its adapter loaded and served by the model server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.scene import BANK, ROOT, Scene

pytestmark = [pytest.mark.pods, pytest.mark.usefixtures("trainer_image")]

EXAMPLES = Path(ROOT, "examples")


def test_an_adapter_is_trained_in_a_pod_and_served(scene: Scene) -> None:
    # given the embedded model server and the demo's agent, told to train briefly
    scene.apply(EXAMPLES / "model-server.yaml")
    scene.kubectl("rollout", "status", "deployment/model-server", "--timeout=180s")
    few = (BANK / "validation.jsonl").read_text().splitlines()[:12]
    scene.ask_in_evaluations("\n".join(few))
    scene.apply(EXAMPLES / "support-agent.yaml")
    brief = {
        "agent": {"replicas": 1, "reflection": {"mode": "Disabled"}},
        "curation": {"thresholds": {"minExamples": 10}, "holdoutPercent": 0},
        "training": {"hyperparameters": {"epochs": 1}, "thresholds": {"minNewExamples": 1}},
    }
    scene.patch(brief)
    scene.wait_condition("Ready", timeout=300)

    # when it is taught a few answers, and trained
    taught = "\n".join((BANK / "requests.jsonl").read_text().splitlines()[:24])
    summary = scene.client("teach", taught)
    scene.run("curate", "brief")
    scene.wait_condition("DatasetReady")
    scene.run("finetune", "brief")
    scene.wait_condition("Trained", timeout=900)

    # then a candidate revision names an adapter that the model server serves under that name
    candidates = [r for r in scene.items("agentrevisions") if r["spec"].get("dataset")]
    assert len(candidates) == 1
    model = candidates[0]["spec"]["modelID"]
    assert summary["corrected"] >= candidates[0]["spec"]["dataset"]["examples"] >= 10
    # and what it and its base answer does not depend on which of them was asked before
    base = candidates[0]["spec"]["base"]
    first, *again = [[_answer(scene, name) for name in (base, model)] for _ in range(3)]
    assert again == [first, first]
    assert first[0] != first[1]
    # and it is judged, whatever the verdict on so brief a training
    scene.wait("a verdict", lambda: bool(scene.status().get("lastVerdict")), timeout=900)
    assert scene.status()["lastVerdict"]["result"] in {"Passed", "Failed", "Inconclusive"}


ASK = """
import json, sys, httpx
question = {"role": "user", "content": "My card was stolen on the train this morning"}
body = {"model": sys.argv[1], "max_tokens": 8, "temperature": 0, "messages": [question]}
answer = httpx.post("http://model-server/v1/chat/completions", json=body, timeout=120).json()
assert answer["model"] == sys.argv[1], answer
print(json.dumps(answer["choices"][0]["message"]))
"""


def _answer(scene: Scene, model: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        scene.kubectl("exec", "demo-client", "--", "python", "-c", ASK, model)
    )
    return answer
