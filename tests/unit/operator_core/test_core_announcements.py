"""Which differences of two statuses are told as Events."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_operator.api.models import Condition, ConditionStatus, EvolvingAgentStatus
from evolving_operator.core.announcements import announcements, note_of
from evolving_operator.testing.fake_cluster import Crash, Fault
from evolving_operator.testing.simulation import Simulation

Spec = dict[str, Any]
CANARY = {"canary": {"steps": [{"percent": 10, "pauseSeconds": 600}]}}


def status(ready: ConditionStatus | None) -> EvolvingAgentStatus:
    if ready is None:
        return EvolvingAgentStatus()
    condition = Condition(
        type="Ready", status=ready, reason=f"Ready{ready}", last_transition_time="2026-03-02T12:00:00Z"
    )
    return EvolvingAgentStatus(conditions=(condition,))


def reasons(before: ConditionStatus | None, after: ConditionStatus) -> list[str]:
    return [told.reason for told in announcements(status(before), status(after), "1")]


def test_an_agent_that_becomes_ready_is_announced_whether_or_not_it_was_seen_to_start() -> None:
    assert reasons(ConditionStatus.FALSE, ConditionStatus.TRUE) == ["ReadyTrue"]
    assert reasons(None, ConditionStatus.TRUE) == ["ReadyTrue"]


def test_an_agent_that_stays_ready_or_is_not_yet_is_not_announced() -> None:
    assert reasons(ConditionStatus.TRUE, ConditionStatus.TRUE) == []
    assert reasons(None, ConditionStatus.FALSE) == []


def test_a_note_is_as_long_as_an_event_may_be_in_bytes() -> None:
    # the API server refuses what is longer than 1024 bytes: the Event would be lost
    long = note_of("Слишком длинное сообщение. " * 100)

    assert long.startswith("Слишком длинное сообщение. ")
    assert 990 < len(long.encode()) <= 1000
    assert note_of("ä" * 500) == "ä" * 500


def notes(world: Simulation, reason: str) -> list[str]:
    found = [raw for raw in world.cluster.all("Event") if raw["reason"] == reason]
    return [raw["note"] for raw in sorted(found, key=lambda raw: raw["eventTime"])]


async def test_a_revision_that_is_nominated_once_more_is_announced_once_more(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    revision = await world.train()
    for decision in ("Rejected", "Approved"):
        world.pass_time(60)
        world.decide(revision, decision)
        await world.settle()

    assert world.events().count("CandidateFound") == 2
    assert world.events().count("CandidateDropped") == 1


@pytest.mark.parametrize("reason", ["CandidateFound", "CanaryStep"])
async def test_what_is_decided_twice_is_announced_once(world: Simulation, spec: Spec, reason: str) -> None:
    """The operator dies between the Event and the status that it tells of; there is another soon."""
    await world.serve(spec | {"rollout": CANARY})
    told = world.cluster.create

    async def dying(manifest: Spec) -> Spec:
        if manifest.get("reason") == reason and not notes(world, reason):
            world.cluster.faults.append(Fault(at=0, error=Crash(), when="after"))
        return await told(manifest)

    world.cluster.create = dying  # type: ignore[method-assign]
    with pytest.raises(Crash):
        await world.evaluate(await world.train(), lower=2000)
    world.pass_time(15)
    world.restart()
    await world.settle()
    if reason == "CandidateFound":
        assert world.status.candidate is not None
    else:
        assert world.status.rollout is not None

    assert len(notes(world, reason)) == 1


async def test_a_trial_that_ends_without_an_outcome_is_announced_and_so_is_the_next(
    world: Simulation, spec: Spec
) -> None:
    trying = spec | {"rollout": CANARY}
    await world.serve(trying)
    await world.evaluate(await world.train(), lower=2000)
    for edited in (trying | {"suspend": True}, trying):
        world.pass_time(60)
        world.apply_agent(edited)
        await world.settle()

    assert len(notes(world, "CanaryStep")) == 2
    [ended] = notes(world, "CanaryEnded")
    assert "spec.suspend: nothing is promoted." in ended


async def test_a_trial_that_ends_in_a_promotion_is_not_said_to_come_to_nothing(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec | {"rollout": CANARY})
    await world.evaluate(await world.train(), lower=2000)
    world.pass_time(601)
    await world.settle()

    assert world.events().count("Promoted") == 1
    assert notes(world, "CanaryEnded") == []


async def test_of_problems_that_take_turns_each_is_announced_once(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    for reason in ("CreateContainerConfigError", "ImagePullBackOff") * 3:
        for pod in world.node.pods("support", "agent"):
            waiting = {"waiting": {"reason": reason, "message": "secret not found"}}
            pod["status"]["containerStatuses"][0]["state"] = waiting
            world.cluster.put(pod)
        world.pass_time(60)
        await world.settle()

    assert len(notes(world, "SecretNotFound")) == 2  # once for all, and once after the other
    assert len(notes(world, "ImagePullFailed")) == 1
    assert notes(world, "Recovered") == []

    world.node.roll_out("support")
    await world.settle()
    assert len(notes(world, "Recovered")) == 1


async def test_an_older_verdict_is_no_news(world: Simulation, spec: Spec) -> None:
    """It is shown again where the candidate that was being evaluated goes."""
    await world.serve(spec)
    await world.evaluate(await world.train(), lower=-3000, delta=-2000)
    for number in (2, 3):
        world.pass_time(3600)
        await world.train(f"smollm2-ft-{number}", job=f"support-finetune-{number}")
    assert world.status.candidate is not None
    world.decide(world.status.candidate.revision, "Rejected")
    await world.settle()

    assert world.condition("Evaluated").reason == "VerdictFailed"
    assert world.events().count("VerdictFailed") == 1


async def test_a_candidate_that_is_just_being_made_was_not_deleted(world: Simulation, spec: Spec) -> None:
    await world.serve(spec | {"rollout": CANARY})
    await world.evaluate(await world.train(), lower=2000)
    newer = await world.train("smollm2-ft-2", job="support-finetune-2")

    [ended] = notes(world, "CanaryEnded")
    assert f"{newer} is to be evaluated" in ended
    assert "deleted" not in ended
