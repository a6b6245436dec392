"""Whoever changes what the operator writes, on its way in: it is written again, but not at full speed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.records import AgentKey
from evolving_operator.core.builders.context import Images
from evolving_operator.core.plan import Manifest
from evolving_operator.settings import Settings
from evolving_operator.shell.leader import LeaseSettings
from evolving_operator.shell.operator import Operator
from evolving_operator.shell.telemetry import Telemetry
from evolving_operator.shell.workqueue import WorkQueue
from evolving_operator.testing.fake_cluster import FakeCluster
from support.cluster import eventually_async
from support.silent_watches import SilentWatches

MOST_WRITES = 60
KEY = ("default", "support")


class Webhooked(FakeCluster):
    """Its admission webhook strips Services of all annotations."""

    async def apply(self, manifest: Manifest) -> Any:
        if manifest["kind"] == "Service":
            manifest = {**manifest, "metadata": {**manifest["metadata"], "annotations": {}}}
        return await super().apply(manifest)


async def test_what_a_webhook_undoes_is_not_written_without_pause(caplog: pytest.LogCaptureFixture) -> None:
    cluster, cache, queue = Webhooked(), Cache(), WorkQueue[AgentKey]()
    cluster.put(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.AGENT_KIND,
            "metadata": {"name": "support", "namespace": "default"},
            "spec": {
                "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
                "agent": {"instructions": "You route requests."},
            },
        }
    )
    operator = Operator(
        Settings(Images(agent="example/agent:1", trainer="example/trainer:1")),
        cluster,
        SilentWatches(cluster),
        cache,
        queue,
        Telemetry(cache, queue.__len__),
        LeaseSettings("default", "operator", 15),
    )
    work = asyncio.create_task(operator.work())

    async def is_noted() -> bool:
        return "Service/support" in str([vars(record).get("objects") for record in caplog.records])

    try:
        await eventually_async(is_noted, 30, "it is noticed")
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work

    written = [write.name for write in cluster.writes if write.kind == "Service"]
    assert len(written) < MOST_WRITES
    # and it keeps nothing from being told
    agent = cluster.get(names.AGENT_KIND, "support")
    assert agent is not None
    assert agent["status"]["conditions"]
