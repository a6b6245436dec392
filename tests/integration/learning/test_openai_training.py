"""Fine-tuning at a provider, over HTTP: exactly one paid job, whatever crashes when."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from evolving_agent.contract import env
from evolving_agent.contract.report import Outcome, TrainingReport
from evolving_agent.curation.dataset import latest_manifest
from evolving_agent.store.layout import StoreLayout
from evolving_agent.testing.experience import ROUTE_TOOL, write_log
from evolving_agent.testing.jobs import JobBench
from evolving_agent.training import job, openai_backend
from evolving_agent.training.run_state import Phase, all_states
from evolving_agent.training.triggers import MAX_ATTEMPTS
from support.cluster import eventually
from support.learning import RunningProvider, curate, learning_config, taught_requests


def trained(bench: JobBench, run_id: str = "train-1") -> tuple[int, TrainingReport]:
    code, report = bench.run(job.run, run_id)
    assert isinstance(report, TrainingReport)
    return code, report


@pytest.fixture
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_backend, "FIRST_PAUSE_SECONDS", 0.02)


def test_a_dataset_becomes_a_model_that_has_learned_it(bench: JobBench, provider: RunningProvider) -> None:
    code, report = trained(bench)

    assert (code, report.outcome, report.reason) == (env.EXIT_OK, Outcome.SUCCEEDED, "Trained")
    dataset = latest_manifest(bench.layout)
    assert dataset is not None
    assert report.dataset == dataset.ref
    assert (report.base, report.backend) == ("base-model", "OpenAI")
    assert report.job_id is not None
    assert report.trained_tokens
    assert provider.count("fine_tuning_jobs_created") == provider.count("files_created") == 1
    with openai.OpenAI(base_url=provider.base_url, api_key="x") as client:
        told: Any = client.fine_tuning.jobs.retrieve(report.job_id)
        assert told.user_provided_suffix == "support"
        assert told.hyperparameters.n_epochs == 3

        def answer(model: str | None) -> Any:
            return (
                client.chat.completions.create(
                    model=model or "",
                    messages=[{"role": "user", "content": "Could you lend me money?"}],
                    tools=[ROUTE_TOOL],  # type: ignore[list-item]  # a dictionary of the very shape
                )
                .choices[0]
                .message
            )

        assert answer("base-model").tool_calls is None
        assert answer(report.model_id).tool_calls[0].function.arguments == '{"team":"loans"}'


class SimulatedCrashError(BaseException):
    """Ends the run where it stands, as SIGKILL would: nobody catches it."""


@pytest.mark.parametrize("committed", [True, False], ids=["after-the-write", "before-the-write"])
@pytest.mark.parametrize("crash_at", [1, 2, 3, 4])
@pytest.mark.usefixtures("_short_pauses")
def test_a_crash_at_any_write_of_the_state_costs_no_second_job(
    bench: JobBench,
    provider: RunningProvider,
    monkeypatch: pytest.MonkeyPatch,
    crash_at: int,
    committed: bool,
) -> None:
    real = StoreLayout.replace
    writes = 0

    def crashing(*given: Any) -> None:
        nonlocal writes
        writes += 1
        if writes != crash_at:
            real(*given)
            return
        if committed:
            real(*given)
        raise SimulatedCrashError

    monkeypatch.setattr(StoreLayout, "replace", crashing)
    with pytest.raises(SimulatedCrashError):
        bench.run(job.run, "train-1")
    monkeypatch.setattr(StoreLayout, "replace", real)

    code, report = trained(bench)
    assert (code, report.outcome) == (env.EXIT_OK, Outcome.SUCCEEDED)
    assert report.model_id is not None
    assert provider.count("fine_tuning_jobs_created") == 1
    assert provider.count("files_created") == 1


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(lambda provider: provider.count("files_created"), id="uploaded"),
        pytest.param(lambda provider: provider.count("fine_tuning_jobs_created"), id="created"),
        pytest.param(lambda provider: provider.count("requests_jobs") >= 3, id="polling"),
    ],
)
def test_a_killed_process_is_gone_on_with(
    bench: JobBench, provider: RunningProvider, moment: Callable[[RunningProvider], bool]
) -> None:
    # With latency, the provider has carried out what the killed process has not heard of yet.
    provider.control(job_seconds=2.0, latency_seconds=0.4)
    bench.termination_log.unlink()  # the curation's
    process = subprocess.Popen(
        [sys.executable, "-c", "from evolving_agent.training import job; raise SystemExit(job.main())"],
        env={**os.environ, **bench.variables, env.RUN_ID: "train-1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: moment(provider), 30, "the run is where it is to be killed")
    finally:
        process.kill()
        process.wait()
    assert not bench.termination_log.exists()
    provider.reset()

    code, report = trained(bench)
    assert (code, report.outcome) == (env.EXIT_OK, Outcome.SUCCEEDED)
    assert provider.count("fine_tuning_jobs_created") == 1


@pytest.mark.usefixtures("_short_pauses")
def test_a_creation_whose_answer_was_lost_is_not_repeated(bench: JobBench, provider: RunningProvider) -> None:
    provider.control(commit_then_fail=1)
    _, report = trained(bench)
    assert report.outcome is Outcome.SUCCEEDED
    assert provider.count("fine_tuning_jobs_created") == 1


@pytest.mark.usefixtures("_short_pauses")
@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("area", ["files", "jobs"])
def test_errors_that_pass_are_waited_out(
    bench: JobBench, provider: RunningProvider, status: int, area: str
) -> None:
    provider.control(errors_area=area, errors_status=status, errors_count=3)
    _, report = trained(bench)
    assert report.outcome is Outcome.SUCCEEDED
    assert provider.count("fine_tuning_jobs_created") == 1


@pytest.mark.usefixtures("_short_pauses")
def test_an_outage_ends_the_attempt_for_a_retry_which_goes_on(
    bench: JobBench, provider: RunningProvider
) -> None:
    provider.control(outage=True)
    code, report = trained(bench)
    assert (code, report.reason) == (env.EXIT_RETRY, "TrainingEndpointUnavailable")
    assert "503" in report.message
    provider.reset()
    _, report = trained(bench)
    assert report.outcome is Outcome.SUCCEEDED


def test_a_provider_that_does_not_train_for_this_account_is_a_permanent_failure(
    bench: JobBench, provider: RunningProvider
) -> None:
    provider.control(training_not_available=True)
    for attempt in range(MAX_ATTEMPTS + 1):  # nothing was begun, so no attempt is used up
        code, report = trained(bench, f"train-{attempt}")
        assert (code, report.outcome, report.reason) == (
            env.EXIT_PERMANENT,
            Outcome.FAILED,
            "TrainingNotAvailable",
        )
        assert "LoRA" in report.message
    assert provider.count("fine_tuning_jobs_created") == 0

    provider.reset()
    _, report = trained(bench, "train-later")
    assert report.outcome is Outcome.SUCCEEDED


def test_a_missing_base_model_names_what_to_change(bench: JobBench, provider: RunningProvider) -> None:
    learning = learning_config(provider.base_url).model_copy(update={"base_model": "no-such-model"})
    bench.configure(learning)
    code, report = trained(bench)
    assert (code, report.reason) == (env.EXIT_PERMANENT, "BaseModelNotTrainable")
    assert "spec.model.base" in report.message


def test_a_failed_job_is_reported_in_the_providers_words_and_tried_again_a_few_times(
    bench: JobBench, provider: RunningProvider
) -> None:
    for attempt in range(1, MAX_ATTEMPTS + 1):
        provider.control(fail_next_job="the moderation system refused line 7")
        code, report = trained(bench, f"train-{attempt}")
        assert (code, report.reason) == (env.EXIT_PERMANENT, "TrainingFailed")
        assert "refused line 7" in report.message
        assert provider.count("fine_tuning_jobs_created") == attempt
    _, report = trained(bench, "train-last")
    assert (report.outcome, report.reason) == (Outcome.SKIPPED, "GivenUp")
    assert "refused line 7" in report.message
    assert provider.count("fine_tuning_jobs_created") == MAX_ATTEMPTS


def test_a_job_that_takes_too_long_is_cancelled(
    bench: JobBench, provider: RunningProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.control(job_seconds=600)
    learning = learning_config(provider.base_url)
    assert learning.training is not None
    monkeypatch.setattr(job, "DEADLINE_MARGIN_SECONDS", 59)
    hasty = learning.training.model_copy(update={"active_deadline_seconds": 60})
    bench.configure(learning.model_copy(update={"training": hasty}))
    code, report = trained(bench)
    assert (code, report.reason) == (env.EXIT_PERMANENT, "DeadlineExceeded")
    assert provider.count("fine_tuning_jobs_cancelled") == 1


def test_a_report_that_was_lost_is_made_again_without_training(
    bench: JobBench, provider: RunningProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise SimulatedCrashError

    with monkeypatch.context() as patched:
        patched.setattr("evolving_agent.reporting.publish", killed)
        with pytest.raises(SimulatedCrashError):
            bench.run(job.run, "train-1")
    _, again = trained(bench, "train-2")
    assert (again.outcome, again.reason) == (Outcome.SUCCEEDED, "ReportedAgain")
    assert again.model_id is not None

    _, same_run = trained(bench, "train-2")
    assert same_run == again
    _, later_run = trained(bench, "train-3")
    assert (later_run.reason, later_run.model_id) == ("AlreadyTrained", again.model_id)
    assert provider.count("fine_tuning_jobs_created") == 1


def test_new_examples_train_again_only_when_there_are_enough(
    bench: JobBench, provider: RunningProvider
) -> None:
    _, first = trained(bench)
    write_log(bench.layout, taught_requests(40, 44))
    curate(bench, "curate-2")
    _, few = trained(bench, "train-2")
    assert (few.outcome, few.reason) == (Outcome.SKIPPED, "NotEnoughNewExamples")

    write_log(bench.layout, taught_requests(44, 54))
    learning = learning_config(provider.base_url)
    assert learning.training is not None
    eager = learning.training.model_copy(
        update={"thresholds": learning.training.thresholds.model_copy(update={"min_new_examples": 5})}
    )
    bench.configure(learning.model_copy(update={"training": eager}))
    curate(bench, "curate-3")
    _, second = trained(bench, "train-3")
    assert second.outcome is Outcome.SUCCEEDED
    assert second.model_id != first.model_id
    assert provider.count("fine_tuning_jobs_created") == 2


@pytest.mark.usefixtures("_short_pauses")
def test_a_training_under_way_is_cancelled_when_its_settings_are_not_wanted_any_more(
    bench: JobBench, provider: RunningProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.control(job_seconds=600)

    def killed(_: float) -> None:
        raise SimulatedCrashError

    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", killed)
        with pytest.raises(SimulatedCrashError):
            bench.run(job.run, "train-1")
    provider.reset()
    bench.configure(learning_config(provider.base_url, epochs=5))
    _, report = trained(bench)
    assert report.outcome is Outcome.SUCCEEDED
    assert provider.count("fine_tuning_jobs_cancelled") == 1
    superseded, finished = all_states(bench.layout)
    assert (superseded.phase, superseded.failure_reason) == (Phase.FAILED, "Superseded")
    assert finished.phase is Phase.TRAINED
