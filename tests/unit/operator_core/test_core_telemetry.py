"""Metrics of agents that come and go do not pile up."""

from __future__ import annotations

from typing import Any

from prometheus_client import generate_latest

from evolving_operator.api import names
from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.records import AgentKey
from evolving_operator.core.builders.context import Images
from evolving_operator.shell.reconciler import Reconciler
from evolving_operator.shell.telemetry import Telemetry
from evolving_operator.testing.simulation import Simulation

KEY = ("default", "support")
IMAGES = Images(agent="example/agent:1", trainer="example/trainer:1")


async def test_the_series_of_an_agent_end_with_it(world: Simulation, spec: dict[str, Any]) -> None:
    telemetry = Telemetry(Cache(), lambda: 0)
    world.reconciler = Reconciler(
        world.cluster,
        world.cache,
        IMAGES,
        clock=lambda: world.now,
        on_agent=telemetry.agent_changed,
        on_revision=telemetry.revision_changed,
        on_end=telemetry.agent_is_gone,
    )
    await world.serve(spec)
    await world.promote()
    assert b'agent="support"' in generate_latest(telemetry.registry)

    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()

    assert b'agent="support"' not in generate_latest(telemetry.registry)


async def test_only_what_was_decided_upon_ends(world: Simulation, spec: dict[str, Any]) -> None:
    """Each look at another installation's agent would go through the series of all of ours."""
    ended: list[AgentKey] = []
    world.reconciler = Reconciler(
        world.cluster, world.cache, IMAGES, clock=lambda: world.now, on_end=ended.append
    )
    await world.reconciler.reconcile(("default", "foreign"))
    await world.serve(spec)
    world.cluster.remove(names.AGENT_KIND, "support")
    for _ in range(2):
        await world.reconciler.reconcile(KEY)

    assert ended == [KEY]
