"""Children that are on their way out: a finalizer holds them, and nothing brings them back."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_operator.testing.simulation import Simulation

CHILDREN = [
    ("PersistentVolumeClaim", "support-store"),
    ("ConfigMap", "support-config"),
    ("ServiceAccount", "support"),
    ("Deployment", "support"),
    ("Service", "support"),
    ("PodDisruptionBudget", "support"),
    ("CronJob", "support-curate"),
]


@pytest.fixture
def spec() -> dict[str, Any]:
    return {
        "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models/v1"}},
        "agent": {"instructions": "You route requests.", "replicas": 2},
        "curation": {"schedule": "0 3 * * *"},
    }


def delete_slowly(world: Simulation, kind: str, name: str) -> None:
    """As `kubectl delete` does where a finalizer holds the object: pods that use a claim, foreground deletion."""
    raw = world.cluster.get(kind, name)
    assert raw is not None
    raw["metadata"]["deletionTimestamp"] = "2026-03-02T12:00:00Z"
    world.cluster.put(raw)


@pytest.mark.parametrize(("kind", "name"), CHILDREN, ids=[kind for kind, _ in CHILDREN])
async def test_a_child_that_is_held_is_waited_for_and_then_made_anew(
    world: Simulation, spec: dict[str, Any], kind: str, name: str
) -> None:
    await world.serve(spec)
    world.cluster.writes.clear()

    delete_slowly(world, kind, name)
    await world.settle()

    # nothing that is written to it would keep it
    assert [write for write in world.cluster.writes if write.kind == kind] == []

    before = world.cluster.get(kind, name)
    world.cluster.remove(kind, name)
    await world.settle()

    after = world.cluster.get(kind, name)
    assert before is not None
    assert after is not None
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert "deletionTimestamp" not in after["metadata"]


async def test_a_volume_that_is_going_is_told_of(world: Simulation, spec: dict[str, Any]) -> None:
    await world.serve(spec)

    delete_slowly(world, "PersistentVolumeClaim", "support-store")
    await world.settle()

    degraded = world.condition("Degraded")
    assert degraded.reason == "VolumeBeingDeleted"
    assert "support-store" in degraded.message
    assert "VolumeBeingDeleted" in world.events()
    assert world.condition("Ready").reason == "Serving"

    world.cluster.remove("PersistentVolumeClaim", "support-store")
    await world.settle()
    assert world.condition("Degraded").reason == "AsExpected"
