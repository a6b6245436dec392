"""Fine-tuning at any provider with OpenAI's API. The only place that speaks it.

Exactly one paid job per attempt: the provider offers no idempotency keys, so a job is looked for, by the
mark that it carries, before one is created; and a creation whose answer was lost is looked for again
instead of being repeated. The mark is in the job's metadata, and in the name of its training file for
providers that keep no metadata.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import openai
from openai.types.fine_tuning import FineTuningJob

from evolving_agent.contract.base import digest
from evolving_agent.contract.learning import DatasetFormat, OpenAIBackend
from evolving_agent.curation.dataset import TRAIN_FILE
from evolving_agent.reporting import JobError
from evolving_agent.training.backends import Order, Trained, TrainingFailedError
from evolving_agent.training.run_state import RunFile, TrainingState

METADATA_KEY = "evolving_agents_run"
AGENT_METADATA_KEY = "evolving_agents_agent"
ATTEMPTS_PER_CALL = 5
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
REQUEST_TIMEOUT_SECONDS = 120.0
_STILL_WORTH_TRYING = {408, 409, 425, 429}

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class OpenAIFineTuning:
    """Uploads the dataset, creates the job, waits for its model."""

    def __init__(
        self, base_url: str, api_key: str | None, settings: OpenAIBackend, agent_uid: str = ""
    ) -> None:
        """What is made at the provider carries the agent's UID: by it, it is found once the agent is gone."""
        self.endpoint = base_url
        self._settings = settings
        self._agent_uid = agent_uid
        # No retries inside the client: it would repeat the creation of a job whose answer was lost.
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=api_key or "no-key-needed",
            max_retries=0,
            timeout=REQUEST_TIMEOUT_SECONDS,
        )

    def close(self) -> None:
        self._client.close()

    def train(self, order: Order, run: RunFile) -> Trained:
        if run.state.file_id is None and run.state.job_id is None:
            run.update(file_id=self._uploaded(order, run.state))
        if run.state.job_id is None:
            run.update(job_id=self._created(order, run.state), job_since=datetime.now(UTC))
        return self._finished(order, run.state)

    def cancel(self, run: RunFile) -> None:
        """Cancels the job of a run that is not wanted any more, also one whose ID was never noted."""
        job_id = run.state.job_id
        if job_id is None:
            found = self._patiently(lambda: self._find_job(run.state))
            job_id = found.id if found is not None else None
        if job_id is not None:
            self._cancel_job(job_id)

    # --- the steps --------------------------------------------------------------------------------

    def _uploaded(self, order: Order, state: TrainingState) -> str:
        """The provider's ID of the training file: of one uploaded before, if its answer was lost."""
        content = (order.dataset_dir / TRAIN_FILE).read_bytes()
        known = self._patiently(lambda: self._find_files(state))
        complete = [file_id for file_id, size in known if size == len(content)]
        if complete:
            return complete[0]
        file = self._patiently(
            lambda: self._client.files.create(file=(self._file_name(state), content), purpose="fine-tune")
        )
        log.info("uploaded %s (%d bytes) as %s", self._file_name(state), len(content), file.id)
        return file.id

    def _created(self, order: Order, state: TrainingState) -> str:
        def find_or_create() -> FineTuningJob:
            found = self._find_job(state)
            if found is not None:
                log.info("job %s was created by an earlier attempt", found.id)
                return found
            made = self._client.fine_tuning.jobs.create(
                model=state.base,
                training_file=state.file_id or "",
                suffix=order.suffix,
                seed=order.hyperparameters.seed,
                metadata={METADATA_KEY: _mark(state)}
                | ({AGENT_METADATA_KEY: self._agent_uid} if self._agent_uid else {}),
                method=self._method(order),
            )
            log.info("created job %s", made.id)
            return made

        return self._patiently(find_or_create).id

    def _method(self, order: Order) -> Any:
        """The method that fits the dataset: the provider refuses a file of the other format."""
        if order.dataset_format is DatasetFormat.SUPERVISED:
            return {"type": "supervised", "supervised": {"hyperparameters": self._tuning(order)}}
        beta = {"beta": order.hyperparameters.effective_beta_percent / 100}
        return {"type": "dpo", "dpo": {"hyperparameters": self._tuning(order) | beta}}

    def _tuning(self, order: Order) -> dict[str, Any]:
        values: dict[str, Any] = {"n_epochs": order.hyperparameters.epochs}
        if order.hyperparameters.batch_size is not None:
            values["batch_size"] = order.hyperparameters.batch_size
        if self._settings.learning_rate_multiplier_percent is not None:
            values["learning_rate_multiplier"] = self._settings.learning_rate_multiplier_percent / 100
        return values

    def _finished(self, order: Order, state: TrainingState) -> Trained:
        """Waits for the job's end. A provider that cannot be reached works on: only the deadline counts."""
        job_id = state.job_id or ""
        since = state.job_since or state.started
        pause, last_status = FIRST_PAUSE_SECONDS, ""
        while True:
            try:
                job = self._client.fine_tuning.jobs.retrieve(job_id)
            except openai.APIError as error:
                self._raise_unless_transient(error)
                log.warning("job %s: %s; asking again", job_id, _words(error))
            else:
                elapsed = (datetime.now(UTC) - since).total_seconds()
                if job.status != last_status:
                    log.info("job %s is %s after %.0f s", job_id, job.status, elapsed)
                    last_status = job.status
                if job.status == "succeeded" and job.fine_tuned_model:
                    return Trained(job.fine_tuned_model, job.trained_tokens)
                if job.status in ("failed", "cancelled"):
                    said = (
                        job.error.message
                        if job.error is not None and job.error.message
                        else "no reason given"
                    )
                    raise TrainingFailedError("TrainingFailed", f"job {job_id} {job.status}: {said}")
            if (datetime.now(UTC) - since).total_seconds() > order.deadline_seconds:
                self._cancel_job(job_id)
                raise TrainingFailedError(
                    "DeadlineExceeded",
                    f"job {job_id} took longer than {order.deadline_seconds} s; it is cancelled",
                )
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)

    # --- looking for what is there ----------------------------------------------------------------

    def _find_files(self, state: TrainingState) -> list[tuple[str, int]]:
        """(ID, size) of uploaded files with this run's name."""
        name = self._file_name(state)
        files = self._client.files.list(purpose="fine-tune")
        return [(file.id, file.bytes) for file in files if file.filename == name]

    def _file_name(self, state: TrainingState) -> str:
        return f"{file_prefix(self._agent_uid)}{_mark(state)}.jsonl"

    def _find_job(self, state: TrainingState) -> FineTuningJob | None:
        files = {file_id for file_id, _ in self._find_files(state)}
        for job in self._client.fine_tuning.jobs.list(limit=100):
            marked = (job.metadata or {}).get(METADATA_KEY) == _mark(state)
            if marked or job.training_file in files:
                return job
        return None

    def _cancel_job(self, job_id: str) -> None:
        try:
            self._client.fine_tuning.jobs.cancel(job_id)
        except openai.APIError as error:  # it may have ended by itself, which is as good
            log.warning("job %s could not be cancelled: %s", job_id, _words(error))

    # --- errors -----------------------------------------------------------------------------------

    def _patiently(self, call: Callable[[], Result]) -> Result:
        """Calls again, with growing pauses, while the provider fails in a way that passes."""
        pause = FIRST_PAUSE_SECONDS
        for attempt in range(1, ATTEMPTS_PER_CALL + 1):
            try:
                return call()
            except openai.APIError as error:
                self._raise_unless_transient(error)
                if attempt == ATTEMPTS_PER_CALL:
                    raise JobError(
                        "TrainingEndpointUnavailable", f"{self.endpoint}: {_words(error)}", permanent=False
                    ) from error
                log.warning("%s; trying again in %.1f s", _words(error), pause)
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        raise AssertionError("unreachable: the last attempt raises")

    def _raise_unless_transient(self, error: openai.APIError) -> None:
        """Raises the JobError that a person must act upon; returns for what passes by itself."""
        if not isinstance(error, openai.APIStatusError):
            return
        status, code = error.status_code, error.code or ""
        if code == "training_not_available":
            reason = "TrainingNotAvailable"
            advice = "set training.backend.openAI.endpoint to a provider that trains, or use the LoRA backend"
        elif code == "insufficient_quota":
            reason, advice = "QuotaExhausted", "raise the account's limit"
        elif status >= 500 or status in _STILL_WORTH_TRYING:
            return
        elif status in (401, 403):
            reason, advice = "TrainingCredentialsRejected", "check the endpoint's apiKeySecretRef"
        elif code == "model_not_found":
            reason, advice = (
                "BaseModelNotTrainable",
                "spec.model.base must be a model that this provider trains",
            )
        elif status in (404, 405):
            reason = "TrainingNotSupported"
            advice = "there is no fine-tuning API in OpenAI's shape; check training.backend.openAI.endpoint"
        else:
            reason, advice = "TrainingRefused", "the provider refused the request"
        raise JobError(reason, f"{self.endpoint}: {_words(error)}; {advice}", permanent=True) from error


def _mark(state: TrainingState) -> str:
    return f"{state.key}-{state.attempt}"


def file_prefix(agent_uid: str) -> str:
    """How the names of an agent's uploaded files begin."""
    return f"evolving-agents-{digest(agent_uid)}-" if agent_uid else "evolving-agents-"


def _words(error: openai.APIError) -> str:
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}: {error.message}"
    cause = error.__cause__
    return f"{error.message} ({cause})" if cause is not None and str(cause) else error.message
