"""The measurements on one cluster, one after the other: converge, idle, restart, edits; the bare client."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.operator.changes import changes
from benchmarks.operator.cluster import connect, control_plane, kubectl
from benchmarks.operator.objects import Raw, Template, agent, kinds, template
from benchmarks.operator.process import OperatorProcess, Reading, running_operator
from evolving_operator.api import names
from evolving_operator.cluster.kinds import AGENT, OWNED
from evolving_operator.cluster.live import Connection, LiveGateway

AGENTS = int(os.environ.get("BENCH_AGENTS", "200"))
WORKERS = 16  # of the operator, and requests of the bare client at the same time
IDLE_SECONDS = 20
EDITS = 50
NAMESPACE, BARE_NAMESPACE = "bench-operator", "bench-bare"

_POLL_SECONDS = 0.25
_COMPLETE_POLL_SECONDS = 0.5  # it lists thousands of objects
_QUIET_SECONDS = 5
_DEADLINE_SECONDS = 600


def run() -> dict[str, Any]:
    """Brings a control plane up and takes it down. JSON-able; seconds, bytes and counts."""
    return asyncio.run(_run())


async def _run() -> dict[str, Any]:
    load_before = os.getloadavg()[0]
    with control_plane() as kubeconfig, tempfile.TemporaryDirectory() as directory:
        for namespace in (NAMESPACE, BARE_NAMESPACE):
            kubectl(kubeconfig, "create", "namespace", namespace)
        connection = await connect(kubeconfig)
        made = await template()
        async with LiveGateway(connection) as gateway:
            bench = Bench(kubeconfig, connection, gateway, made, Path(directory) / "operator.log")
            async with bench.operator() as operator:
                converged = await bench.converge(operator)
                idle = await bench.idle(operator)
            async with bench.operator() as operator:
                restarted = await bench.restart(operator)
                edited = await bench.edit()
            bare = await bench.bare()
    return {
        "load_average": {"before": round(load_before, 1), "after": round(os.getloadavg()[0], 1)},
        "agents": AGENTS,
        "workers": WORKERS,
        "converge": converged,
        "idle": idle,
        "restart": restarted,
        "edit": edited,
        "bare": bare,
        "ratio": round(converged["seconds"] / bare["seconds"], 2),
        # The operator announces and tells, too: the same comparison for one write of each.
        "ratio_per_write": round(
            converged["seconds"] / converged["writes"] / (bare["seconds"] / bare["writes"]), 2
        ),
    }


@dataclass(frozen=True)
class Bench:
    kubeconfig: Path
    connection: Connection
    gateway: LiveGateway
    template: Template
    log: Path

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[OperatorProcess]:
        async with running_operator(self.kubeconfig, NAMESPACE, WORKERS, self.log) as process:
            yield process

    async def converge(self, operator: OperatorProcess) -> dict[str, Any]:
        """From the first agent's creation until all are observed and all their objects exist."""
        await _until(operator, lambda reading: reading.is_leading)
        before = await operator.now()
        started = time.monotonic()
        await _each(agent_names(), lambda name: self.gateway.create(agent(NAMESPACE, name)))
        created = time.monotonic()
        while not await self._is_complete():
            if time.monotonic() - started > _DEADLINE_SECONDS:
                raise RuntimeError(f"{AGENTS} agents were not complete after {_DEADLINE_SECONDS} s")
            await asyncio.sleep(_COMPLETE_POLL_SECONDS)
        ended = time.monotonic()
        after = await _until_quiet(operator)
        return {
            "seconds": round(ended - started, 2),
            "creation_seconds": round(created - started, 2),
            # Until it had nothing more to do: the controllers' answers come a little later.
            "cpu_seconds": round(after.cpu - before.cpu, 2),
            "writes": after.writes - before.writes,
            "writes_per_agent": round((after.writes - before.writes) / AGENTS, 2),
            "rss_peak_bytes": after.rss_peak,
        }

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
        settled = await _until(operator, lambda reading: reading.reconciles >= AGENTS and not reading.waiting)
        quiet = await _until_quiet(operator)
        return {
            "seconds": round(settled.at - operator.started, 2),
            "cpu_seconds": round(settled.cpu, 2),
            "writes": quiet.writes,
            "rss_peak_bytes": quiet.rss_peak,
        }

    async def edit(self) -> dict[str, Any]:
        """One after the other: from the request that edits an agent to the event of its changed ConfigMap."""
        seconds: list[float] = []
        edited = list(agent_names())
        async with changes(self.connection, NAMESPACE) as found:
            for number in range(EDITS):
                text = f"You route request {number}."
                arrival = found.expect(text)
                started = time.monotonic()
                await self.gateway.apply(agent(NAMESPACE, edited[number % AGENTS], text))
                async with asyncio.timeout(_DEADLINE_SECONDS):
                    seconds.append(await arrival - started)
        return {
            "edits": EDITS,
            "p50_ms": _percentile_ms(seconds, 50),
            "p99_ms": _percentile_ms(seconds, 99),
        }

    async def bare(self) -> dict[str, Any]:
        """The same agents and objects, by a client that decides nothing and watches nothing."""
        cpu, started = time.process_time(), time.monotonic()

        async def create(name: str) -> None:
            owner = await self.gateway.create(agent(BARE_NAMESPACE, name))
            for manifest in self.template.objects(name, BARE_NAMESPACE, owner["metadata"]["uid"]):
                await self.gateway.apply(manifest)

        await _each(agent_names(), create)
        writes = AGENTS * (1 + len(self.template.objects("a", "b", "c")))
        return {
            "seconds": round(time.monotonic() - started, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "writes": writes,
            "writes_per_agent": round(writes / AGENTS, 2),
        }

    async def _is_complete(self) -> bool:
        """Every agent's status speaks of its present spec, and every kind of object is there for each."""
        agents, _ = await self.gateway.list_all(AGENT, NAMESPACE)
        if not all(
            raw.get("status", {}).get("observedGeneration") == raw["metadata"]["generation"] for raw in agents
        ):
            return False
        wanted = set(kinds(self.template.objects("a", "b", "c")))
        for kind in OWNED:
            if kind.kind not in wanted:
                continue
            found, _ = await self.gateway.list_all(kind, NAMESPACE)
            if len({_agent_of(raw) for raw in found}) < AGENTS:
                return False
        return True


def agent_names() -> Iterable[str]:
    return (f"agent-{number:05}" for number in range(AGENTS))


def _agent_of(raw: Raw) -> str:
    name: str = raw["metadata"]["labels"][names.LABEL_AGENT]
    return name


async def _each(items: Iterable[str], work: Callable[[str], Awaitable[object]]) -> None:
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
            await asyncio.sleep(_POLL_SECONDS)


async def _until_quiet(operator: OperatorProcess) -> Reading:
    """The first reading after which, for a while, it decided nothing and wrote nothing."""
    async with asyncio.timeout(_DEADLINE_SECONDS):
        last = await operator.now()
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            reading = await operator.now()
            if (reading.writes, reading.reconciles) != (last.writes, last.reconciles):
                last = reading
            elif reading.at - last.at > _QUIET_SECONDS:
                return last


def _percentile_ms(seconds: list[float], percent: int) -> float:
    """The smallest sample that at least so many percent of all do not exceed."""
    rank = -(-len(seconds) * percent // 100)
    return round(1000 * sorted(seconds)[rank - 1], 1)
