"""An API server in memory that takes no object of one kind, for as long as a test wants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from evolving_operator.cluster.errors import Forbidden
from evolving_operator.core.plan import Manifest
from evolving_operator.testing.simulation import Simulation


@contextmanager
def refused(world: Simulation, kind: str) -> Iterator[None]:
    """Each apply of such an object is forbidden."""
    apply = world.cluster.apply

    async def refusing(manifest: Manifest) -> dict[str, Any]:
        if manifest["kind"] == kind:
            raise Forbidden(f"{kind}: exceeded quota")
        return await apply(manifest)

    world.cluster.apply = refusing  # type: ignore[method-assign]
    try:
        yield
    finally:
        world.cluster.apply = apply  # type: ignore[method-assign]
