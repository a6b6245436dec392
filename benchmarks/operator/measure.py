"""The measurements on one cluster, one after the other: converge, idle, restart, edits; the bare client."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.operator.arrivals import arrivals
from benchmarks.operator.changes import changes
from benchmarks.operator.cluster import control_plane, kubectl
from benchmarks.operator.objects import Template, agent, template
from benchmarks.operator.process import OperatorProcess, Reading, running_operator
from evolving_operator.cluster.connection import Connection
from evolving_operator.cluster.live import LiveGateway
from evolving_operator.cluster.records import AgentKey

# How many agents: clusters of their own for each number. BENCH_AGENTS=10000, or several: 1000,10000.
SIZES = tuple(int(size) for size in os.environ.get("BENCH_AGENTS", "1000").split(","))
WORKERS = 16  # of the operator, and requests of the bare client at the same time
IDLE_SECONDS = 20
EDITS = 100
EDIT_PAUSE_SECONDS = 0.5  # so long what follows from an edit takes: a queue of them is not what is measured
# As on a platform of many teams. Kubernetes' own controllers look through a namespace for each object in it.
AGENTS_PER_NAMESPACE = 100
LEASE_NAMESPACE = "default"

_POLL_SECONDS = 0.1
_ADDITIONS = 10_000_000
# Each look costs the operator milliseconds of the very time that is measured.
_SELDOM_SECONDS = 0.25
_QUIET_SECONDS = 5
_QUIET_SHARE = 0.1  # of one core
_DEADLINE_SECONDS = 1800


def run() -> dict[str, Any]:
    """Brings control planes up and takes them down. JSON-able; seconds, bytes and counts."""
    return {"workers": WORKERS, "sizes": [asyncio.run(_measured(size)) for size in SIZES]}


async def _measured(agents: int) -> dict[str, Any]:
    load_before, pace_before = os.getloadavg()[0], _pace()
    async with _bench(agents) as bench:
        async with bench.operator() as operator:
            converged = await bench.converge(operator)
            idle = await bench.idle(operator)
        async with bench.operator() as operator:
            restarted = await bench.restart(operator)
            edited = await bench.edit()
        takeover = await bench.takeover()
    # On a cluster of its own: an API server takes the longer for each Service the more of them there are.
    async with _bench(agents) as bench:
        bare = await bench.bare()
        edited |= await bench.edit_directly()
    return {
        "agents": agents,
        "load_average": {"before": round(load_before, 1), "after": round(os.getloadavg()[0], 1)},
        "pace_seconds": {"before": round(pace_before, 2), "after": round(_pace(), 2)},
        "converge": converged,
        "idle": idle,
        "restart": restarted,
        "edit": edited,
        "takeover": takeover,
        "bare": bare,
        "ratio": round(converged["seconds"] / bare["seconds"], 2),
        # The operator announces and tells, too: the same comparison for one write (the agents' own included).
        "ratio_per_write": round(
            (converged["seconds"] / (converged["writes"] + agents)) / (bare["seconds"] / bare["writes"]), 2
        ),
    }


@asynccontextmanager
async def _bench(agents: int) -> AsyncIterator[Bench]:
    """With a new control plane."""
    with control_plane() as kubeconfig, tempfile.TemporaryDirectory() as directory:
        for namespace in namespaces(agents):
            kubectl(kubeconfig, "create", "namespace", namespace)
        connection = Connection.from_kubeconfig(kubeconfig)
        async with LiveGateway(connection) as gateway:
            yield Bench(agents, kubeconfig, connection, gateway, await template(), Path(directory))


@dataclass(frozen=True)
class Bench:
    agents: int
    kubeconfig: Path
    connection: Connection
    gateway: LiveGateway
    template: Template
    directory: Path

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[OperatorProcess]:
        log = self.directory / "operator.log"
        async with running_operator(self.kubeconfig, LEASE_NAMESPACE, WORKERS, log) as process:
            yield process

    async def converge(self, operator: OperatorProcess) -> dict[str, Any]:
        """From the first agent's creation until all are ready; all their objects exist by then."""
        await _until(operator, lambda reading: reading.is_leading)
        before = await operator.now()
        async with arrivals(self.gateway) as arrived:
            started = time.monotonic()
            await _each(self.keys(), lambda key: self.gateway.create(agent(*key)))
            created = time.monotonic()
            async with asyncio.timeout(_DEADLINE_SECONDS):
                await arrived.until(self.agents)
            ended = time.monotonic()
        await self._expect_objects()
        after = await _until_quiet(operator)
        return {
            "seconds": round(ended - started, 2),
            "creation_seconds": round(created - started, 2),
            # Until it had nothing more to do: the controllers' answers come a little later.
            "cpu_seconds": round(after.cpu - before.cpu, 2),
            "writes": after.writes - before.writes,
            "writes_per_agent": round((after.writes - before.writes) / self.agents, 2),
            "rss_peak_bytes": after.rss_peak,
        }

    async def _expect_objects(self) -> None:
        """Raises RuntimeError where one of the agents lacks a child."""
        for kind in self.template.kinds():
            parts = self.gateway.listed(kind, None)
            owners = {record.agent async for part in parts for record in part.records}
            if missing := set(self.keys()) - owners:
                raise RuntimeError(f"ready without a {kind.kind}: {sorted(missing)[:5]}")

    async def idle(self, operator: OperatorProcess) -> dict[str, Any]:
        before = await operator.now()
        await asyncio.sleep(IDLE_SECONDS)
        after = await operator.now()
        return {
            "seconds": IDLE_SECONDS,
            "writes": after.writes - before.writes,
            "cpu_percent": round(100 * (after.cpu - before.cpu) / (after.at - before.at), 2),
        }

    async def restart(self, operator: OperatorProcess) -> dict[str, Any]:
        """From the process's start until it has decided upon every agent."""
        settled = await _until(
            operator, lambda reading: reading.reconciles >= self.agents and not reading.waiting
        )
        quiet = await _until_quiet(operator)
        return {
            "seconds": round(settled.at - operator.started, 2),
            "cpu_seconds": round(settled.cpu, 2),
            # kopf lists the agents once more, after that
            "cpu_seconds_until_quiet": round(quiet.cpu, 2),
            "writes": quiet.writes,
            "rss_peak_bytes": quiet.rss_peak,
        }

    async def edit(self) -> dict[str, Any]:
        """One after the other: from the request that edits an agent to the event of its changed ConfigMap.

        `request`: the part of it that the edit's own request took, before the operator could know of it.
        """
        seconds: list[float] = []
        requests: list[float] = []
        edited = list(self.keys())
        async with changes(self.connection) as found:
            for number in range(EDITS):
                text = f"You route request {number}."
                arrival = found.expect(text)
                started = time.monotonic()
                await self.gateway.apply(agent(*edited[number % self.agents], text))
                requests.append(time.monotonic() - started)
                async with asyncio.timeout(_DEADLINE_SECONDS):
                    seconds.append(await arrival - started)
                await asyncio.sleep(EDIT_PAUSE_SECONDS)
        return {
            "edits": EDITS,
            "p50_ms": _percentile_ms(seconds, 50),
            "p99_ms": _percentile_ms(seconds, 99),
            "request_p50_ms": _percentile_ms(requests, 50),
            "request_p99_ms": _percentile_ms(requests, 99),
        }

    async def edit_directly(self) -> dict[str, Any]:
        """The limit of `edit`: from a bare client's request that changes a ConfigMap to its event."""
        seconds: list[float] = []
        async with changes(self.connection) as found:
            for number, key in zip(range(EDITS), itertools.cycle(self.keys()), strict=False):
                namespace, name = key
                text = f"Changed for the {number}th time."
                manifest = {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": f"{name}-edited", "namespace": namespace},
                    "data": {"text": text},
                }
                arrival = found.expect(text)
                started = time.monotonic()
                await self.gateway.apply(manifest)
                async with asyncio.timeout(_DEADLINE_SECONDS):
                    seconds.append(await arrival - started)
                await asyncio.sleep(EDIT_PAUSE_SECONDS)
        return {"bare_p50_ms": _percentile_ms(seconds, 50), "bare_p99_ms": _percentile_ms(seconds, 99)}

    async def bare(self) -> dict[str, Any]:
        """The same agents and objects, by a client that decides nothing and watches nothing."""
        cpu, started = time.process_time(), time.monotonic()

        async def create(key: AgentKey) -> None:
            namespace, name = key
            owner = await self.gateway.create(agent(namespace, name))
            for manifest in self.template.objects(name, namespace, owner["metadata"]["uid"]):
                await self.gateway.apply(manifest)

        await _each(self.keys(), create)
        writes = self.agents * (1 + len(self.template.objects("a", "b", "c")))
        return {
            "seconds": round(time.monotonic() - started, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "writes": writes,
            "writes_per_agent": round(writes / self.agents, 2),
        }

    async def takeover(self) -> dict[str, Any]:
        """From the leader's end, by SIGKILL and by SIGTERM, until the one that stood by leads."""
        seconds: dict[str, Any] = {}
        async with AsyncExitStack() as running:
            leader, *others = [await self._ready_operator(running) for _ in range(3)]
            for how in ("SIGKILL", "SIGTERM"):
                started = time.monotonic()
                leader.process.send_signal(signal.Signals[how])
                leader, *others = await _first_leader(*others)
                seconds[how] = round(time.monotonic() - started, 2)
        return seconds

    async def _ready_operator(self, running: AsyncExitStack) -> OperatorProcess:
        """One after the other: the lists of three at once are the API server's work, not the takeover's."""
        operator = await running.enter_async_context(self.operator())
        await _until(operator, lambda reading: reading.is_ready)
        await _until_quiet(operator)
        return operator

    def keys(self) -> Iterable[AgentKey]:
        """The agents' namespaces and names, those that follow each other in different namespaces."""
        numbers = zip(itertools.cycle(namespaces(self.agents)), range(self.agents), strict=False)
        return ((namespace, f"agent-{number:05}") for namespace, number in numbers)


def namespaces(agents: int) -> list[str]:
    return [f"bench-{number:03}" for number in range(-(-agents // AGENTS_PER_NAMESPACE))]


async def _first_leader(*operators: OperatorProcess) -> list[OperatorProcess]:
    """The one that leads, and after it the others."""
    async with asyncio.timeout(_DEADLINE_SECONDS):
        while True:
            for operator in operators:
                reading = await operator.read()
                if reading is not None and reading.is_leading:
                    return [operator, *(other for other in operators if other is not operator)]
            await asyncio.sleep(_POLL_SECONDS)


async def _each(items: Iterable[AgentKey], work: Callable[[AgentKey], Awaitable[object]]) -> None:
    """Work on all items, `WORKERS` of them at the same time."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(worker())


async def _until(operator: OperatorProcess, is_reached: Callable[[Reading], bool]) -> Reading:
    async with asyncio.timeout(_DEADLINE_SECONDS):
        while True:
            reading = await operator.read()
            if reading is not None and is_reached(reading):
                return reading
            await asyncio.sleep(_SELDOM_SECONDS)


async def _until_quiet(operator: OperatorProcess) -> Reading:
    """A reading after which, for a while, it decided nothing, wrote nothing and hardly worked."""
    async with asyncio.timeout(_DEADLINE_SECONDS):
        last = await operator.now()
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            reading = await operator.now()
            if (reading.writes, reading.reconciles) != (last.writes, last.reconciles):
                last = reading
            elif (elapsed := reading.at - last.at) > _QUIET_SECONDS:
                if reading.cpu - last.cpu < _QUIET_SHARE * elapsed:
                    return last
                last = reading


def _pace() -> float:
    """CPU seconds of ten million additions. On a shared machine they may double from one hour to the next."""
    started, total = time.process_time(), 0
    for number in range(_ADDITIONS):
        total += number
    return time.process_time() - started


def _percentile_ms(seconds: list[float], percent: int) -> float:
    """The smallest sample that at least so many percent of all do not exceed."""
    rank = -(-len(seconds) * percent // 100)
    return round(1000 * sorted(seconds)[rank - 1], 1)
