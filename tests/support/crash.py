"""One agent's life under an operator that is killed at one of its writes: does it end as it ends without?

The operator is a process of its own behind a `RecordingProxy`; whenever it ends, it is started again. A
user and kubelet are played. What is left at the end is compared without what differs from run to run:
times, the namespace, the agent's UID.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
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

from evolving_agent.contract.report import (
    CurationReport,
    DatasetRef,
    EvaluationReport,
    Outcome,
    Report,
    SuiteResult,
    ValidationReport,
)
from evolving_operator.api import names
from evolving_operator.cluster.errors import ClusterError, NotFound
from evolving_operator.cluster.kinds import AGENT, EVENT, LEASE, OWNED, REVISION, Kind, kind_of
from evolving_operator.cluster.live import Connection, LiveGateway
from evolving_operator.core.plan import ObjectRef
from evolving_operator.testing.simulation import revision_of, training_report
from support.cluster import NotInTimeError, RunningCluster, eventually_async
from support.kubelet import pod_status, running, terminated
from support.recording_proxy import CrashPoint, RecordingProxy, Side, Write

Raw = dict[str, Any]

NAME = "support"
_LEASE_NAME = "evolving-operator"
_POD = kind_of("v1", "Pod")
_NODE_POLL_SECONDS = 0.25
_STEP_SECONDS = 180  # for one passage of the story; a machine that is busy is slow, not wrong
_QUIET_SECONDS = 2.5
_AGREE_SECONDS = 30
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
# Chosen by the API server or its controllers.
_ALLOTTED = frozenset({"clusterIP", "clusterIPs", "volumeName"})

SPEC: Raw = {
    "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
    "agent": {"instructions": "You route requests.", "replicas": 2},
    "curation": {"schedule": "0 1 1 1 *"},
    "training": {
        "schedule": "0 3 1 1 *",
        "backend": {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}},
    },
    "rollout": {"bakeSeconds": 0},
}


@dataclass(frozen=True)
class Life:
    """What one run came to."""

    point: CrashPoint | None
    writes: tuple[Write, ...]
    has_struck: bool
    state: Raw | None  # None: it did not come to the end
    faults: tuple[str, ...]  # differences from what was expected, and what else was not as it should be

    def __str__(self) -> str:
        if self.point is None:
            return "undisturbed"
        where = f"{self.point.side} write {self.point.index}"
        if self.point.index < len(self.writes):
            where += f", {self.writes[self.point.index]}"
        return where


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
            life = await live(cluster, directory, point, expected)
        on_end(life)
        return life

    return await asyncio.gather(*(one(point) for point in points))


async def live(
    cluster: RunningCluster, directory: Path, point: CrashPoint | None = None, expected: Raw | None = None
) -> Life:
    """An agent's life, with one death of the operator in it where a point says so."""
    connection = await _administrator(cluster.kubeconfig)
    async with _namespace(cluster) as namespace, LiveGateway(connection) as gateway:
        operator = _Operator(directory / f"{namespace}.log", namespace, gateway)
        proxy = RecordingProxy(connection, point, operator.kill)
        world = _World(gateway, namespace, proxy, operator)
        state, faults = None, []
        async with (
            proxy.serving() as url,
            _background(operator.keep_running(url, proxy)),
            _background(world.play_node()),
        ):
            try:
                await world.tell_story()
                state = await world.end_state(expected)
                faults += differences(expected, state) if expected is not None else []
            except NotInTimeError as error:
                faults.append(f"lost: {error}")
        faults += operator.faults()
        return Life(point, tuple(proxy.writes), proxy.has_struck, state, tuple(faults))


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


# --- the world around it --------------------------------------------------------------------------


