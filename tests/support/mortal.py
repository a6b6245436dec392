"""An operator that may die while it works, in a world in memory."""

from __future__ import annotations

from typing import Literal

from hypothesis import strategies as st

from evolving_operator.testing.fake_cluster import Crash, Fault
from evolving_operator.testing.simulation import Simulation

Death = tuple[int, Literal["before", "after"]]  # at which of its writes, and on which side of it

DEATHS: st.SearchStrategy[Death | None] = st.none() | st.tuples(
    st.integers(min_value=0, max_value=8), st.sampled_from(["before", "after"])
)


async def settle(world: Simulation, death: Death | None) -> None:
    """Let the operator work; if it dies on the way, a new one starts."""
    if death is not None:
        at, when = death
        world.cluster.faults.append(Fault(at=at, error=Crash(), when=when))
    try:
        await world.settle()
    except Crash:
        world.restart()
        await world.settle()
    finally:
        world.cluster.faults.clear()
