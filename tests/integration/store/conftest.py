from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from evolving_agent.contract.config import MemoryType
from evolving_agent.testing.scripted_model import ScriptedModel, served
from support.pods import Pod, a_config
from support.s3 import S3Server, running_s3


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with running_s3(tmp_path / "s3") as server:
        yield server


@pytest.fixture
async def pods(tmp_path: Path, s3: S3Server) -> AsyncIterator[list[Pod]]:
    """Two pods of an agent, each with a disk of its own, and one object store."""
    async with served(ScriptedModel().app) as url:
        made = [
            Pod(
                tmp_path / f"pod-{number}",
                a_config(url, memory=MemoryType.DISABLED),
                f"support-{number}",
                variables=s3.variables("bank/support"),
            )
            for number in range(2)
        ]
        for pod in made:
            pod.write_config()
        yield made
