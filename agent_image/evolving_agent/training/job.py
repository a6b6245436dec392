"""The training Job: the latest dataset → a model, when the triggers say so; exactly once."""

from __future__ import annotations

import logging
from contextlib import closing

from evolving_agent.contract import env
from evolving_agent.contract.learning import (
    BackendType,
    DatasetFormat,
    LearningConfig,
    OpenAIBackend,
    Training,
)
from evolving_agent.contract.report import MAX_MESSAGE_CHARS, Outcome, Report, TrainingReport, parse_report
from evolving_agent.curation.dataset import DatasetError, Manifest, latest_manifest, read_manifest
from evolving_agent.reporting import JobContext, JobError, log_to_stderr, run_job
from evolving_agent.store.durable import StoreBusyError
from evolving_agent.store.layout import StoreLayout
from evolving_agent.training.backends import Backend, Order, TrainingFailedError
from evolving_agent.training.lora_backend import LoRATraining
from evolving_agent.training.openai_backend import OpenAIFineTuning
from evolving_agent.training.run_state import (
    KIND,
    Identity,
    Phase,
    RunFile,
    TrainingState,
    all_states,
)
from evolving_agent.training.triggers import Candidate, objection_to

DEADLINE_MARGIN_SECONDS = 30  # to stop the provider's job and report before Kubernetes stops this one
log = logging.getLogger(__name__)


def main() -> int:
    """The container's entry: returns its exit code."""
    log_to_stderr()
    return run(JobContext.from_environment())


def run(context: JobContext) -> int:
    return run_job(KIND, finetune, _failed, context)


def _failed(context: JobContext, reason: str, message: str) -> Report:
    return TrainingReport(run_id=context.run_id, outcome=Outcome.FAILED, reason=reason, message=message)


def finetune(context: JobContext) -> TrainingReport:
    """Trains if it is due, or goes on with a training that was interrupted.

    Raises JobError for what a person must correct, and for what passes.
    """
    learning = context.learning()
    training = learning.training
    if training is None:
        return _skipped(context, "TrainingNotConfigured", "the agent's spec has no training block")
    try:
        with (
            context.layout.exclusive(context.layout.runs(KIND) / ".lock", context.run_id),
            closing(_backend(context, learning, training)) as backend,
        ):
            return _finetune(context, learning, training, backend)
    except StoreBusyError as busy:
        raise JobError("AnotherRunIsActive", str(busy), permanent=False) from busy
    except DatasetError as problem:
        raise JobError("DatasetUnreadable", str(problem), permanent=False) from problem


def _finetune(
    context: JobContext, learning: LearningConfig, training: Training, backend: Backend
) -> TrainingReport:
    layout = context.layout
    states = all_states(layout)

    unreported = _unreported(layout, states)
    if unreported is not None:
        return _trained(context, unreported, "ReportedAgain")

    for state in states:
        if state.phase is not Phase.STARTED:
            continue
        if (
            Identity.of(learning, training, state.dataset) == state.identity
            and _wanted_format(learning) in (None, state.dataset.format)
            and state.endpoint == backend.endpoint
        ):
            log.info("going on with training %s, begun at %s", state.key, state.started)
            return _train(context, learning, training, backend, RunFile(layout, state))
        _abandon(backend, RunFile(layout, state))

    dataset = latest_manifest(layout)
    if dataset is None:
        return _skipped(context, "NoDataset", "no dataset has been curated yet")
    identity = Identity.of(learning, training, dataset.ref)
    states = all_states(layout)
    candidate = Candidate(
        identity, dataset, _last_trained(layout, states), states, training, _wanted_format(learning)
    )
    objection = objection_to(candidate)
    known = candidate.state
    if objection is not None:
        if known is not None and known.phase is Phase.TRAINED:
            return _trained(context, known, objection.reason)
        return _skipped(context, objection.reason, objection.message)
    attempt = known.attempt + 1 if known is not None else 1
    begun = RunFile(layout, TrainingState.begin(identity, backend.endpoint, attempt))
    return _train(context, learning, training, backend, begun)


