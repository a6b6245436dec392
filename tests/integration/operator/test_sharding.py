"""Two installations share one namespace by the labels of its agents; none touches the other's."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_operator.api import names
from support.cluster import eventually
from support.operator_process import Place, StartOperator

pytestmark = pytest.mark.cluster


def agent(name: str, shard: str) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.AGENT_KIND,
        "metadata": {"name": name, "labels": {"shard": shard}},
        "spec": {
            "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
            "agent": {"instructions": "You route requests.", "replicas": 0},
        },
    }


def is_served(place: Place, name: str) -> bool:
    """Whether somebody has brought all of its present spec about."""
    raw = place.get("evolvingagent", name)
    ready = place.condition(name, "Ready")
    return bool(ready) and ready["observedGeneration"] == raw["metadata"]["generation"]


def test_an_agent_is_looked_after_by_the_installation_that_its_labels_name(
    place: Place, start_operator: StartOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLVING_OPERATOR_LABEL_SELECTOR", "shard=a")
    operator = start_operator()
    place.apply(agent("ours", "a"))
    place.apply(agent("theirs", "b"))
    eventually(lambda: is_served(place, "ours"), timeout=60, message="ours is served")

    # nobody looks after the other one: absence, at a moment when the operator has done later work
    place.kubectl("patch", "evolvingagent/ours", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    eventually(lambda: is_served(place, "ours"), timeout=60, message="ours is changed")
    assert place.get("evolvingagent", "theirs")["status"] == {"observedGeneration": -1}  # as it came in
    assert {item["metadata"]["name"] for item in place.get("deployments")["items"]} == {"ours"}

    # by its labels it goes to the others, with all that it has, and comes back
    children = {item["metadata"]["uid"] for item in place.get("deployments,configmaps,arev")["items"]}
    place.kubectl("label", "--overwrite", "evolvingagent/ours", "shard=b")
    place.kubectl("patch", "evolvingagent/ours", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    place.apply(agent("another", "a"))
    eventually(lambda: is_served(place, "another"), timeout=60, message="another is served")
    assert not is_served(place, "ours")

    place.kubectl("label", "--overwrite", "evolvingagent/ours", "shard=a")
    eventually(lambda: is_served(place, "ours"), timeout=60, message="ours is looked after again")
    kept = {item["metadata"]["uid"] for item in place.get("deployments,configmaps,arev")["items"]}
    assert children <= kept
    assert operator.errors() == []
    assert operator.refusals() == []
