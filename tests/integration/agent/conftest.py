from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evolving_agent.testing.scripted_model import ScriptedModel, served
from support.pods import Pod, a_config


@dataclass
class ModelServer:
    """The scripted model and where it listens."""

    model: ScriptedModel
    url: str


@pytest.fixture
async def upstream() -> AsyncIterator[ModelServer]:
    model = ScriptedModel()
    async with served(model.app) as url:
        yield ModelServer(model, url)


@pytest.fixture
def make_pod(upstream: ModelServer, tmp_path: Path) -> Any:
    """Makes pods on the scripted model that share one store; keyword arguments change their config."""

    def make(name: str = "support-0", **changes: Any) -> Pod:
        return Pod(tmp_path, a_config(upstream.url, **changes), name)

    return make