@dataclass
class _World:
    """The user, kubelet, and whoever looks at what is left."""

    gateway: LiveGateway
    namespace: str
    proxy: RecordingProxy
    operator: _Operator

    async def tell_story(self) -> None:
        """Created, served; curated; trained, proven, promoted, validated; once more, and taken back.

        Raises NotInTimeError, naming the passage.
        """
        await self._apply()
        await self._reach("the base model is served", lambda status: _is_well(status))
        await self._apply("curate:1")
        await self._reach("curated", lambda status: status["curation"]["state"] == "Succeeded")
        await self._apply("finetune:1")
        await self._reach("promoted", _has_rollout(_GOOD, "Done"))
        await self._apply("finetune:2")
        await self._reach("taken back", _has_rollout(_BAD, "RolledBack"))
        await self._reach("the first model is served again", lambda status: _is_well(status))

    async def play_node(self) -> None:
        """Serving pods become ready, Jobs' pods end with the report that the story has for them."""
        while True:
            with contextlib.suppress(ClusterError):  # a pod may go while we speak for it
                for pod in (await self.gateway.list_all(_POD, self.namespace))[0]:
                    await self._play_kubelet(pod)
            await asyncio.sleep(_NODE_POLL_SECONDS)

    async def end_state(self, expected: Raw | None) -> Raw:
        """What is left once the operator has nothing more to do, and a little later if it is not `expected`.

        Later, because to be slow is no divergence.
        """
        deadline = time.monotonic() + _AGREE_SECONDS
        while True:
            await eventually_async(self._is_quiet, _STEP_SECONDS, "the operator has nothing more to do")
            state = await self._state()
            if expected in (None, state) or time.monotonic() > deadline:
                return state
            await asyncio.sleep(1)

    async def _apply(self, run: str | None = None) -> None:
        metadata: Raw = {"name": NAME, "namespace": self.namespace}
        if run is not None:
            metadata["annotations"] = {names.ANNOTATION_RUN: run}
        agent = {"apiVersion": AGENT.api_version, "kind": AGENT.kind, "metadata": metadata, "spec": SPEC}
        await self.gateway.apply(agent)

    async def _reach(self, passage: str, is_reached: Callable[[Raw], bool]) -> None:
        async def reached() -> bool:
            status = (await self.gateway.read(AGENT, self.namespace, NAME)).get("status", {})
            try:
                return is_reached(status)
            except KeyError:  # a field that is not there yet
                return False

        await eventually_async(reached, _STEP_SECONDS, passage)

    async def _play_kubelet(self, pod: Raw) -> None:
        labels, phase = pod["metadata"]["labels"], pod.get("status", {}).get("phase")
        job = labels.get("batch.kubernetes.io/job-name")
        if job is None and phase == "Pending":
            status = pod_status(pod, "Running", running(), ready=True)
        elif phase == "Pending" and (report := _REPORTS.get(job)) is not None:
            status = pod_status(pod, "Succeeded", {"terminated": terminated(report, 0)}, ready=False)
        else:
            return
        metadata = {"name": pod["metadata"]["name"], "namespace": self.namespace}
        await self.gateway.apply_status(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}
        )

    async def _is_quiet(self) -> bool:
        if self.proxy.leading_since is None:
            return False
        since = max(self.proxy.leading_since, self.proxy.last_write_at)
        return time.monotonic() - since > _QUIET_SECONDS

    async def _state(self) -> Raw:
        agent = await self.gateway.read(AGENT, self.namespace, NAME)
        created = [
            write.target for write in self.proxy.writes if write.method == "POST" and write.took_effect
        ]
        state: Raw = {
            "status": agent["status"],
            "children": {},
            "revisions": {},
            "jobs": Counter(),
            "jobsCreated": Counter(
                _component(target.removeprefix("jobs/")) for target in created if target.startswith("jobs/")
            ),
            "events": Counter(event["reason"] for event in await self._all(EVENT)),
        }
        for kind in OWNED:
            for raw in await self._all(kind):
                name = raw["metadata"]["name"]
                if kind == REVISION:
                    state["revisions"][name] = {"spec": raw["spec"], "status": raw["status"]}
                elif kind.kind == "Job":
                    state["jobs"][_component(name)] += 1
                elif kind != _POD:
                    state["children"][f"{kind.kind}/{name}"] = _essence(raw)
        text = json.dumps(state).replace(agent["metadata"]["uid"], "UID").replace(self.namespace, "NAMESPACE")
        normal: Raw = json.loads(_TIME.sub("TIME", text))
        return normal

    async def _all(self, kind: Kind) -> list[Raw]:
        return (await self.gateway.list_all(kind, self.namespace))[0]


def _essence(raw: Raw) -> Raw:
    """Of a child, what the operator asks for. Its hash covers the UID and says nothing between runs."""
    annotations = {
        key: value
        for key, value in raw["metadata"].get("annotations", {}).items()
        if key.startswith(names.GROUP) and key != names.ANNOTATION_APPLIED_HASH
    }
    spec = {key: value for key, value in raw.get("spec", {}).items() if key not in _ALLOTTED}
    return {
        "labels": raw["metadata"]["labels"],
        "annotations": annotations,
        "owners": raw["metadata"].get("ownerReferences"),
        "spec": spec,
        "data": raw.get("data"),
    }


def _component(job: str) -> str:
    return job.removeprefix(f"{NAME}-").partition("-")[0]


def _is_well(status: Raw) -> bool:
    conditions = {item["type"]: item for item in status["conditions"]}
    return conditions["Progressing"]["reason"] == "Converged" and conditions["Ready"]["status"] == "True"


def _has_rollout(revision: str, step: str) -> Callable[[Raw], bool]:
    return lambda status: (status["rollout"]["revision"], status["rollout"]["step"]) == (revision, step)


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


# --- what the Jobs report -------------------------------------------------------------------------

_GOOD, _BAD = revision_of(NAME, "smollm2-ft-1"), revision_of(NAME, "smollm2-ft-2")


def _suite(candidate: int) -> SuiteResult:
    return SuiteResult(
        suite="holdout",
        samples=50,
        baseline_bps=2000,
        candidate_bps=candidate,
        delta_bps=candidate - 2000,
        lower_bps=candidate - 3500,
    )


def _reports() -> Iterator[tuple[str, Report]]:
    """By the name of the Job. A Job that is not in the story never ends."""
    dataset = DatasetRef(version="d1", digest="digest-d1", examples=100, holdout=50)
    succeeded = {"run_id": "run", "outcome": Outcome.SUCCEEDED, "message": ""}
    yield (
        names.on_demand_job(NAME, "curate", "curate:1"),
        CurationReport(**succeeded, reason="DatasetWritten", dataset=dataset),
    )
    for number, revision, score in ((1, _GOOD, 8500), (2, _BAD, 3000)):
        yield (
            names.on_demand_job(NAME, "finetune", f"finetune:{number}"),
            training_report(f"smollm2-ft-{number}"),
        )
        yield (
            names.evaluate_job(revision, ""),
            EvaluationReport(
                **succeeded,
                reason="Measured",
                candidate="candidate",
                incumbent="incumbent",
                suites=(_suite(8500),),
            ),
        )
        yield (
            names.validate_job(revision),
            ValidationReport(**succeeded, reason="Measured", revision=revision, suites=(_suite(score),)),
        )


_REPORTS = dict(_reports())
