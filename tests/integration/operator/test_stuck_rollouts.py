"""Ways in which rollouts of Argo Rollouts got stuck, as published by its users; told of revisions of ours.

Each test names the issue of argoproj/argo-rollouts that it is the story of.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from evolving_operator.api import names
from support.cluster import RunningCluster, eventually_async
from support.lives import Life, World
from support.node import BAD_IMAGE
from support.recording_proxy import Strike, WatchFault
from support.stories import (
    LEARNING,
    NAME,
    base_revision,
    has_rollout,
    is_current,
    is_well,
    merged,
    promote,
    revision,
    serves,
    train,
)

pytestmark = pytest.mark.cluster

Raw = dict[str, Any]

RESYNC = {"EVOLVING_OPERATOR_RESYNC_SECONDS": "10"}
_SECONDS = 60


@pytest_asyncio.fixture
async def life(cluster_with_crds: RunningCluster, tmp_path: Path) -> AsyncIterator[Life]:
    """An agent whose base model is served."""
    async with World(cluster_with_crds, tmp_path, RESYNC) as world, world.life() as lived:
        await lived.scene.replace(merged(LEARNING.spec, {"rollout": {"progressDeadlineSeconds": 600}}))
        await lived.scene.reach("the base model is served", is_well)
        yield lived
        assert lived.exits == []


async def begin_rollout(life: Life, number: int) -> None:
    """A model is trained, passes, and is on its way to the pods."""
    await train(number)(life.scene)
    await promote(revision(number))(life.scene)
    await life.scene.reach(f"the restart for revision {number}", is_on_its_way(number))


def is_on_its_way(number: int) -> Any:
    def is_it(agent: Raw | None) -> bool:
        assert agent is not None
        rollout = agent["status"]["rollout"]
        return (rollout["revision"], rollout["step"]) == (revision(number), "Restart")

    return is_it


async def let_new_pods_wait(life: Life, state: Raw | None = None) -> None:
    """Pods with another configuration than the present one do not become ready; nor do they crash."""
    await life.scene.only_present_pods_are_well()
    life.scene.ward.bad_state, life.scene.ward.bad_restarts = state or BAD_IMAGE, 0


async def assert_nothing_else_is_left_running(life: Life) -> None:
    """Only the ReplicaSet of the Deployment's present template has pods."""

    async def is_alone() -> bool:
        found = await life.scene.api.list(life.scene.namespace, "replicasets")
        running = [raw for raw in found if raw.get("status", {}).get("replicas")]
        stamps = [
            raw["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_CONFIG_HASH]
            for raw in running
        ]
        assert stamps == [await life.scene.stamp()], stamps
        return True

    await eventually_async(is_alone, _SECONDS, "one ReplicaSet with pods")


async def test_a_count_that_went_stale_with_a_missed_event_does_not_end_in_a_rollback(life: Life) -> None:
    """#3316: an event about a ReplicaSet is lost; its old count is believed until the deadline has passed."""
    await let_new_pods_wait(life)
    await begin_rollout(life, 1)

    life.proxy.watch_fault = WatchFault.MUTED
    await life.scene.all_pods_are_well()
    await eventually_async(lambda: _is_rolled_out(life), _SECONDS, "the Deployment is rolled out")
    await asyncio.sleep(1)  # what is told of it now is lost: the watch that goes on does not repeat it
    life.proxy.watch_fault = None

    await life.scene.reach("the rollout's end", has_rollout(revision(1), "Done"))
    await life.scene.reach("revision 1 is served", serves(revision(1)))
    await assert_nothing_else_is_left_running(life)


async def _is_rolled_out(life: Life) -> bool:
    deployment = await life.scene.api.get(life.scene.namespace, "deployments", NAME)
    assert deployment is not None
    status, wanted = deployment["status"], deployment["spec"]["replicas"]
    counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")]
    is_seen = status["observedGeneration"] == deployment["metadata"]["generation"]
    return is_seen and counts == [wanted] * 3


@pytest.mark.parametrize("watch_fault", [None, WatchFault.DELAYED, WatchFault.REORDERED], ids=str)
async def test_an_old_copy_does_not_take_the_place_of_a_newer_one(
    life: Life, watch_fault: WatchFault | None
) -> None:
    """#4073, #4044: the answer to a write goes into the cache, over what a watch has brought since.

    Here answers come late, or what the watches tell does, or in the wrong order.
    """
    life.proxy.watch_fault = watch_fault
    for target in (f"PATCH deployments/{NAME}", f"PATCH configmaps/{NAME}-config"):
        life.proxy.targets[target] = Strike.SLOW
    await begin_rollout(life, 1)

    await life.scene.reach("the rollout's end", has_rollout(revision(1), "Done"))
    life.proxy.watch_fault = None
    assert {point.strike for point in life.proxy.struck} == {Strike.SLOW}
    # Who believes an old copy writes again what is there already, or takes it back.
    templates = [write for write in life.proxy.writes if str(write) == f"PATCH deployments/{NAME}"]
    assert len(templates) == 2
    await assert_nothing_else_is_left_running(life)


async def test_an_edit_supersedes_a_rollout_under_way(life: Life) -> None:
    """#3331: a rollout begun on top of another one gets stuck, and so does the one below."""
    await let_new_pods_wait(life)
    await begin_rollout(life, 1)
    stuck = await life.scene.stamp()

    await life.scene.apply(agent={"instructions": "You route requests, and say why."})
    await life.scene.reach("the edit is seen", is_current)
    await eventually_async(lambda: _has_other_stamp(life, stuck), _SECONDS, "the newer configuration")
    await life.scene.all_pods_are_well()

    await life.scene.reach("the rollout's end", has_rollout(revision(1), "Done"))
    await assert_nothing_else_is_left_running(life)


async def _has_other_stamp(life: Life, stamp: str) -> bool:
    return await life.scene.stamp() != stamp


async def test_a_pin_supersedes_a_rollout_under_way(life: Life) -> None:
    """#3331, by a person: what is on its way is given up at once, and does not come back."""
    await let_new_pods_wait(life)
    await begin_rollout(life, 1)

    await life.scene.apply(rollout={"pin": base_revision()})

    await life.scene.reach("the pinned revision is served", serves(base_revision()))
    await assert_nothing_else_is_left_running(life)


async def test_a_newer_candidate_follows_a_rollout_that_went_back(life: Life) -> None:
    """#3331, by learning: what was trained while a rollout was stuck comes to its turn."""
    await life.scene.apply(rollout={"progressDeadlineSeconds": 10})
    await life.scene.reach("the edit is dealt with", is_well)
    await let_new_pods_wait(life)
    await begin_rollout(life, 1)
    await train(2)(life.scene)
    await promote(revision(2))(life.scene)
    await life.scene.reach("revision 2 is the candidate", _has_candidate(2))

    await life.scene.reach("revision 1 went back", _is_rolled_back(1))
    await life.scene.all_pods_are_well()

    await life.scene.reach("revision 2 is served", has_rollout(revision(2), "Done"))
    await assert_nothing_else_is_left_running(life)


def _has_candidate(number: int) -> Any:
    return lambda agent: agent["status"]["candidate"]["revision"] == revision(number)


def _is_rolled_back(number: int) -> Any:
    def is_it(agent: Raw | None) -> bool:
        assert agent is not None
        rollout = agent["status"].get("rollout")
        went_back = rollout is not None and (rollout["revision"], rollout["step"]) == (
            revision(number),
            "RolledBack",
        )
        # or has gone already, with the next one on its way
        return went_back or agent["status"]["active"]["revision"] != revision(number)

    return is_it


async def test_after_a_rollback_the_next_revision_rolls_out(life: Life) -> None:
    """#2048: after an abort, the pods of the repaired revision were scaled down as soon as they came."""
    await life.scene.only_present_pods_are_well()
    await train(1)(life.scene)
    await promote(revision(1))(life.scene)
    await life.scene.reach("revision 1 went back", has_rollout(revision(1), "RolledBack"))

    await life.scene.all_pods_are_well()
    await begin_rollout(life, 2)

    await life.scene.reach("revision 2 is served", has_rollout(revision(2), "Done"))
    await life.scene.reach("all is well", serves(revision(2)))
    await assert_nothing_else_is_left_running(life)


async def test_after_a_person_stopped_a_rollout_the_next_revision_rolls_out(life: Life) -> None:
    """#2048, by hand: stopped by a pin, which is taken away again."""
    await let_new_pods_wait(life)
    await begin_rollout(life, 1)
    await life.scene.apply(rollout={"pin": base_revision()})
    await life.scene.reach("the pinned revision is served", serves(base_revision()))

    await life.scene.all_pods_are_well()
    await life.scene.apply(rollout={"pin": ""})
    await begin_rollout(life, 2)

    await life.scene.reach("revision 2 is served", has_rollout(revision(2), "Done"))
    await assert_nothing_else_is_left_running(life)


async def test_the_second_bad_revision_goes_back_as_the_first_did(life: Life) -> None:
    """#3988: the deadline counted for the first broken revision, and not for the next one."""
    await life.scene.apply(rollout={"progressDeadlineSeconds": 10})
    await life.scene.reach("the edit is dealt with", is_well)
    await let_new_pods_wait(life)
    for number in (1, 2):
        await train(number)(life.scene)
        await promote(revision(number))(life.scene)
        await life.scene.reach(f"revision {number} went back", has_rollout(revision(number), "RolledBack"))
        found = await life.scene.api.get(life.scene.namespace, names.REVISION_PLURAL, revision(number))
        assert found is not None
        assert found["status"]["rollbackReason"].startswith("ProgressDeadlineExceeded")
    await assert_nothing_else_is_left_running(life)
