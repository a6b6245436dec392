"""Preference, from the log to a model: pairs are curated and trained by the method that fits them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn

from evolving_agent.contract.config import Endpoint
from evolving_agent.contract.learning import (
    AdapterVolume,
    BackendType,
    DatasetFormat,
    Hyperparameters,
    LoRABackend,
    TrainingBackend,
)
from evolving_agent.contract.report import Outcome, TrainingReport
from evolving_agent.curation.dataset import latest_manifest
from evolving_agent.testing.experience import ROUTE_TOOL, write_log
from evolving_agent.testing.jobs import JobBench
from evolving_agent.training import job
from evolving_agent.training.run_state import Phase, all_states
from evolving_model_server.app import create_app
from support.cluster import eventually
from support.learning import RunningProvider, curate, learning_config, of_format, taught_requests
from support.scripted_engine import ScriptedEngine
from support.tiny_model import save_tiny_model


def trained(bench: JobBench, run_id: str = "train-1") -> TrainingReport:
    _, report = bench.run(job.run, run_id)
    assert isinstance(report, TrainingReport)
    return report


@pytest.fixture
def in_pairs(bench: JobBench, provider: RunningProvider) -> JobBench:
    """The store of `bench`, whose 40 corrections are curated as pairs."""
    bench.configure(of_format(learning_config(provider.base_url), DatasetFormat.PREFERENCE, 25))
    assert curate(bench, "curate-2").format is DatasetFormat.PREFERENCE
    return bench


def test_pairs_are_trained_at_the_provider_by_dpo(in_pairs: JobBench, provider: RunningProvider) -> None:
    report = trained(in_pairs)

    assert (report.outcome, report.reason) == (Outcome.SUCCEEDED, "Trained")
    manifest = latest_manifest(in_pairs.layout)
    assert manifest is not None
    assert report.dataset == manifest.ref
    assert f"on {manifest.examples} pairs of" in report.message
    with openai.OpenAI(base_url=provider.base_url, api_key="x") as client:
        told: Any = client.fine_tuning.jobs.retrieve(report.job_id or "")
        assert told.method.type == "dpo"
        assert told.method.dpo.hyperparameters.to_dict() == {
            "n_epochs": 3, "beta": 0.25, "batch_size": 1, "learning_rate_multiplier": 1.0
        }  # fmt: skip
        [choice] = client.chat.completions.create(
            model=report.model_id or "",
            messages=[{"role": "user", "content": "Could you lend me money?"}],
            tools=[ROUTE_TOOL],  # type: ignore[list-item]  # a dictionary of the very shape
        ).choices
    made: Any = choice.message.tool_calls
    assert made[0].function.arguments == '{"team":"loans"}'


def test_a_dataset_of_the_other_format_is_never_trained_by_the_wrong_method(
    bench: JobBench, provider: RunningProvider
) -> None:
    # given examples that were trained, and a spec that wants pairs from now on
    first = trained(bench)
    wanted = of_format(learning_config(provider.base_url), DatasetFormat.PREFERENCE)
    bench.configure(wanted)
    write_log(bench.layout, taught_requests(40, 50))

    # when training comes before curation, it reports what there is, and trains nothing
    report = trained(bench, "train-2")
    assert (report.reason, report.model_id) == ("AlreadyTrained", first.model_id)

    # then the next curation makes pairs, each of which is new
    assert curate(bench, "curate-2").format is DatasetFormat.PREFERENCE
    second = trained(bench, "train-3")
    assert (second.reason, second.outcome) == ("Trained", Outcome.SUCCEEDED)
    assert second.hyperparameters_digest != first.hyperparameters_digest

    # and back again, before there are examples again
    bench.configure(of_format(wanted, DatasetFormat.SUPERVISED))
    write_log(bench.layout, taught_requests(50, 54))
    assert trained(bench, "train-4").reason == "AlreadyTrained"
    curate(bench, "curate-3")
    with openai.OpenAI(base_url=provider.base_url, api_key="x") as client:
        methods = [told.method.type for told in client.fine_tuning.jobs.list() if told.method]
    assert methods == ["dpo", "supervised"]
    assert provider.count("fine_tuning_jobs_created") == 2


def test_an_untrained_dataset_of_the_other_format_waits_for_curation(
    bench: JobBench, provider: RunningProvider
) -> None:
    bench.configure(of_format(learning_config(provider.base_url), DatasetFormat.PREFERENCE))

    report = trained(bench)

    assert (report.outcome, report.reason) == (Outcome.SKIPPED, "DatasetOfOtherFormat")
    assert "curation.format is now Preference" in report.message
    assert provider.count("files_created") == 0


def test_a_training_under_way_is_ended_when_the_other_format_is_wanted(
    bench: JobBench, provider: RunningProvider
) -> None:
    provider.control(job_seconds=600)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("time.sleep", _killed)
        with pytest.raises(KilledError):
            bench.run(job.run, "train-1")
    bench.configure(of_format(learning_config(provider.base_url), DatasetFormat.PREFERENCE))

    assert trained(bench, "train-2").reason == "DatasetOfOtherFormat"

    assert provider.count("fine_tuning_jobs_cancelled") == 1
    (state,) = all_states(bench.layout)
    assert (state.phase, state.failure_reason) == (Phase.FAILED, "Superseded")


class KilledError(BaseException):
    """Nobody catches it."""


def _killed(_: float) -> None:
    raise KilledError


@contextmanager
def running_model_server(adapters: Path) -> Iterator[str]:
    """The model server's own HTTP API on a free port of the loopback; only what it says is scripted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = create_app(ScriptedEngine(lambda _: "Yes."), "tiny", adapters, queue_limit=2)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            eventually(lambda: server.started, 10, "the model server listens")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join(timeout=10)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers about itself
def test_pairs_are_trained_in_the_pod_by_dpo(in_pairs: JobBench, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="only the trainer has torch")
    base = save_tiny_model(tmp_path / "tiny")
    in_pairs.adapters.mkdir()
    with running_model_server(in_pairs.adapters) as endpoint:
        learning = of_format(learning_config(endpoint), DatasetFormat.PREFERENCE)
        assert learning.training is not None
        lora = LoRABackend(
            base_model_path=str(base),
            adapter_volume=AdapterVolume(claim_name="adapters"),
            rank=4,
            learning_rate_micros=10_000,
        )
        training = learning.training.model_copy(
            update={
                "backend": TrainingBackend(type=BackendType.LORA, lora=lora),
                "hyperparameters": Hyperparameters(epochs=2),
            }
        )
        changes = {"training": training, "base_model": "tiny", "endpoint": Endpoint(base_url=endpoint)}
        in_pairs.configure(learning.model_copy(update=changes))

        report = trained(in_pairs)

        assert (report.outcome, report.reason) == (Outcome.SUCCEEDED, "Trained"), report.message
        assert report.model_id is not None
        with openai.OpenAI(base_url=endpoint, api_key="x") as client:
            assert report.model_id in [model.id for model in client.models.list()]
    told = json.loads((in_pairs.adapters / report.model_id / "training.json").read_text())
    manifest = latest_manifest(in_pairs.layout)
    assert manifest is not None
    assert told["examples"] == manifest.examples
    assert told["reward_margin"] > 0
    assert report.trained_tokens == told["trained_tokens"]
