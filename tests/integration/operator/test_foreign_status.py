"""Others who write into a status: a person's patch, a backup's, a tool's own condition."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from evolving_operator.api import names
from support.cluster import eventually
from support.operator_process import Place, StartOperator

pytestmark = pytest.mark.cluster

AGENT: dict[str, Any] = {
    "apiVersion": names.API_VERSION,
    "kind": names.AGENT_KIND,
    "metadata": {"name": "support"},
    "spec": {
        "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
        "agent": {"instructions": "You route requests.", "replicas": 0},
    },
}
BASE = names.revision("support", "smollm2", "", "Base", "")
CONDITION = {
    "type": "Foo",
    "status": "True",
    "reason": "Foreign",
    "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}
REF = {"revision": "nope", "modelID": "x", "since": "2026-01-01T00:00:00Z"}


def write(place: Place, what: str, change: dict[str, Any]) -> None:
    place.kubectl("patch", what, "--subresource=status", "--type=merge", "-p", json.dumps({"status": change}))


def at_rest(place: Place, what: tuple[str, str]) -> str:
    """The resourceVersion, once it has stayed the same for some seconds."""
    versions: list[str] = []

    def is_at_rest() -> bool:
        versions.append(place.get(*what)["metadata"]["resourceVersion"])
        time.sleep(1)
        return len(versions) > 3 and len(set(versions[-4:])) == 1

    eventually(is_at_rest, timeout=60, message=f"{what} is written no more")
    return versions[-1]


def test_what_others_write_into_a_status_does_not_stay_nor_stop_anything(
    place: Place, start_operator: StartOperator
) -> None:
    operator = start_operator()
    place.apply(AGENT)
    eventually(lambda: place.condition("support", "Ready").get("status") == "True", 40, "Ready")

    stalled = CONDITION | {"type": "Stalled"}
    conditions = place.get("evolvingagent", "support")["status"]["conditions"]
    write(place, "evolvingagent/support", {"candidate": REF, "conditions": [stalled, *conditions, CONDITION]})
    scaled = {"agent": {**AGENT["spec"]["agent"], "replicas": 2}}
    place.apply({**AGENT, "spec": {**AGENT["spec"], **scaled}})

    eventually(
        lambda: place.get("deployment", "support")["spec"]["replicas"] == 2, 40, "what the spec asks for"
    )
    eventually(lambda: "candidate" not in place.get("evolvingagent", "support")["status"], 40, "no candidate")
    at_rest(place, ("evolvingagent", "support"))
    types = {item["type"] for item in place.get("evolvingagent", "support")["status"]["conditions"]}
    assert "Foo" in types
    assert "Stalled" not in types

    told = place.get("agentrevision", BASE)["status"]["conditions"]
    write(place, f"agentrevision/{BASE}", {"conditions": [*told, CONDITION], "state": "Retired"})
    eventually(lambda: place.get("agentrevision", BASE)["status"]["state"] == "Active", 40, "as it is")
    at_rest(place, ("agentrevision", BASE))
    assert "Foo" in {item["type"] for item in place.get("agentrevision", BASE)["status"]["conditions"]}
    assert operator.errors() == []
