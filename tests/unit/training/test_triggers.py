"""When a training is due, and the reason when it is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from evolving_agent.contract.config import Endpoint
from evolving_agent.contract.learning import (
    AdapterVolume,
    BackendType,
    Curation,
    DatasetFormat,
    Hyperparameters,
    LearningConfig,
    LoRABackend,
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


def dataset(
    first: int, last: int, tokens: int = 10_000, kind: DatasetFormat = DatasetFormat.SUPERVISED
) -> Manifest:
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
        conflicts=0, redacted={}, dropped={}, settings=Curation(schedule="@daily", format=kind),
        lineage=lineage,
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


def pairs(first: int, last: int) -> Manifest:
    return dataset(first, last, kind=DatasetFormat.PREFERENCE)


@pytest.mark.parametrize(
    ("latest", "last_trained", "wanted", "reason", "words"),
    [
        (pairs(0, 50), None, DatasetFormat.PREFERENCE, None, ""),
        (pairs(0, 50), None, None, None, ""),  # nothing is curated any more: what is there will do
        (pairs(0, 50), None, DatasetFormat.SUPERVISED, "DatasetOfOtherFormat", "is Preference, and"),
        (dataset(0, 50), None, DatasetFormat.PREFERENCE, "DatasetOfOtherFormat", "is now Preference"),
        (pairs(0, 49), None, DatasetFormat.PREFERENCE, "NotEnoughNewExamples", "49 of 50 new pairs"),
        (pairs(0, 99), pairs(0, 50), DatasetFormat.PREFERENCE, "NotEnoughNewExamples", "49 of 50 new pairs"),
        # what was trained as an example has not been trained as a pair
        (pairs(0, 50), dataset(0, 50), DatasetFormat.PREFERENCE, None, ""),
        (dataset(0, 50), pairs(0, 50), DatasetFormat.SUPERVISED, None, ""),
    ],
)
def test_pairs_and_examples_are_counted_apart_and_trained_only_as_wanted(
    latest: Manifest,
    last_trained: Manifest | None,
    wanted: DatasetFormat | None,
    reason: str | None,
    words: str,
) -> None:
    objection = objection_to(replace(candidate(latest, last_trained), wanted_format=wanted))
    assert (objection.reason if objection else None) == reason
    assert words in (objection.message if objection else "")


def with_beta(percent: int | None) -> LearningConfig:
    training = TRAINING.model_copy(update={"hyperparameters": Hyperparameters(beta_percent=percent)})
    return LEARNING.model_copy(update={"training": training})


def test_beta_is_part_of_the_identity_of_preference_training_alone() -> None:
    def key(learning: LearningConfig, of: Manifest) -> str:
        assert learning.training is not None
        return Identity.of(learning, learning.training, of.ref).key

    assert key(with_beta(20), pairs(0, 50)) != key(with_beta(None), pairs(0, 50))
    assert key(with_beta(10), pairs(0, 50)) == key(with_beta(None), pairs(0, 50))
    assert key(with_beta(None), pairs(0, 50)) != key(with_beta(None), dataset(0, 50))
    assert key(with_beta(20), dataset(0, 50)) == key(with_beta(None), dataset(0, 50))


def test_an_upgrade_leaves_the_identity_of_supervised_training_as_it_was() -> None:
    """Another key would train, and pay for, every dataset once more."""
    lora = LoRABackend(adapter_volume=AdapterVolume(claim_name="adapters"))
    backend = TrainingBackend(type=BackendType.LORA, lora=lora)
    in_pod = TRAINING.model_copy(update={"backend": backend})
    learning = LEARNING.model_copy(update={"training": in_pod})

    assert Identity.of(LEARNING, TRAINING, dataset(0, 50).ref).key == "00f5e31b"
    assert Identity.of(learning, in_pod, dataset(0, 50).ref).key == "2ced5e3d"
