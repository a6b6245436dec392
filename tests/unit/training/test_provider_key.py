"""Which key a provider that trains is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evolving_agent.contract import env
from evolving_agent.contract.config import Endpoint
from evolving_agent.contract.learning import (
    BackendType,
    LearningConfig,
    OpenAIBackend,
    Training,
    TrainingBackend,
)
from evolving_agent.contract.refs import SecretKeyRef
from evolving_agent.testing.jobs import JobBench
from evolving_agent.training import job
from evolving_agent.training.openai_backend import OpenAIFineTuning

OTHER = Endpoint(base_url="http://tuner.example/v1")
OTHER_WITH_KEY = Endpoint(base_url=OTHER.base_url, api_key_secret_ref=SecretKeyRef(name="tuner", key="key"))


@pytest.mark.parametrize(
    ("own", "variables", "sent"),
    [
        (None, {}, None),
        (None, {env.API_KEY: "models"}, "models"),
        (OTHER, {env.API_KEY: "models"}, None),
        (OTHER_WITH_KEY, {env.API_KEY: "models", env.TRAINING_API_KEY: "tuners"}, "tuners"),
    ],
    ids=["no-key", "the-models-endpoint", "another-without-a-key", "another-with-its-key"],
)
def test_an_endpoint_of_its_own_is_never_sent_the_models_key(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: Endpoint | None,
    variables: dict[str, str],
    sent: str | None,
) -> None:
    made: list[tuple[str, str | None]] = []

    class Provider(OpenAIFineTuning):
        def __init__(self, base_url: str, api_key: str | None, *more: Any) -> None:
            made.append((base_url, api_key))
            super().__init__(base_url, api_key, *more)

    monkeypatch.setattr(job, "OpenAIFineTuning", Provider)
    backend = TrainingBackend(type=BackendType.OPENAI, open_ai=OpenAIBackend(endpoint=own))
    training = Training(schedule="@daily", backend=backend)
    bench = JobBench(tmp_path)
    bench.configure(
        LearningConfig(agent="support", base_model="base", endpoint=Endpoint(), training=training)
    )

    _, report = bench.run(job.run, "train-1", **variables)

    assert report.reason == "NoDataset"
    assert made == [((own or Endpoint()).base_url, sent)]
