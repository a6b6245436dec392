"""Specs that change at random, against a cluster in memory: whatever is asked for, it is decided upon.

At many times the pace of the walks on a real API server. Here nobody refuses what the CRD's rules forbid:
that, too, may be told of, and nothing else. OPERATOR_SEED repeats the walks; it is printed where they fail.
"""

from __future__ import annotations

import random
from typing import Any

from evolving_operator.api.models import ConditionStatus
from evolving_operator.testing.simulation import Simulation
from support.seeds import drawn_seed
from support.spec_walk import SpecWalk
from support.walking import BACK_EVERY, STORAGES, seed_spec

Raw = dict[str, Any]

WALKS, TRANSITIONS = 2 * len(STORAGES), 80


async def test_whatever_a_spec_asks_for_is_decided_upon_and_then_it_is_quiet() -> None:
    seed = drawn_seed()
    for number in range(seed, seed + WALKS):
        world, walker = Simulation(), SpecWalk(random.Random(number))
        spec = await home(world, number, 0)
        for transition in range(1, TRANSITIONS + 1):
            step = walker.step(spec)
            print(f"seed {number}, {transition}: {step}")
            world.apply_agent(step.spec)

            await world.settle()  # raises what deciding raises, and where it does not end

            degraded = world.condition("Degraded")
            is_refused = degraded.status is ConditionStatus.TRUE
            assert not is_refused or degraded.message
            spec = step.spec
            if is_refused or transition % BACK_EVERY == 0:
                spec = await home(world, number, transition)


async def home(world: Simulation, seed: int, transition: int) -> Raw:
    """The seed's spec is served, and a new revision is a candidate: what comes next meets it on its way."""
    spec = seed_spec(seed)
    await world.serve(spec)
    revision = await world.train(f"model-{transition}", job=f"support-finetune-{transition}")
    assert world.status.candidate is not None
    assert world.status.candidate.revision == revision
    return spec
