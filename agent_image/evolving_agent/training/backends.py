"""What every training backend is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evolving_agent.contract.base import encodable
from evolving_agent.contract.learning import DatasetFormat, Hyperparameters
from evolving_agent.training.run_state import RunFile


@dataclass(frozen=True)
class Order:
    """One training as a backend gets it."""

    agent: str
    suffix: str
    dataset_dir: Path
    dataset_format: DatasetFormat
    hyperparameters: Hyperparameters
    deadline_seconds: int  # from the creation of the provider's job


@dataclass(frozen=True)
class Trained:
    model_id: str
    trained_tokens: int | None = None


class TrainingFailedError(Exception):
    """This attempt has ended without a model; only a new attempt can bring one."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = encodable(message)


class Backend(Protocol):
    @property
    def endpoint(self) -> str:
        """Where it trains: IDs of files and jobs mean something only there."""

    def train(self, order: Order, run: RunFile) -> Trained:
        """Trains, or goes on with what `run` says has been begun.

        Raises TrainingFailedError when the attempt is over, JobError when it cannot go on for now (it is
        resumed) or until somebody acts.
        """

    def cancel(self, run: RunFile) -> None:
        """Stops what has been begun and is not wanted any more; does nothing where there is nothing."""

    def close(self) -> None:
        """Ends connections; the backend is not used after that."""
