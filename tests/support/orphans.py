"""What `kubectl delete --cascade=orphan` does to an agent's objects."""

from __future__ import annotations

from evolving_operator.api import names
from evolving_operator.cluster.kinds import OWNED
from evolving_operator.testing.simulation import Simulation


def orphan(world: Simulation) -> None:
    """As the garbage collector does on `kubectl delete --cascade=orphan`, before the agent itself goes."""
    (agent,) = world.cluster.all(names.AGENT_KIND)
    for kind in OWNED:
        for raw in world.cluster.all(kind.kind):
            owners = raw["metadata"].get("ownerReferences") or []
            if any(owner["uid"] == agent["metadata"]["uid"] for owner in owners):
                del raw["metadata"]["ownerReferences"]
                world.cluster.put(raw)
