"""Is a training due? Ordered policies: the first that objects gives the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evolving_agent.contract.learning import DatasetFormat, Training
from evolving_agent.curation.dataset import Manifest
from evolving_agent.training.run_state import Identity, Phase, TrainingState

MAX_ATTEMPTS = 3  # per dataset and settings; a provider that fails as often will not do better tomorrow


@dataclass(frozen=True)
class Candidate:
    """The training that could begin now. `last_trained` is the dataset of the latest finished one."""

    identity: Identity
    dataset: Manifest
    last_trained: Manifest | None
    states: Sequence[TrainingState]
    training: Training
    wanted_format: DatasetFormat | None = None  # None: whatever the dataset is

    @property
    def state(self) -> TrainingState | None:
        """Of this very training, where it was begun before."""
        return next((state for state in self.states if state.key == self.identity.key), None)


@dataclass(frozen=True)
class Objection:
    reason: str
    message: str


def not_trained_yet(candidate: Candidate) -> Objection | None:
    state = candidate.state
    if state is None or state.phase is not Phase.TRAINED:
        return None
    return Objection(
        "AlreadyTrained", f"dataset {candidate.dataset.version} has been trained: it gave {state.model_id}"
    )


def attempts_are_left(candidate: Candidate) -> Objection | None:
    state = candidate.state
    if state is None or state.phase is not Phase.FAILED or state.attempt < MAX_ATTEMPTS:
        return None
    return Objection(
        "GivenUp",
        f"training of dataset {candidate.dataset.version} failed {state.attempt} times, the last time with "
        f"{state.failure_reason}: {state.failure_message}; new examples or other settings start afresh",
    )


def is_of_the_wanted_format(candidate: Candidate) -> Objection | None:
    found, wanted = candidate.dataset.settings.format, candidate.wanted_format
    if wanted is None or found is wanted:
        return None
    return Objection(
        "DatasetOfOtherFormat",
        f"dataset {candidate.dataset.version} is {found.value}, and curation.format is now {wanted.value}: "
        "the next curation makes such a one",
    )


def enough_is_new(candidate: Candidate) -> Objection | None:
    known: set[str] = set()
    last, found = candidate.last_trained, candidate.dataset.settings.format
    if last is not None and last.settings.format is found:  # what was an example before is new as a pair
        known = {row.episode for row in last.lineage if row.split == "train"}
    new = sum(1 for row in candidate.dataset.lineage if row.split == "train" and row.episode not in known)
    least = candidate.training.thresholds.min_new_examples
    if new >= least:
        return None
    since = f" since {last.version}" if last is not None else ""
    return Objection("NotEnoughNewExamples", f"{new} of {least} new {found.examples}{since}")


def affordable(candidate: Candidate) -> Objection | None:
    epochs = candidate.training.hyperparameters.epochs
    tokens = candidate.dataset.estimated_tokens * epochs
    most = candidate.training.thresholds.max_tokens
    if tokens <= most:
        return None
    return Objection(
        "TooManyTokens",
        f"about {tokens} tokens ({candidate.dataset.estimated_tokens} in {epochs} epochs) are more than the "
        f"{most} of training.thresholds.maxTokens",
    )


POLICIES: tuple[Callable[[Candidate], Objection | None], ...] = (
    not_trained_yet,
    attempts_are_left,
    is_of_the_wanted_format,
    enough_is_new,
    affordable,
)


def objection_to(candidate: Candidate) -> Objection | None:
    """Why this training should not begin; None where it should."""
    return next((found for policy in POLICIES if (found := policy(candidate)) is not None), None)
