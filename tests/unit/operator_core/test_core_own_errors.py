"""An error of the operator's own: the agent it fails at says so, goes on serving, and is tried again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from evolving_operator.api.models import ConditionStatus
from evolving_operator.core.observed import Observed
from evolving_operator.core.plan import Plan
from evolving_operator.shell import reconciler
from evolving_operator.testing.simulation import Simulation

Spec = dict[str, Any]


class OwnError(Exception):
    pass


@contextmanager
def every_decision_fails() -> Iterator[None]:
    def decide(_: Observed, __: object) -> Plan:
        raise OwnError("two lines\n  of it")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconciler, "decide", decide)
        yield


async def test_it_is_told_once_and_taken_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    served, told = world.stamp(), world.status

    with every_decision_fails():
        for _ in range(3):
            with pytest.raises(OwnError):
                await world.settle()

    degraded = world.condition("Degraded")
    assert degraded.reason == "OperatorError"
    assert degraded.message.endswith("OwnError: two lines of it")
    assert world.condition("Stalled").reason == "OperatorError"
    assert world.condition("Ready").status is ConditionStatus.TRUE
    assert world.stamp() == served
    assert world.events().count("OperatorError") == 1

    await world.settle()
    assert world.status == told.model_copy(update={"conditions": world.status.conditions})
    assert world.condition("Degraded").status is ConditionStatus.FALSE
    assert "Stalled" not in {condition.type for condition in world.status.conditions}


async def test_a_new_agent_says_why_nothing_is_served(world: Simulation, spec: Spec) -> None:
    world.apply_agent(spec)

    with every_decision_fails(), pytest.raises(OwnError):
        await world.settle()

    assert world.condition("Ready").status is ConditionStatus.FALSE
    assert world.condition("Ready").reason == "OperatorError"
    assert world.status.observed_generation == 1


async def test_arguments_of_a_tool_as_deep_as_the_api_server_takes_them_are_a_fault_of_the_spec(
    world: Simulation, spec: Spec
) -> None:
    deep: Spec = {}
    for _ in range(300):
        deep = {"properties": deep}
    tool = {"name": "orders", "type": "HTTP", "url": "http://orders/", "description": "d", "parameters": deep}
    world.apply_agent(spec | {"agent": spec["agent"] | {"tools": [tool]}})

    await world.settle()

    assert world.condition("Degraded").reason == "InvalidSpec"
    assert "more than 100 levels" in world.condition("Degraded").message
