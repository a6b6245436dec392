"""Puts all subjects under the same loads, in turns, so that what else the machine does hits all."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.agent.litellm import VERSION
from benchmarks.agent.load import Load, Samples
from benchmarks.agent.report import cell, goals
from benchmarks.agent.subjects import (
    Subject,
    bare_runs,
    cpu_seconds,
    litellm_proxy,
    model_server,
    peak_memory_mib,
    served_agent,
)

REQUESTS = int(os.environ.get("BENCH_REQUESTS", "2000"))  # of each subject at 50 concurrent
ENDURANCE = int(os.environ.get("BENCH_ENDURANCE_REQUESTS", "10000"))  # of the agent alone, for errors
ROUNDS = 5
LOADS = [
    Load(max(ROUNDS, REQUESTS // share), concurrency, stream, model_ms)
    for stream in (False, True)
    for concurrency, share, model_ms in (
        (1, 10, 50),  # nobody waits for anybody; they come one by one, so a tenth of them must do
        (50, 1, 1000),  # as models take; leaves the CPU room, so that latency is no queue
        (50, 2, 50),  # more than one process can answer: what it can
    )
]
WARM_UP = [Load(20, 20, stream, model_ms=50) for stream in (False, True)]


@dataclass
class Measured:
    """All rounds of one subject under one load."""

    samples: Samples = field(default_factory=Samples)
    cpu_seconds: float = 0.0

    def add(self, samples: Samples, cpu_seconds: float) -> None:
        self.samples.seconds += samples.seconds
        self.samples.first += samples.first
        self.samples.errors += samples.errors
        self.samples.elapsed += samples.elapsed
        self.cpu_seconds += cpu_seconds


def run() -> dict[str, Any]:
    """The results, for `table` and for JSON."""
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(_measure(Path(directory)))


async def _measure(directory: Path) -> dict[str, Any]:
    load_before = round(os.getloadavg()[0], 1)
    async with AsyncExitStack() as processes:
        model_url = await processes.enter_async_context(model_server())
        subjects: dict[str, Subject] = {
            "bare": await processes.enter_async_context(bare_runs(model_url)),
            "agent": await processes.enter_async_context(served_agent(directory, model_url)),
            "litellm": await processes.enter_async_context(litellm_proxy(directory, model_url)),
        }
        for subject in subjects.values():
            for load in WARM_UP:
                await subject.drive(load)
        loads = [await _under(load, subjects) for load in LOADS]
        endurance = await _endured(subjects["agent"])
        memory = {name: round(peak_memory_mib(subject.process)) for name, subject in subjects.items()}
    return {
        "command": f"BENCH_REQUESTS={REQUESTS} BENCH_ENDURANCE_REQUESTS={ENDURANCE} "
        "python -m benchmarks agent",
        "litellm_version": VERSION,
        "load_average": {"before": load_before, "after": round(os.getloadavg()[0], 1)},
        "loads": loads,
        "goals": goals(loads, memory["agent"], endurance),
        "endurance": endurance,
        "peak_memory_mib": memory,
    }


async def _under(load: Load, subjects: dict[str, Subject]) -> dict[str, Any]:
    measured = {name: Measured() for name in subjects}
    of_round = replace(load, requests=load.requests // ROUNDS)
    for _ in range(ROUNDS):
        for name, subject in subjects.items():
            before = cpu_seconds(subject.process)
            samples = await subject.drive(of_round)
            measured[name].add(samples, cpu_seconds(subject.process) - before)
    return {
        "concurrency": load.concurrency,
        "streamed": load.stream,
        "model_ms": load.model_ms,
        **{name: cell(of.samples, of.cpu_seconds) for name, of in measured.items()},
    }


async def _endured(agent: Subject) -> dict[str, Any]:
    """Half of the requests whole, half streamed, as fast as the agent answers."""
    measured = Measured()
    for stream in (False, True):
        before = cpu_seconds(agent.process)
        samples = await agent.drive(Load(ENDURANCE // 2, 50, stream, model_ms=0))
        measured.add(samples, cpu_seconds(agent.process) - before)
    return cell(measured.samples, measured.cpu_seconds)