def _train(
    context: JobContext, learning: LearningConfig, training: Training, backend: Backend, run: RunFile
) -> TrainingReport:
    context.layout.pull(context.layout.dataset(run.state.dataset.version))
    order = Order(
        agent=learning.agent,
        suffix=training.suffix or learning.agent,
        dataset_dir=context.layout.dataset(run.state.dataset.version),
        dataset_format=run.state.dataset.format,
        hyperparameters=training.hyperparameters,
        deadline_seconds=training.active_deadline_seconds - DEADLINE_MARGIN_SECONDS,
    )
    try:
        trained = backend.train(order, run)
    except TrainingFailedError as failure:
        message = failure.message[:MAX_MESSAGE_CHARS]
        run.end(Phase.FAILED, failure_reason=failure.reason, failure_message=message)
        raise JobError(failure.reason, message, permanent=True) from failure
    except JobError as error:
        if error.permanent and run.state.job_id is None:
            # Nothing was begun: once a person has acted, the then latest dataset is trained, by this attempt.
            run.end(
                Phase.FAILED,
                attempt=run.state.attempt - 1,
                failure_reason=error.reason,
                failure_message=error.message,
            )
        raise
    run.end(Phase.TRAINED, model_id=trained.model_id, trained_tokens=trained.trained_tokens)
    return _trained(context, run.state, "Trained")


def _abandon(backend: Backend, run: RunFile) -> None:
    """Ends a training whose settings are not wanted any more; its job should not go on costing money."""
    if run.state.endpoint == backend.endpoint:
        backend.cancel(run)
    run.end(Phase.FAILED, failure_reason="Superseded", failure_message="the training settings were changed")
    log.info("training %s is superseded by other settings", run.state.key)


def _wanted_format(learning: LearningConfig) -> DatasetFormat | None:
    """What is curated now; None where nothing is, and any dataset that is there will do."""
    return learning.curation.format if learning.curation is not None else None


def _backend(context: JobContext, learning: LearningConfig, training: Training) -> Backend:
    chosen = training.backend
    if chosen.type is BackendType.LORA:
        if chosen.lora is None:
            raise JobError("InvalidConfig", "training.backend.lora is missing", permanent=True)
        adapters = context.path(env.ADAPTERS, env.DEFAULT_ADAPTERS)
        work_dir = context.layout.runs(KIND) / "work"
        return LoRATraining(chosen.lora, adapters, work_dir, learning.endpoint.base_url)
    settings = chosen.open_ai or OpenAIBackend()
    # An endpoint of its own may be another's server: the model endpoint's key is none of its business.
    endpoint, variable = (
        (learning.endpoint, env.API_KEY)
        if settings.endpoint is None
        else (settings.endpoint, env.TRAINING_API_KEY)
    )
    key = context.variables.get(variable)
    return OpenAIFineTuning(endpoint.base_url, key, settings, context.variables.get(env.AGENT_UID, ""))


def _unreported(layout: StoreLayout, states: list[TrainingState]) -> TrainingState | None:
    """The latest trained model, where no report has ever named it."""
    trained = [state for state in states if state.phase is Phase.TRAINED]
    if not trained:
        return None
    for path in layout.runs(KIND).glob("*/report.json"):
        report = parse_report(path.read_text())
        if isinstance(report, TrainingReport) and report.model_id == trained[-1].model_id:
            return None
    return trained[-1]


def _last_trained(layout: StoreLayout, states: list[TrainingState]) -> Manifest | None:
    trained = [state for state in states if state.phase is Phase.TRAINED]
    if not trained:
        return None
    try:
        return read_manifest(layout, trained[-1].dataset.version)
    except DatasetError as gone:
        log.warning("the dataset that was trained last is gone, all examples count as new: %s", gone)
        return None


def _trained(context: JobContext, state: TrainingState, reason: str) -> TrainingReport:
    return TrainingReport(
        run_id=context.run_id,
        outcome=Outcome.SUCCEEDED,
        reason=reason,
        message=f"{state.model_id} was trained from {state.base} on {state.dataset.examples} "
        f"{state.dataset.format.examples} of {state.dataset.version}",
        base=state.base,
        model_id=state.model_id,
        backend=state.backend.value,
        job_id=state.job_id,
        dataset=state.dataset,
        hyperparameters_digest=state.hyperparameters_digest,
        trained_tokens=state.trained_tokens,
    )


def _skipped(context: JobContext, reason: str, message: str) -> TrainingReport:
    return TrainingReport(
        run_id=context.run_id,
        outcome=Outcome.SKIPPED,
        reason=reason,
        message=message[:MAX_MESSAGE_CHARS],
    )
