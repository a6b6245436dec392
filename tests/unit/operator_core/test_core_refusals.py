"""What the API server refused is told for as long as it is asked for, and no longer."""

from __future__ import annotations

from typing import Any

from evolving_operator.api.models import ConditionStatus
from evolving_operator.cluster.errors import Invalid
from evolving_operator.testing.fake_cluster import Fault
from evolving_operator.testing.simulation import Simulation

Spec = dict[str, Any]


async def test_who_takes_a_bad_field_back_hears_no_more_of_it(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    refusal = Invalid("spec.template.spec.containers[0].image: invalid", ("spec.template",))
    world.cluster.faults.append(Fault(at=0, error=refusal, kind="Deployment"))
    world.apply_agent(spec | {"agent": {**spec["agent"], "image": "not an image"}})
    await world.settle()
    assert world.condition("Degraded").reason == "InvalidSpec"

    world.apply_agent(spec)
    await world.settle()

    assert world.condition("Degraded").status is ConditionStatus.FALSE
    assert world.events().count("Recovered") == 1


async def test_a_refusal_that_is_over_wakes_nobody_up(world: Simulation, spec: Spec) -> None:
    """An old refusal that was always due would keep the agent's worker busy for ever."""
    await world.serve(spec)
    world.cluster.faults.append(Fault(at=0, error=Invalid("no"), kind="Deployment"))
    world.apply_agent(spec | {"agent": {**spec["agent"], "image": "not an image"}})
    await world.settle()
    world.apply_agent(spec)
    await world.settle()

    world.pass_time(120)
    delay = await world.settle()

    assert delay is None or delay > 0


async def test_a_refusal_is_told_before_a_pin_that_leads_nowhere(world: Simulation, spec: Spec) -> None:
    """It keeps all that the spec asks for from the pods, and nothing else would show it."""
    await world.serve(spec)
    world.cluster.faults.append(Fault(at=0, error=Invalid("no"), kind="Deployment"))
    world.apply_agent(
        spec | {"agent": {**spec["agent"], "image": "not an image"}, "rollout": {"pin": "support-12345678"}}
    )
    await world.settle()

    assert world.condition("Degraded").reason == "InvalidSpec"
    assert "Deployment" in world.condition("Degraded").message
