"""Training in this pod: a LoRA adapter, written to the volume that the model server reads."""

from __future__ import annotations

import logging
from pathlib import Path

from evolving_agent.contract.learning import LoRABackend
from evolving_agent.reporting import JobError
from evolving_agent.training.backends import Order, Trained, TrainingFailedError
from evolving_agent.training.lora.backend import LoRAError, train_and_publish
from evolving_agent.training.run_state import RunFile

log = logging.getLogger(__name__)


class LoRATraining:
    """Runs the trainer. Its work is kept in the store, so that a restarted pod goes on."""

    def __init__(self, settings: LoRABackend, adapters: Path, work_dir: Path, model_endpoint: str) -> None:
        self.endpoint = str(adapters)
        self._settings = settings
        self._adapters = adapters
        self._work_dir = work_dir
        self._model_endpoint = model_endpoint

    def train(self, order: Order, run: RunFile) -> Trained:
        # Versioned and immutable: the name changes with base, dataset and settings.
        model_id = f"{order.suffix}-{run.state.key}"
        try:
            result = train_and_publish(
                order.dataset_dir,
                work_dir=self._work_dir / run.state.key,
                adapters=self._adapters,
                model_id=model_id,
                settings=self._settings,
                dataset_format=order.dataset_format,
                hyperparameters=order.hyperparameters,
                endpoint=self._model_endpoint,
                on_progress=lambda progress: log.info("%s", progress),
            )
        except LoRAError as error:
            if error.reason == "InvalidTrainingData":  # no setting helps this dataset
                raise TrainingFailedError(error.reason, error.message) from error
            raise JobError(error.reason, error.message, permanent=error.permanent) from error
        return Trained(result.model_id, result.trained_tokens)

    def cancel(self, run: RunFile) -> None:
        """A training in this pod ends with the pod: there is nothing to cancel."""
        log.info("training %s is not gone on with", run.state.key)

    def close(self) -> None:
        """It holds no connection."""
