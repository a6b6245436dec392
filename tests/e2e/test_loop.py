"""The whole loop on real pods, with a provider that really learns what it is taught."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.scene import BANK, DATA, Scene

pytestmark = pytest.mark.pods

REQUESTS = (BANK / "requests.jsonl").read_text().splitlines()


def cases(requests: list[str]) -> str:
    """Validation cases from requests that are never taught."""
    rows = (json.loads(line) for line in requests)
    return "\n".join(
        json.dumps(
            {
                "id": row["id"],
                "input": row["text"],
                "expected": {"tool": {"name": "route_request", "arguments": {"team": row["team"]}}},
            }
        )
        for row in rows
    )


def pods_ready(scene: Scene) -> int:
    return int(scene.status().get("readyReplicas") or 0)


def promote_a_first_candidate(scene: Scene) -> None:
    """Ready agent, taught customers' corrections, curated and fine-tuned on demand, promoted by itself."""
    scene.client("teach", "\n".join(REQUESTS[:120]))
    scene.run("curate", "first")
    scene.wait_condition("DatasetReady")
    scene.run("finetune", "first")
    scene.wait_condition("Trained")
    scene.wait_condition("Promoted", timeout=300)
    scene.wait_rolled_out()


def lose_the_served_model(scene: Scene, before: dict[str, Any]) -> None:
    """Nothing is pinned any more, and the base model, which serves, vanishes at its provider."""
    scene.patch({"rollout": {"pin": "", "rollback": {"minRequests": 20}}})
    with scene.load("\n".join(REQUESTS[120:160]), rate=4) as live:
        scene.provider("POST", "/control", {"gone": "base-model"})
        scene.wait(
            "the way back", lambda: scene.status()["active"]["revision"] == before["revision"], timeout=300
        )
        scene.wait_rolled_out()

    # the pods let the other revision answer until the operator has it served: no request failed
    assert scene.status()["rollout"]["reason"] == "ErrorsExceeded"
    assert live["failed"] == 0, live["failures"]


@pytest.fixture
def ready(scene: Scene) -> Scene:
    scene.kubectl("create", "secret", "generic", "provider", "--from-literal=apiKey=secret")
    scene.apply(DATA / "provider.yaml")
    scene.kubectl("rollout", "status", "deployment/provider", "--timeout=120s")
    scene.apply(DATA / "agent.yaml")
    scene.wait_condition("Ready")
    return scene


