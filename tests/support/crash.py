"""One agent's life under an operator that is killed at one of its writes: does it end as it ends without?

The operator is a process of its own behind a `RecordingProxy`; whenever it ends, it is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import Configuration

from evolving_operator.cluster.errors import NotFound
from evolving_operator.cluster.kinds import LEASE
from evolving_operator.cluster.live import Connection, LiveGateway
from evolving_operator.core.plan import ObjectRef
from support.agent_story import PASSAGE_SECONDS, Story, component_of
from support.cluster import NotInTimeError, RunningCluster, eventually_async
from support.recording_proxy import CrashPoint, RecordingProxy, Side, Write

Raw = dict[str, Any]

_LEASE_NAME = "evolving-operator"
_QUIET_SECONDS = 2.5
_AGREE_SECONDS = 30


@dataclass(frozen=True)
class Life:
    """What one run came to."""

    points: tuple[CrashPoint, ...]
    writes: tuple[Write, ...]
    strikes: int  # how often the operator died
    state: Raw | None  # None: it did not come to the end
    faults: tuple[str, ...]  # differences from what was expected, and what else was not as it should be

    def __str__(self) -> str:
        if not self.points:
            return "undisturbed"
        point, *others = self.points
        where = f"{point.side} write {point.index}"
        if point.index < len(self.writes):
            where += f", {self.writes[point.index]}"
        return where + (f", and {len(others)} more" if others else "")


def crash_points(writes: int) -> list[CrashPoint]:
    """Both sides of every write."""
    return [CrashPoint(index, side) for index in range(writes) for side in Side]


def spread(points: Sequence[CrashPoint], limit: int) -> list[CrashPoint]:
    """At most `limit` of them, evenly."""
    count = min(limit, len(points))
    return [points[number * len(points) // count] for number in range(count)]


async def live_all(
    cluster: RunningCluster,
    directory: Path,
    points: Sequence[CrashPoint],
    expected: Raw,
    *,
    at_once: int,
    on_end: Callable[[Life], None] = lambda _: None,
) -> list[Life]:
    """One life for each point, some of them at the same time."""
    gate = asyncio.Semaphore(at_once)

    async def one(point: CrashPoint) -> Life:
        async with gate:
            life = await live(cluster, directory, point, expected=expected)
        on_end(life)
        return life

    return await asyncio.gather(*(one(point) for point in points))


async def live(
    cluster: RunningCluster, directory: Path, *points: CrashPoint, expected: Raw | None = None
) -> Life:
    """An agent's life, with a death of the operator in it at each of the points."""
    connection = await _administrator(cluster.kubeconfig)
    async with _namespace(cluster) as namespace, LiveGateway(connection) as gateway:
        operator = _Operator(directory / f"{namespace}.log", namespace, gateway)
        proxy = RecordingProxy(connection, frozenset(points), operator.kill)
        story = Story(gateway, namespace)
        state: Raw | None = None
        faults: list[str] = []
        async with (
            proxy.serving() as url,
            _background(operator.keep_running(url, proxy)),
            _background(story.play_node()),
        ):
            try:
                await story.tell()
                state = await _end_state(story, proxy, expected)
                faults += differences(expected, state) if expected is not None else []
            except NotInTimeError as error:
                faults.append(f"lost: {error}")
        faults += operator.faults()
        return Life(points, tuple(proxy.writes), proxy.strikes, state, tuple(faults))


async def _end_state(story: Story, proxy: RecordingProxy, expected: Raw | None) -> Raw:
    """What is left once the operator has nothing more to do; a little later, where it is not `expected`.

    Later, because to be slow is no divergence.
    """

    async def is_quiet() -> bool:
        if proxy.leading_since is None:
            return False
        return time.monotonic() - max(proxy.leading_since, proxy.last_write_at) > _QUIET_SECONDS

    deadline = time.monotonic() + _AGREE_SECONDS
    while True:
        await eventually_async(is_quiet, PASSAGE_SECONDS, "the operator has nothing more to do")
        created = [write.target for write in proxy.writes if write.is_creation]
        jobs = [target.removeprefix("jobs/") for target in created if target.startswith("jobs/")]
        state = {**await story.state(), "jobsCreated": dict(Counter(map(component_of, jobs)))}
        if expected in (None, state) or time.monotonic() > deadline:
            return state
        await asyncio.sleep(1)


