"""Reflecting in the background: bounded, and ended with the pod."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from evolving_agent.chat.endpoint import ModelEndpoint
from evolving_agent.contract.config import AgentConfig, ServedModel
from evolving_agent.runtime.metrics import Metrics
from evolving_agent.runtime.reflector import CONCURRENCY, MAX_WAITING, Reflector
from evolving_agent.runtime.specialists import SpecialistEndpoints
from evolving_agent.runtime.tools.files import MountedFiles
from evolving_agent.runtime.traffic import ACTIVE, Arm
from evolving_agent.store.records import Episode, ReflectionRecord
from evolving_agent.testing.scripted_model import Reply, ScriptedModel, served
from support.pods import eventually


@pytest.fixture
async def slow() -> AsyncIterator[ModelEndpoint]:
    """A model that takes longer to reflect than any test waits."""
    model = ScriptedModel(lambda _: Reply(text="{}", seconds=60))
    async with served(model.app) as url, ModelEndpoint(f"{url}/v1") as endpoint:
        yield endpoint


def an_episode(number: int) -> Episode:
    return Episode(
        id=f"e{number}",
        time="2030-01-01T00:00:00Z",
        agent="support",
        revision="support-00000001",
        model="tiny",
        arm=ACTIVE,
        messages=[{"role": "user", "content": "Hi"}],
        system="You are.",
    )


async def test_what_waits_too_long_or_too_many_is_skipped_and_counted(
    slow: ModelEndpoint, tmp_path: Path
) -> None:
    kept: list[ReflectionRecord] = []

    async def keep(_: Arm, record: ReflectionRecord) -> None:
        kept.append(record)

    metrics = Metrics()
    arm = Arm(
        ACTIVE,
        AgentConfig(
            revision="support-00000001",
            model=ServedModel(id="tiny", base_url=slow.base_url),
            instructions="You are.",
        ),
    )
    reflector = Reflector(keep, metrics, SpecialistEndpoints(MountedFiles(tmp_path)))
    reflector.start()

    for number in range(MAX_WAITING + 5):
        reflector.consider(arm, an_episode(number), slow)
    await eventually(
        lambda: 'skipped_total{reason="busy"} 5.0' in metrics.exposition().decode(), "five are too many"
    )
    await reflector.close(0.1)

    assert kept == []
    unfinished = f'skipped_total{{reason="shutdown"}} {float(MAX_WAITING)}'
    assert unfinished in metrics.exposition().decode()
    assert CONCURRENCY < MAX_WAITING
