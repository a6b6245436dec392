"""A provider on a real port of the loopback, and a store that holds a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evolving_agent.testing.experience import write_log
from evolving_agent.testing.jobs import JobBench
from support.learning import RunningProvider, curate, learning_config, running_provider, taught_requests


@pytest.fixture
def provider() -> Iterator[RunningProvider]:
    with running_provider() as running:
        yield running


@pytest.fixture
def bench(tmp_path: Path, provider: RunningProvider) -> JobBench:
    """A store with 40 taught requests, curated; training goes to the provider."""
    made = JobBench(tmp_path)
    made.configure(learning_config(provider.base_url))
    write_log(made.layout, taught_requests(0, 40))
    curate(made)
    return made