def differences(expected: object, found: object, path: str = "") -> list[str]:
    """Where two JSON documents differ, one line for each place."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [
            line
            for key in sorted(expected.keys() | found.keys())
            for line in differences(expected.get(key), found.get(key), f"{path}.{key}" if path else key)
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [
            line
            for index, (left, right) in enumerate(zip(expected, found, strict=True))
            for line in differences(left, right, f"{path}[{index}]")
        ]
    return [] if expected == found else [f"{path}: {found!r} instead of {expected!r}"]


# --- the operator ---------------------------------------------------------------------------------


@dataclass
class _Operator:
    """`evolving-operator run` for one namespace, started again whenever it ends."""

    log: Path
    namespace: str
    gateway: LiveGateway
    _process: asyncio.subprocess.Process | None = None
    _exits: list[int] = field(default_factory=list)

    def kill(self) -> None:
        """At once, as a power cut would."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def keep_running(self, url: str, proxy: RecordingProxy) -> None:
        kubeconfig = self.log.with_suffix(".kubeconfig")
        kubeconfig.write_text(json.dumps(_kubeconfig(url)))
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "EVOLVING_OPERATOR_NAMESPACES": self.namespace,
            "EVOLVING_OPERATOR_LEASE_NAMESPACE": self.namespace,
            "EVOLVING_OPERATOR_LEASE_NAME": _LEASE_NAME,
            "EVOLVING_OPERATOR_METRICS_PORT": "0",
        }
        try:
            while True:
                proxy.leading_since = None
                with self.log.open("ab") as stream:
                    self._process = await asyncio.create_subprocess_exec(
                        sys.executable, "-m", "evolving_operator", "run", env=environment, stderr=stream
                    )
                self._exits.append(await self._process.wait())
                await self._release_lease()
        finally:
            self.kill()
            if self._process is not None:
                await self._process.wait()

    async def _release_lease(self) -> None:
        """Its holder is dead for certain: the next process need not wait until the Lease has run out."""
        with contextlib.suppress(NotFound):
            await self.gateway.delete(ObjectRef(LEASE.api_version, LEASE.kind, self.namespace, _LEASE_NAME))

    def faults(self) -> Iterator[str]:
        """What should not have been: ends that nobody asked for, and errors in the log."""
        yield from (f"the operator ended with {code}" for code in self._exits if code != -signal.SIGKILL)
        for line in self.log.read_text().splitlines():
            entry = json.loads(line) if line.startswith("{") else {"level": "ERROR", "message": line}
            if entry["level"] in ("ERROR", "CRITICAL"):
                yield f"the operator logged: {entry['message']} {entry.get('error', '')}"


def _kubeconfig(url: str) -> Raw:
    """Without credentials: the proxy has its own."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "proxy",
        "clusters": [{"name": "proxy", "cluster": {"server": url}}],
        "users": [{"name": "proxy", "user": {}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
    }


@asynccontextmanager
async def _namespace(cluster: RunningCluster) -> AsyncIterator[str]:
    name = f"crash-{uuid.uuid4().hex[:10]}"
    await asyncio.to_thread(cluster.kubectl, "create", "namespace", name)
    try:
        yield name
    finally:
        await asyncio.to_thread(cluster.kubectl, "delete", "namespace", name, "--wait=false")


@asynccontextmanager
async def _background(work: Awaitable[None]) -> AsyncIterator[None]:
    """Goes on while the body runs; a failure of it is raised at the end."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _administrator(kubeconfig: Path) -> Connection:
    configuration = Configuration()
    await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=str(kubeconfig), client_configuration=configuration
    )
    return Connection(configuration)
