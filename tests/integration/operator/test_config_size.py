"""What does not fit into a ConfigMap, on a real API server."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_operator.api import names
from support.cluster import eventually
from support.operator_process import Place, StartOperator

pytestmark = pytest.mark.cluster


def agent(*tools: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.AGENT_KIND,
        "metadata": {"name": "support"},
        "spec": {
            "model": {"base": "smollm2"},
            "agent": {"instructions": "You route requests.", "tools": list(tools)},
        },
    }


def test_a_configuration_that_is_too_large_is_refused_in_the_words_of_the_spec(
    place: Place, start_operator: StartOperator
) -> None:
    operator = start_operator()
    large = [
        {
            "name": f"tool_{number}",
            "type": "HTTP",
            "description": "Does one thing.",
            "url": "http://tools/one",
            "parameters": {"type": "object", "description": "x" * 65_536},
        }
        for number in range(17)
    ]
    place.apply(agent(*large))
    told: dict[str, Any] = {}

    def degraded() -> bool:
        told.update(place.condition("support", "Degraded"))
        return told.get("reason") == "ConfigTooLarge"

    eventually(degraded, timeout=40, message="Degraded/ConfigTooLarge")
    assert "spec.agent.tools[tool_" in told["message"]
    assert place.get("deployments")["items"] == []

    place.apply(agent(*large[:2]))
    eventually(lambda: place.get("deployments")["items"], timeout=40, message="the pods' Deployment")
    eventually(
        lambda: place.condition("support", "Degraded").get("status") == "False",
        timeout=40,
        message="Recovered",
    )
    assert operator.errors() == []
