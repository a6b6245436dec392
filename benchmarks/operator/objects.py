"""The agents that are measured, and the objects that the operator makes of one of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from evolving_operator.api import names
from evolving_operator.cluster.kinds import OWNED, Kind
from evolving_operator.testing.simulation import Simulation

Raw = dict[str, Any]

# Allotted by the API server.
_ALLOTTED = frozenset({"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"})


def agent(namespace: str, name: str, instructions: str = "You route requests.") -> Raw:
    """At 0 replicas: without a node, pods would only wait."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.AGENT_KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
            "agent": {"instructions": instructions, "replicas": 0},
        },
    }


@dataclass(frozen=True)
class Template:
    """Objects as the operator applies them, with another agent's name, namespace and UID filled in."""

    text: str
    agent: str
    namespace: str
    uid: str

    def objects(self, agent: str, namespace: str, uid: str) -> list[Raw]:
        text = self.text.replace(self.uid, uid).replace(f'"{self.namespace}"', f'"{namespace}"')
        filled: list[Raw] = json.loads(text.replace(self.agent, agent))
        return filled

    def kinds(self) -> list[Kind]:
        made = {raw["kind"] for raw in json.loads(self.text)}
        return [kind for kind in OWNED if kind.kind in made]


async def template() -> Template:
    """What the operator itself makes of an agent on a cluster in memory: its children and its revision."""
    simulation = Simulation(agent="name-of-the-agent")
    simulation.apply_agent(agent("default", simulation.agent)["spec"])
    await simulation.settle()
    owner = simulation.cluster.get(names.AGENT_KIND, simulation.agent)
    if owner is None:
        raise RuntimeError("the simulated agent is gone")
    made = [_as_applied(raw) for kind in OWNED for raw in simulation.cluster.all(kind.kind)]
    return Template(json.dumps(made), simulation.agent, "default", owner["metadata"]["uid"])


def _as_applied(raw: Raw) -> Raw:
    metadata = {key: value for key, value in raw["metadata"].items() if key not in _ALLOTTED}
    return {key: value for key, value in raw.items() if key != "status"} | {"metadata": metadata}
