"""When kopf begins to watch: after what was listed has been decided upon, or when there is long to wait.

And how the process leaves: with its writes ended, then without the Lease.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.errors import Forbidden
from evolving_operator.cluster.kinds import Kind
from evolving_operator.cluster.records import AgentKey, ListPart
from evolving_operator.core.builders.context import Images
from evolving_operator.core.plan import Manifest
from evolving_operator.settings import Settings
from evolving_operator.shell.leader import Leadership, LeaseSettings
from evolving_operator.shell.operator import Operator
from evolving_operator.shell.telemetry import Telemetry
from evolving_operator.shell.workqueue import WorkQueue
from evolving_operator.testing.fake_cluster import FakeCluster
from evolving_operator.testing.simulation import Simulation
from support.silent_watches import SilentWatches

Raw = dict[str, Any]

LEASE = LeaseSettings("default", "operator", 15)
AGENTS = 30


class ForbiddenNamespace(SilentWatches):
    """The Role in one namespace is gone, with the namespace perhaps, until `is_back`."""

    def __init__(self, cluster: FakeCluster, namespace: str) -> None:
        super().__init__(cluster)
        self._forbidden = namespace
        self.is_back = False

    async def listed(self, kind: Kind, namespace: str | None) -> AsyncIterator[ListPart]:
        if namespace == self._forbidden and not self.is_back and kind.kind != "Pod":
            raise Forbidden(f"{kind.plural} is forbidden in the namespace {namespace}")
        async for part in super().listed(kind, namespace):
            yield part


@asynccontextmanager
async def working(
    cluster: FakeCluster, source: SilentWatches | None = None, namespaces: tuple[str, ...] = ()
) -> AsyncIterator[Operator]:
    cache, queue = Cache(), WorkQueue[AgentKey]()
    settings = Settings(Images(agent="example/agent:1", trainer="example/trainer:1"), namespaces)
    telemetry = Telemetry(cache, queue.__len__)
    operator = Operator(settings, cluster, source or SilentWatches(cluster), cache, queue, telemetry, LEASE)
    work = asyncio.create_task(operator.work(), name="work")
    try:
        yield operator
    finally:
        await stopped(work)


async def stopped(work: asyncio.Task[None]) -> None:
    """As SIGTERM does."""
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


def with_agents(count: int, cluster: FakeCluster | None = None) -> FakeCluster:
    cluster = cluster or FakeCluster()
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

        assert operator.cache.known()
        assert len(operator.queue) == 0  # nobody would ever take it from there
        assert not cluster.all("Deployment")


async def with_a_debt(world: Simulation, spec: Raw) -> asyncio.Event:
    """An agent was deleted while no operator ran. What is returned is set when it is released."""
    endpoint = {"baseURL": "https://provider/v1", "apiKeySecretRef": {"name": "openai", "key": "apiKey"}}
    spec["model"]["endpoint"] = endpoint
    spec["training"] = {"schedule": "0 3 * * *", "backend": {"type": "OpenAI"}}
    await world.serve(spec | {"deletionPolicy": "Delete"})
    world.watch_is_frozen = True
    world.cluster.remove(names.AGENT_KIND, "support")
    released = asyncio.Event()
    world.cluster.watchers.append(lambda _, raw: released.set() if raw["kind"] == "Job" else None)
    return released


async def test_who_begins_to_decide_looks_at_what_is_left_of_deleted_agents_too(
    world: Simulation, spec: Raw
) -> None:
    released = await with_a_debt(world, spec)

    async with working(world.cluster):
        await asyncio.wait_for(released.wait(), 30)


async def test_a_backlog_does_not_hold_up_the_renewal_of_the_lease() -> None:
    """A decision that waits for nothing gives way to what else is due."""
    seen: set[int] = set()

    async with working(with_agents(AGENTS)) as operator:
        while not operator.watches_due.is_set():
            seen.add(len(operator.queue))
            await asyncio.sleep(0)

    assert any(0 < length < AGENTS for length in seen)


class SlowCluster(FakeCluster):
    """Its API server keeps who applies waiting until `answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answer, self.asked = asyncio.Event(), asyncio.Event()

    async def apply(self, manifest: Manifest) -> Raw:
        self.asked.set()
        await self.answer.wait()
        return await super().apply(manifest)


def holder(cluster: FakeCluster) -> str:
    raw = cluster.get("Lease", LEASE.name)
    assert raw is not None
    return str(raw["spec"]["holderIdentity"])


async def test_the_lease_is_given_back_after_the_last_write() -> None:
    cluster = with_agents(1, SlowCluster())
    assert isinstance(cluster, SlowCluster)

    async with working(cluster):
        await asyncio.wait_for(cluster.asked.wait(), 30)
        [work] = [task for task in asyncio.all_tasks() if task.get_name() == "work"]
        stopping = asyncio.create_task(stopped(work))
        for _ in range(10):
            await asyncio.sleep(0)
        assert holder(cluster) != ""  # the write may still take effect
        cluster.answer.set()
        await stopping

    assert [write.kind for write in cluster.writes][-2:] == ["ServiceAccount", "Lease"]
    assert holder(cluster) == ""


class SlowLease(FakeCluster):
    """The answer to who takes the Lease is on its way until `answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answer, self.is_taken = asyncio.Event(), asyncio.Event()

    async def create(self, manifest: Manifest) -> Raw:
        stored = await super().create(manifest)
        if manifest["kind"] == "Lease":
            self.is_taken.set()
            await self.answer.wait()
        return stored


