"""What is to say of children that were just applied is said once, after their controllers have spoken."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.cluster.errors import Forbidden
from evolving_operator.core.builders.context import Images
from evolving_operator.shell.reconciler import Reconciler
from evolving_operator.testing.simulation import Simulation

KEY = ("default", "support")
IMAGES = Images(agent="example/agent:1", trainer="example/trainer:1")


def told(world: Simulation) -> int:
    return sum(write.kind in (names.AGENT_KIND, "Event") for write in world.cluster.writes)


async def test_the_status_waits_for_the_answer_to_what_was_applied(
    world: Simulation, spec: dict[str, Any]
) -> None:
    reconciler = Reconciler(
        world.cluster, world.cache, IMAGES, clock=lambda: world.now, patience=timedelta(seconds=0.5)
    )
    world.apply_agent(spec)
    assert (
        await reconciler.reconcile(KEY) == 0.5
    )  # the base model is adopted by the same write that tells of it
    assert world.cluster.get("Deployment", "support") is not None
    world.pass_time(0.2)
    world.node.roll_out("support")
    assert await reconciler.reconcile(KEY) == pytest.approx(0.3)
    assert told(world) == 0

    world.pass_time(0.3)
    await reconciler.reconcile(KEY)

    assert world.condition("Ready").status == "True"
    statuses = [write for write in world.cluster.writes if write.kind == names.AGENT_KIND]
    assert [write.verb for write in statuses] == ["apply_status"]


async def test_nothing_is_waited_for_by_a_clock_that_has_been_set_back(
    world: Simulation, spec: dict[str, Any]
) -> None:
    reconciler = Reconciler(
        world.cluster, world.cache, IMAGES, clock=lambda: world.now, patience=timedelta(seconds=0.5)
    )
    apply, asked = world.cluster.apply, []

    async def refusing(manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest["kind"] == "PodDisruptionBudget":
            asked.append(manifest)
            raise Forbidden("exceeded quota")
        return await apply(manifest)

    world.cluster.apply = refusing  # type: ignore[method-assign]
    world.apply_agent(spec)
    await reconciler.reconcile(KEY)
    assert (told(world), len(asked)) == (0, 1)

    world.now -= timedelta(hours=1)
    await reconciler.reconcile(KEY)
    assert len(asked) == 2
    world.pass_time(0.5)
    await reconciler.reconcile(KEY)

    assert world.condition("Degraded").reason == "Forbidden"


async def test_without_an_apply_there_is_nothing_to_wait_for(world: Simulation, spec: dict[str, Any]) -> None:
    await world.serve(spec)
    reconciler = Reconciler(
        world.cluster, world.cache, IMAGES, clock=lambda: world.now, patience=timedelta(hours=1)
    )
    before = told(world)
    world.pass_time(86_400)  # another next schedule is to be told

    await reconciler.reconcile(KEY)

    assert told(world) > before
