"""The memory of training runs: one state file per (base, dataset, backend, hyperparameters).

The state is written before and after every step that costs money, so that whatever crashes when, the
next attempt goes on where this one was, and never pays for the same training twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import ValidationError

from evolving_agent.contract.base import Document, canonical_json, digest
from evolving_agent.contract.learning import BackendType, LearningConfig, Training
from evolving_agent.contract.report import DatasetRef
from evolving_agent.reporting import JobError
from evolving_agent.store.layout import StoreLayout

KIND = "training"
STATE_FILE = "state.json"


class Phase(StrEnum):
    STARTED = "Started"
    TRAINED = "Trained"
    FAILED = "Failed"


@dataclass(frozen=True)
class Identity:
    """What makes two trainings the same one."""

    base: str
    dataset: DatasetRef
    backend: BackendType
    hyperparameters_digest: str

    @classmethod
    def of(cls, learning: LearningConfig, training: Training, dataset: DatasetRef) -> Identity:
        return cls(
            base=learning.base_model,
            dataset=dataset,
            backend=training.backend.type,
            hyperparameters_digest=digest(training.hyperparameter_values(dataset.format)),
        )

    @property
    def key(self) -> str:
        """8 hex digits, the same as those of the revision that the operator makes of the result."""
        return digest([self.base, self.dataset.digest, self.backend.value, self.hyperparameters_digest])


class TrainingState(Document):
    """How far one training has come. `attempt` counts from 1; a failed one may be followed by another."""

    version: int = 1
    key: str
    base: str
    dataset: DatasetRef
    backend: BackendType
    hyperparameters_digest: str
    endpoint: str
    attempt: int
    phase: Phase
    started: datetime
    finished: datetime | None = None
    file_id: str | None = None
    job_id: str | None = None
    job_since: datetime | None = None
    model_id: str | None = None
    trained_tokens: int | None = None
    failure_reason: str | None = None
    failure_message: str | None = None

    @classmethod
    def begin(cls, identity: Identity, endpoint: str, attempt: int) -> TrainingState:
        return cls(
            key=identity.key,
            base=identity.base,
            dataset=identity.dataset,
            backend=identity.backend,
            hyperparameters_digest=identity.hyperparameters_digest,
            endpoint=endpoint,
            attempt=attempt,
            phase=Phase.STARTED,
            started=datetime.now(UTC),
        )

    @property
    def identity(self) -> Identity:
        return Identity(self.base, self.dataset, self.backend, self.hyperparameters_digest)


class RunFile:
    """One training's state, in memory and on disk: `update` changes both."""

    def __init__(self, layout: StoreLayout, state: TrainingState) -> None:
        self._layout = layout
        self._path = layout.run(KIND, state.key) / STATE_FILE
        self.state = state
        self._write()

    def update(self, **changes: object) -> None:
        """Sets fields of the state and returns when they are on disk.

        Raises StoreBusyError where another run has gone on with this training.
        """
        self.state = self.state.model_copy(update=changes)
        self._write()

    def end(self, phase: Phase, **changes: object) -> None:
        self.update(phase=phase, finished=datetime.now(UTC), **changes)

    def _write(self) -> None:
        self._layout.replace(self._path, canonical_json(self.state.to_wire()).encode())


def all_states(layout: StoreLayout) -> list[TrainingState]:
    """The states of all trainings in the store, the latest begun last.

    Raises JobError where one cannot be read: training without knowing what was trained could pay twice.
    """
    layout.pull(layout.runs(KIND))
    states = []
    for path in layout.runs(KIND).glob(f"*/{STATE_FILE}"):
        try:
            states.append(TrainingState.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as problem:
            raise JobError("StateUnreadable", f"{path}: {problem}", permanent=True) from problem
    return sorted(states, key=lambda state: state.started)