async def test_a_lease_that_was_granted_on_the_way_out_is_given_back() -> None:
    cluster = SlowLease()

    async with working(cluster):
        await asyncio.wait_for(cluster.is_taken.wait(), 30)
        assert holder(cluster) != ""

    assert holder(cluster) == ""


async def test_a_namespace_that_cannot_be_read_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolving_operator.shell.operator._UNLISTED_RETRY_SECONDS", 0.01)
    cluster = with_agents(1)
    elsewhere = cluster.get(names.AGENT_KIND, "agent-0")
    assert elsewhere is not None
    cluster.put({**elsewhere, "metadata": {"name": "agent-0", "namespace": "shop"}})
    source = ForbiddenNamespace(cluster, "shop")

    async with working(cluster, source, ("shop", "default")) as operator:
        await asyncio.wait_for(operator.watches_due.wait(), 30)
        assert cluster.get("Deployment", "agent-0") is not None
        # what is known of the other one may be half of what there is
        operator.cache.put(elsewhere | {"metadata": elsewhere["metadata"] | {"namespace": "shop"}})
        operator.news(("shop", "agent-0"))
        await asyncio.sleep(0.05)
        assert cluster.get("Deployment", "agent-0", "shop") is None

        served = asyncio.Event()
        cluster.watchers.append(lambda _, raw: served.set() if is_deployment(raw, "shop") else None)
        source.is_back = True
        await asyncio.wait_for(served.wait(), 30)


async def test_a_namespace_that_is_read_late_tells_of_its_deleted_agents_too(
    world: Simulation, spec: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolving_operator.shell.operator._UNLISTED_RETRY_SECONDS", 0.01)
    released = await with_a_debt(world, spec)
    source = ForbiddenNamespace(world.cluster, "default")

    async with working(world.cluster, source, ("default", "other")) as operator:
        await asyncio.wait_for(operator.watches_due.wait(), 30)
        source.is_back = True
        await asyncio.wait_for(released.wait(), 10)


def is_deployment(raw: Raw, namespace: str) -> bool:
    return (raw["kind"], raw["metadata"]["namespace"]) == ("Deployment", namespace)


async def test_with_no_namespace_to_read_nothing_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolving_operator.shell.operator._LIST_RETRY_SECONDS", 0.01)
    cluster = with_agents(1)
    source = ForbiddenNamespace(cluster, "default")

    async with working(cluster, source, ("default",)) as operator:
        await asyncio.sleep(0.05)
        assert not operator.synced.is_set()

        source.is_back = True
        await asyncio.wait_for(operator.synced.wait(), 30)
