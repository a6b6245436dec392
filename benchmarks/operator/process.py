"""The operator as a process of its own, and what it says and the kernel says of it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

_PREFIX = "evolving_operator"
_TICKS = os.sysconf("SC_CLK_TCK")
# `replace` is the Lease's renewal: a write by the clock, not by the number of agents.
_WRITES = frozenset({"apply", "apply_status", "create", "delete"})
# Only what is read here: with thousands of agents the whole is work that would be measured, too.
_ASKED = [
    ("name[]", f"{_PREFIX}_{name}")
    for name in ("api_requests_total", "reconciles_total", "queue_depth", "leader")
]


@dataclass(frozen=True)
class Reading:
    """One look at a running operator."""

    at: float  # time.monotonic()
    cpu: float  # seconds of user and system time since its start
    rss_peak: int  # bytes
    writes: int  # requests that change something, the Lease's left out, whatever their answer
    reconciles: int  # those that ended well
    waiting: int  # agents that wait for a worker
    is_ready: bool  # its first lists are complete: it can take over
    is_leading: bool


@dataclass(frozen=True)
class OperatorProcess:
    process: asyncio.subprocess.Process
    port: int
    log: Path
    started: float  # time.monotonic()

    async def read(self) -> Reading | None:
        """None while it does not answer yet. Raises RuntimeError where it has ended."""
        if self.process.returncode is not None:
            raise RuntimeError(
                f"the operator ended with {self.process.returncode}:\n{self.log.read_text()[-2000:]}"
            )
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{self.port}") as session:
                async with session.get("/readyz") as answer:
                    is_ready = answer.status == 200
                async with session.get("/metrics", params=_ASKED) as answer:
                    text = await answer.text()
        except aiohttp.ClientError:
            return None
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

        def total(name: str, label: str = "", values: frozenset[str] = frozenset()) -> int:
            return round(
                sum(
                    sample.value
                    for sample in samples
                    if sample.name == f"{_PREFIX}_{name}" and (not label or sample.labels[label] in values)
                )
            )

        return Reading(
            at=time.monotonic(),
            cpu=_cpu_seconds(self.process.pid),
            rss_peak=_peak_bytes(self.process.pid),
            writes=total("api_requests_total", "verb", _WRITES),
            reconciles=total("reconciles_total", "result", frozenset({"success"})),
            waiting=total("queue_depth"),
            is_ready=is_ready,
            is_leading=total("leader") == 1,
        )

    async def now(self) -> Reading:
        """Wait until it answers."""
        while (reading := await self.read()) is None:  # noqa: ASYNC110 (another process decides)
            await asyncio.sleep(0.1)
        return reading


@asynccontextmanager
async def running_operator(
    kubeconfig: Path, namespace: str, workers: int, log: Path
) -> AsyncIterator[OperatorProcess]:
    """For all namespaces, its Lease in the one that is named. Ended by SIGTERM, as Kubernetes would."""
    port = _free_port()
    environment = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "EVOLVING_OPERATOR_LEASE_NAMESPACE": namespace,
        "EVOLVING_OPERATOR_METRICS_PORT": str(port),
        "EVOLVING_OPERATOR_WORKERS": str(workers),
        "EVOLVING_OPERATOR_LOG_LEVEL": "WARNING",
    }
    started = time.monotonic()
    with log.open("ab") as stream:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "evolving_operator", "run", env=environment, stderr=stream
        )
    try:
        yield OperatorProcess(process, port, log, started)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    return (user + system) / _TICKS


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status names no VmHWM")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
