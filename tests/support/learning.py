"""What tests of learning share: a provider on a real port, settings, and a bank's taught requests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from evolving_agent.contract.config import Endpoint
from evolving_agent.contract.learning import (
    BackendType,
    Curation,
    CurationThresholds,
    DatasetFormat,
    Evaluation,
    Hyperparameters,
    LearningConfig,
    Suite,
    Training,
    TrainingBackend,
    TrainingThresholds,
)
from evolving_agent.contract.report import DatasetRef
from evolving_agent.contract.tools import HTTPTool
from evolving_agent.curation import job as curation_job
from evolving_agent.curation.dataset import latest_manifest
from evolving_agent.store.records import Record
from evolving_agent.testing.experience import episode, routed_to
from evolving_agent.testing.jobs import JobBench
from evolving_agent.testing.provider import Provider, application
from support.cluster import eventually

TOPICS = {
    "cards": (
        "my credit card is bent",
        "the debit card was swallowed by a machine",
        "I need a new bank card",
    ),
    "loans": (
        "I want to borrow money for a house",
        "the interest on my mortgage",
        "can you lend me some money",
    ),
    "transfers": (
        "send dollars to my aunt abroad",
        "the payment went to a wrong account",
        "a wire from Spain",
    ),
}
# Nobody listens there: evaluations are dry, and the untaught model calls no tool.
ROUTE = HTTPTool(
    type="HTTP",
    name="route_request",
    description="Hands the request to a team.",
    url="http://127.0.0.1:9/route",
    parameters={
        "type": "object",
        "properties": {"team": {"type": "string", "enum": [*TOPICS]}},
        "required": ["team"],
    },
)
SITUATIONS = (
    "before we travel in summer",
    "because nothing else has worked so far",
    "as quickly as possible please",
    "and nobody at the branch could help",
    "what would I have to do",
    "this is for my company",
)
REQUESTS = [
    (f"{words}, {situation}", team)
    for situation in SITUATIONS
    for team, phrasings in TOPICS.items()
    for words in phrasings
]


@dataclass
class RunningProvider:
    """A provider double, asked over HTTP as everybody else asks it."""

    root: str

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"

    def control(self, **faults: Any) -> None:
        httpx.post(f"{self.root}/control", json=faults).raise_for_status()

    def reset(self) -> None:
        httpx.post(f"{self.root}/control/reset").raise_for_status()

    def count(self, counter: str) -> int:
        counters: dict[str, int] = httpx.get(f"{self.root}/control/counters").json()
        return counters.get(counter, 0)


@contextmanager
def running_provider(job_seconds: float = 0.5) -> Iterator[RunningProvider]:
    """Serves one on a free port of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = application(Provider(["base-model"], job_seconds))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            eventually(lambda: server.started, 10, "the provider listens")
            yield RunningProvider(f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def learning_config(base_url: str, *, epochs: int = 3, suites: tuple[Suite, ...] = ()) -> LearningConfig:
    """Curation and training at the provider, with thresholds that small data meets."""
    return LearningConfig(
        agent="support",
        base_model="base-model",
        endpoint=Endpoint(base_url=base_url),
        curation=Curation(
            schedule="@daily",
            thresholds=CurationThresholds(max_task_type_percent=100),
            holdout_percent=30,
        ),
        training=Training(
            schedule="@daily",
            backend=TrainingBackend(type=BackendType.OPENAI),
            hyperparameters=Hyperparameters(epochs=epochs),
            thresholds=TrainingThresholds(min_new_examples=10),
        ),
        evaluation=Evaluation(suites=suites),
    )


def of_format(
    learning: LearningConfig, wanted: DatasetFormat, beta_percent: int | None = None
) -> LearningConfig:
    """The same, to be curated and trained in that format."""
    assert learning.curation is not None
    assert learning.training is not None
    hyperparameters = learning.training.hyperparameters.model_copy(update={"beta_percent": beta_percent})
    return learning.model_copy(
        update={
            "curation": learning.curation.model_copy(update={"format": wanted}),
            "training": learning.training.model_copy(update={"hyperparameters": hyperparameters}),
        }
    )


def taught_requests(first: int, last: int) -> list[Record]:
    """Requests `first` to `last` - 1 of REQUESTS, each with a person's correction."""
    records: list[Record] = []
    for number in range(first, last):
        text, team = REQUESTS[number]
        asked = episode(number, text)
        records += [asked, routed_to(asked, team)]
    return records


def curate(bench: JobBench, run_id: str = "curate-1") -> DatasetRef:
    """Runs curation on what the bench's store holds, and returns the dataset."""
    _, report = bench.run(curation_job.run, run_id)
    manifest = latest_manifest(bench.layout)
    if manifest is None:
        raise AssertionError(f"no dataset: {report.reason}: {report.message}")
    return manifest.ref
