"""When kopf begins to watch: after what was listed has been decided upon, or when there is long to wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from evolving_operator.api import names
from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.records import AgentKey
from evolving_operator.core.builders.context import Images
from evolving_operator.settings import Settings
from evolving_operator.shell.leader import Leadership, LeaseSettings
from evolving_operator.shell.operator import Operator
from evolving_operator.shell.telemetry import Telemetry
from evolving_operator.shell.workqueue import WorkQueue
from evolving_operator.testing.fake_cluster import FakeCluster
from support.silent_watches import SilentWatches

LEASE = LeaseSettings("default", "operator", 15)
AGENTS = 30


@asynccontextmanager
async def working(cluster: FakeCluster) -> AsyncIterator[Operator]:
    cache, queue = Cache(), WorkQueue[AgentKey]()
    settings = Settings(Images(agent="example/agent:1", trainer="example/trainer:1"))
    telemetry = Telemetry(cache, queue.__len__)
    operator = Operator(settings, cluster, SilentWatches(cluster), cache, queue, telemetry, LEASE)
    work = asyncio.create_task(operator.work())
    try:
        yield operator
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


def with_agents(count: int) -> FakeCluster:
    cluster = FakeCluster()
    for number in range(count):
        cluster.put(
            {
                "apiVersion": names.API_VERSION,
                "kind": names.AGENT_KIND,
                "metadata": {"name": f"agent-{number}", "namespace": "default"},
                "spec": {
                    "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
                    "agent": {"instructions": "You route requests."},
                },
            }
        )
    return cluster


async def test_every_listed_agent_has_been_taken_up_when_kopf_begins() -> None:
    cluster = with_agents(AGENTS)

    async with working(cluster) as operator:
        await asyncio.wait_for(operator.watches_due.wait(), 30)

        assert operator.synced.is_set()
        assert len(operator.queue) == 0
        assert len(cluster.all(names.REVISION_KIND)) > AGENTS - operator.settings.workers


async def test_without_agents_there_is_nothing_to_wait_for() -> None:
    async with working(with_agents(0)) as operator:
        await asyncio.wait_for(operator.watches_due.wait(), 30)


async def test_a_standby_watches_though_it_decides_nothing() -> None:
    cluster = with_agents(AGENTS)
    await Leadership(cluster, LEASE, "another").acquire()

    async with working(cluster) as operator:
        await asyncio.wait_for(operator.watches_due.wait(), 30)

        assert len(operator.queue) == AGENTS
        assert not cluster.all("Deployment")


async def test_a_backlog_does_not_hold_up_the_renewal_of_the_lease() -> None:
    """A decision that waits for nothing gives way to what else is due."""
    seen: set[int] = set()

    async with working(with_agents(AGENTS)) as operator:
        while not operator.watches_due.is_set():
            seen.add(len(operator.queue))
            await asyncio.sleep(0)

    assert any(0 < length < AGENTS for length in seen)
