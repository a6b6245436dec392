"""When a training is due, and the reason when it is not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from evolving_agent.contract.config import Endpoint
from evolving_agent.contract.learning import (
    BackendType,
    Curation,
    Hyperparameters,
    LearningConfig,
    Training,
    TrainingBackend,
    TrainingThresholds,
)
from evolving_agent.curation.dataset import Lineage, Manifest
from evolving_agent.training.run_state import Identity, Phase, TrainingState
from evolving_agent.training.triggers import MAX_ATTEMPTS, Candidate, objection_to

TRAINING = Training(
    schedule="@daily",
    backend=TrainingBackend(type=BackendType.OPENAI),
    thresholds=TrainingThresholds(min_new_examples=50, max_tokens=30_000),
)
LEARNING = LearningConfig(agent="support", base_model="base", endpoint=Endpoint(), training=TRAINING)


def dataset(first: int, last: int, tokens: int = 10_000) -> Manifest:
    lineage = tuple(
        Lineage(
            split="train",
            line=n,
            input=str(n),
            episode=str(n),
            reflection="r",
            trust="x",
            task_type="general",
        )
        for n in range(first, last)
    )
    return Manifest(
        version=f"ds-{first}-{last}", digest=f"{first}-{last}", created="2026-01-01T00:00:00Z",
        examples=len(lineage), holdout=0, estimated_tokens=tokens, episodes=0, reflections=0, quarantined=0,
        conflicts=0, redacted={}, dropped={}, settings=Curation(schedule="@daily"), lineage=lineage,
    )  # fmt: skip


def candidate(latest: Manifest, last_trained: Manifest | None = None, *states: TrainingState) -> Candidate:
    return Candidate(Identity.of(LEARNING, TRAINING, latest.ref), latest, last_trained, states, TRAINING)


def state_of(of: Manifest, phase: Phase, attempt: int = 1) -> TrainingState:
    begun = TrainingState.begin(Identity.of(LEARNING, TRAINING, of.ref), "http://x", attempt)
    return begun.model_copy(
        update={
            "phase": phase, "model_id": "ft:1", "failure_reason": "TrainingFailed",
            "failure_message": "out of memory", "finished": datetime.now(UTC),
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "reason", "words"),
    [
        (candidate(dataset(0, 50)), None, ""),
        (candidate(dataset(0, 49)), "NotEnoughNewExamples", "49 of 50 new examples"),
        (candidate(dataset(20, 149), dataset(0, 100)), "NotEnoughNewExamples", "49 of 50 new examples since"),
        (candidate(dataset(0, 150), dataset(0, 100)), None, ""),
        (candidate(dataset(0, 50, tokens=10_001)), "TooManyTokens", "30003"),
        (
            candidate(dataset(0, 50), dataset(0, 50), state_of(dataset(0, 50), Phase.TRAINED)),
            "AlreadyTrained",
            "ft:1",
        ),
        (candidate(dataset(0, 50), None, state_of(dataset(0, 50), Phase.FAILED, MAX_ATTEMPTS - 1)), None, ""),
        (
            candidate(dataset(0, 50), None, state_of(dataset(0, 50), Phase.FAILED, MAX_ATTEMPTS)),
            "GivenUp",
            "out of memory",
        ),
        # what happened to another dataset does not matter
        (candidate(dataset(0, 50), None, state_of(dataset(1, 51), Phase.FAILED, MAX_ATTEMPTS)), None, ""),
    ],
)
def test_the_first_policy_that_objects_gives_the_reason(
    given: Candidate, reason: str | None, words: str
) -> None:
    objection = objection_to(given)
    assert (objection.reason if objection else None) == reason
    assert words in (objection.message if objection else "")


def test_the_identity_changes_with_what_is_learned_and_not_with_where() -> None:
    ref = dataset(0, 50).ref
    key = Identity.of(LEARNING, TRAINING, ref).key
    longer = LEARNING.model_copy(
        update={"training": TRAINING.model_copy(update={"hyperparameters": Hyperparameters(epochs=9)})}
    )
    elsewhere = LEARNING.model_copy(update={"endpoint": Endpoint(base_url="http://elsewhere/v1")})
    assert longer.training is not None
    assert Identity.of(longer, longer.training, ref).key != key
    assert Identity.of(LEARNING, TRAINING, dataset(0, 51).ref).key != key
    assert Identity.of(elsewhere, TRAINING, ref).key == key