def test_the_loop_promotes_a_better_model_and_takes_back_a_worse_one(ready: Scene) -> None:
    scene = ready
    base = scene.status()["active"]
    held_out = (BANK / "validation.jsonl").read_text()
    before = scene.client("measure", held_out)
    assert base["modelID"] == "base-model"
    scene.wait("both pods", lambda: pods_ready(scene) == 2)

    # when the agent is taught, trained and judged while customers keep asking
    with scene.load("\n".join(REQUESTS[120:160]), rate=4) as live:
        promote_a_first_candidate(scene)
    after = scene.client("measure", held_out)

    # then the better model serves, no request failed, and the config names both models
    promoted = scene.status()["active"]
    assert promoted["modelID"] != base["modelID"]
    assert after["accuracy"] > before["accuracy"]
    assert set(after["revisions"]) == {promoted["revision"]}
    assert live["failed"] == 0, live["failures"]
    assert {base["revision"], promoted["revision"]} <= set(live["revisions"])
    config = scene.config()
    assert config["model"] == promoted["modelID"]
    assert config["previous_model"] == base["modelID"]
    assert scene.status()["lastVerdict"]["result"] == "Passed"
    assert scene.provider("GET", "/control/counters")["fine_tuning_jobs_created"] == 1

    # when a second candidate passes an easier gate but answers wrongly once it serves
    suite = scene.get("evolvingagent", "support")["spec"]["evaluation"]["suites"][0]
    scene.patch({"evaluation": {"suites": [suite | {"objective": "NoRegress", "minDeltaBps": -10_000}]}})
    scene.client("teach", "\n".join(REQUESTS[160:220]))
    scene.run("curate", "second")
    scene.wait("a second dataset", lambda: scene.status()["dataset"]["examples"] > 120)
    with scene.load("\n".join(REQUESTS[120:160]), rate=4) as live:
        scene.run("finetune", "second")
        scene.wait("the second candidate to be promoted", lambda: scene.status()["active"] != promoted, 300)
        worse = scene.status()["active"]
        scene.provider("POST", "/control", {"degrade": worse["modelID"]})
        scene.wait(
            "the rollback", lambda: scene.status()["active"]["revision"] == promoted["revision"], timeout=300
        )
        scene.wait_rolled_out()

    # then the one before serves again, the worse one is quarantined, and no request failed
    assert live["failed"] == 0, live["failures"]
    assert scene.config()["model"] == promoted["modelID"]
    scene.wait(
        "the worse revision's state", lambda: scene.revision_states()[worse["revision"]] == "RolledBack"
    )
    again = scene.client("measure", held_out)
    assert set(again["revisions"]) == {promoted["revision"]}
    assert again["accuracy"] == after["accuracy"]

    # when a person pins the base revision
    scene.patch({"rollout": {"pin": base["revision"]}})
    scene.wait("the pinned revision", lambda: scene.status()["active"]["revision"] == base["revision"])
    scene.wait("its configuration", lambda: scene.config()["model"] == "base-model")
    scene.wait("its pods", lambda: scene.condition("Progressing")["status"] == "False")
    scene.wait_rolled_out()
    assert set(scene.client("measure", held_out)["revisions"]) == {base["revision"]}

    lose_the_served_model(scene, promoted)

    # and everything was told
    reasons = {event["reason"] for event in scene.items("events")}
    assert {"Promoted", "RolledBack"} <= reasons


def test_what_goes_wrong_is_told_and_the_active_model_keeps_serving(ready: Scene) -> None:
    scene = ready
    base = scene.status()["active"]

    # a bad line in the log is quarantined and counted; the rest is learned from
    scene.client("teach", "\n".join(REQUESTS[:40]))
    append = (
        "from pathlib import Path; d = Path('/data/episodes/stranger'); d.mkdir(parents=True); "
        "(d / '00000001.jsonl').write_text('{\"type\": \"episode\", broken\\n')"
    )
    scene.kubectl("exec", "deploy/support", "--", "python", "-c", append)
    scene.run("curate", "bad-line")
    scene.wait_condition("DatasetReady")
    assert "1 line" in scene.condition("DatasetReady")["message"]

    # a training that the provider fails is told in its words
    scene.provider("POST", "/control", {"fail_next_job": "the training file was cursed"})
    scene.run("finetune", "fails")
    scene.wait_condition("Trained", status="False", reason="TrainingFailed")
    assert "cursed" in scene.condition("Trained")["message"]
    assert scene.status()["active"] == base
    assert scene.condition("Ready")["status"] == "True"

    # a second agent whose secret is missing says which, and one whose endpoint is not there says where
    manifest = (DATA / "agent.yaml").read_text()
    absent = manifest.replace("name: support}", "name: nokey}").replace(
        "name: provider, key", "name: absent, key"
    )
    nowhere = manifest.replace("name: support}", "name: nowhere}").replace(
        "http://provider/v1", "http://nobody:9/v1"
    )
    scene.kubectl("apply", "-f", "-", stdin=absent)
    scene.kubectl("apply", "-f", "-", stdin=nowhere)
    nokey, lost = (
        Scene(scene.cluster, scene.namespace, "nokey"),
        Scene(scene.cluster, scene.namespace, "nowhere"),
    )
    nokey.wait_condition("Degraded", reason="SecretNotFound")
    assert "absent" in nokey.condition("Degraded")["message"]
    assert nokey.condition("Ready")["status"] == "False"
    lost.wait_condition("Degraded", reason="ModelUnreachable")
    assert "http://nobody:9/v1" in lost.condition("Degraded")["message"]
    assert lost.condition("Ready")["status"] == "False"
    assert scene.client("measure", (BANK / "validation.jsonl").read_text())["asked"] > 0
