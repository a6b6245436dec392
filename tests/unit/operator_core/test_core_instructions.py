"""Instructions that a ConfigMap holds: read now and then, rolled out as an edit, kept where they are lost."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from evolving_operator.api.models import ConditionStatus
from evolving_operator.testing.simulation import Simulation

Spec = dict[str, Any]


@pytest.fixture
def spec(spec: Spec) -> Spec:
    told = copy.deepcopy(spec)
    del told["agent"]["instructions"]
    told["agent"]["instructionsFrom"] = {"configMapKeyRef": {"name": "prompts", "key": "support.md"}}
    return told


def write(world: Simulation, **data: str) -> None:
    metadata = {"name": "prompts", "namespace": "default"}
    world.cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def served(world: Simulation) -> str:
    """The instructions of the pods' configuration."""
    raw = world.cluster.get("ConfigMap", "support-config")
    assert raw is not None
    return str(json.loads(raw["data"]["agent_config.json"])["configs"][world.stamp()]["instructions"])


async def test_they_are_served(world: Simulation, spec: Spec) -> None:
    write(world, **{"support.md": "You route requests."})

    await world.serve(spec)

    assert served(world) == "You route requests."
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_a_change_rolls_out_within_half_a_minute(world: Simulation, spec: Spec) -> None:
    write(world, **{"support.md": "You route requests."})
    await world.serve(spec)
    old = world.stamp()

    write(world, **{"support.md": "You answer in verse."})
    delay = await world.settle()
    assert world.stamp() == old
    assert delay is not None
    assert delay <= 30
    world.pass_time(30)
    await world.settle()

    assert world.stamp() != old
    assert served(world) == "You answer in verse."


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(None, "there is no ConfigMap 'prompts' in 'default': create it.", id="no ConfigMap"),
        pytest.param({"other": "x"}, "has no text under the key 'support.md'", id="no key"),
        pytest.param({"support.md": ""}, "has no text under the key 'support.md'", id="empty"),
        pytest.param({"support.md": "x" * 65_537}, "65537 characters; 65536 are allowed", id="too long"),
    ],
)
async def test_what_is_wrong_is_told_and_what_is_served_stays(
    world: Simulation, spec: Spec, data: dict[str, str] | None, said: str
) -> None:
    write(world, **{"support.md": "You route requests."})
    await world.serve(spec)
    old = world.stamp()

    if data is None:
        world.cluster.remove("ConfigMap", "prompts")
    else:
        write(world, **data)
    world.restart()  # an operator that has never read them
    await world.settle()

    degraded = world.condition("Degraded")
    assert degraded.reason == "InstructionsNotFound"
    assert said in degraded.message
    assert degraded.message.endswith("The instructions that are served stay.")
    assert world.stamp() == old
    assert world.condition("Ready").status is ConditionStatus.TRUE

    write(world, **{"support.md": "You route requests."})
    world.pass_time(30)
    await world.settle()
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_an_agent_waits_for_its_first_ones(world: Simulation, spec: Spec) -> None:
    world.apply_agent(spec)
    await world.settle()

    assert world.condition("Degraded").reason == "InstructionsNotFound"
    assert world.cluster.all("Deployment") == []
    ready = world.condition("Ready")  # what `kubectl get` shows
    assert (ready.status, ready.reason) == (ConditionStatus.FALSE, "InstructionsNotFound")
    assert ready.message.startswith("Nothing is served. spec.agent.instructionsFrom: there is no ConfigMap")

    write(world, **{"support.md": "You route requests."})
    world.pass_time(30)
    await world.settle()

    assert served(world) == "You route requests."


async def test_to_read_them_again_writes_nothing(world: Simulation, spec: Spec) -> None:
    write(world, **{"support.md": "You route requests."})
    await world.serve(spec)
    world.cluster.writes.clear()
    world.pass_time(30)

    await world.settle()

    assert world.cluster.writes == []
