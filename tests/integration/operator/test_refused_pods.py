"""Pod templates that a real API server does not take: told, served on, forgotten when taken back."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_operator.api import names
from support.cluster import eventually
from support.operator_process import Place, StartOperator

pytestmark = pytest.mark.cluster


def agent(pod: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.AGENT_KIND,
        "metadata": {"name": "support"},
        "spec": {
            "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
            "agent": {"instructions": "You route requests.", "replicas": 0, "podTemplate": {"spec": pod}},
        },
    }


def limited(memory: str) -> dict[str, Any]:
    return {"containers": [{"name": "agent", "resources": {"limits": {"memory": memory}}}]}


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        (limited("lots"), "quantities must match"),
        ({"terminationGracePeriodSeconds": "soon"}, "terminationGracePeriodSeconds"),
        ({"noSuchField": 1}, "noSuchField"),
    ],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_a_pod_template_that_is_not_taken_is_told(
    place: Place, start_operator: StartOperator, pod: dict[str, Any], said: str, is_there: bool
) -> None:
    """The API server refuses the same thing in other ways where the Deployment is there already."""
    start_operator()
    if is_there:
        place.apply(agent(limited("1Gi")))
        eventually(lambda: place.get("deployments")["items"], timeout=40, message="a Deployment")
    place.apply(agent(pod))

    told: dict[str, Any] = {}

    def degraded() -> bool:
        told.update(place.condition("support", "Degraded"))
        return told.get("reason") == "InvalidSpec"

    eventually(degraded, timeout=40, message="Degraded/InvalidSpec")
    assert said in told["message"]
    kept = [item["spec"]["template"]["spec"]["containers"][0] for item in place.get("deployments")["items"]]
    assert [item["resources"]["limits"]["memory"] for item in kept] == (["1Gi"] if is_there else [])

    place.apply(agent(limited("2Gi")))
    eventually(
        lambda: place.condition("support", "Degraded").get("status") == "False",
        timeout=40,
        message="Degraded is over",
    )
    eventually(lambda: place.get("deployments")["items"], timeout=40, message="a Deployment")
