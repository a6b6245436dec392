"""What pods say is wrong with them although they answer becomes a condition, and goes again."""

from __future__ import annotations

import copy
from typing import Any

from evolving_agent.contract.served import Problem, ProblemReason, ServedCounts
from evolving_operator.api.models import ConditionStatus
from evolving_operator.core.observed import Heard
from evolving_operator.testing.simulation import Simulation

Spec = dict[str, Any]
LOST = Problem(reason=ProblemReason.EXPERIENCE_NOT_STORED, message="cannot write episodes to /store: full")
WELL = Heard(ServedCounts())


async def unwell(world: Simulation, spec: Spec) -> None:
    """An agent at rest whose pods say that what they learn is not stored."""
    await world.serve(spec)
    world.requests.told = Heard(ServedCounts(problems=(LOST,)))
    await world.settle()


async def test_a_pods_problem_is_told_and_stalls_nothing(world: Simulation, spec: Spec) -> None:
    await unwell(world, spec)

    degraded = world.condition("Degraded")
    assert (degraded.status, degraded.reason) == (ConditionStatus.TRUE, "ExperienceNotStored")
    pod = world.cluster.all("Pod")[0]["metadata"]["name"]
    assert degraded.message == f"cannot write episodes to /store: full (pod {pod})"
    assert world.condition("Ready").status is ConditionStatus.TRUE
    assert "Stalled" not in {condition.type for condition in world.status.conditions}
    assert world.events().count("ExperienceNotStored") == 1


async def test_it_is_over_when_the_pods_say_so(world: Simulation, spec: Spec) -> None:
    await unwell(world, spec)

    world.requests.told = WELL
    await world.settle()

    assert world.condition("Degraded").status is ConditionStatus.FALSE
    assert world.events().count("Recovered") == 1


async def test_an_operator_that_starts_keeps_what_is_known_until_it_has_asked(
    world: Simulation, spec: Spec
) -> None:
    await unwell(world, spec)
    world.requests.told = None
    writes = len(world.cluster.writes)

    world.restart()
    await world.settle()
    assert len(world.cluster.writes) == writes

    world.requests.told = Heard(silence="cannot be asked")
    await world.settle()
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_pods_at_rest_are_asked_seldom_and_not_all_at_once(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    at_rest = world.requests.followed
    await unwell(world, spec)
    watched = world.requests.followed

    assert at_rest is not None
    assert watched is not None
    assert not at_rest.at_once
    assert watched.at_once
    assert watched.every_seconds < at_rest.every_seconds


async def test_without_pods_nobody_is_asked_and_nothing_is_wrong(world: Simulation, spec: Spec) -> None:
    await unwell(world, spec)
    without = copy.deepcopy(spec)
    without["agent"]["replicas"] = 0
    await world.serve(without)

    assert world.requests.followed is None
    assert world.condition("Degraded").status is ConditionStatus.FALSE
