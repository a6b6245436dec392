"""What operators of the operator look at: metrics, liveness, readiness."""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from evolving_operator.api.models import (
    AgentRevisionStatus,
    EvolvingAgentStatus,
    RolloutStep,
    RunState,
    RunStatus,
)
from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.records import AgentKey, Raw

_PREFIX = "evolving_operator"
_AGENT = ("namespace", "agent")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Telemetry:
    """All metrics of one operator process, in a registry of their own."""

    def __init__(self, cache: Cache, queue_depth: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.heartbeat = Heartbeat()
        self._reconciles = self._counter("reconciles_total", "Decisions taken and executed.", "result")
        self._reconcile_seconds = self._histogram(
            "reconcile_duration_seconds", "Duration of one decision and its execution.", "result"
        )
        self._requests = self._counter("api_requests_total", "Requests to the API server.", "verb", "code")
        self._request_seconds = self._histogram(
            "api_request_duration_seconds", "Duration of one request to the API server.", "verb"
        )
        self._curations = self._counter("curations_total", "Curation runs that ended.", *_AGENT, "outcome")
        self._trainings = self._counter("trainings_total", "Training runs that ended.", *_AGENT, "outcome")
        self._verdicts = self._counter("verdicts_total", "Verdicts on candidates.", *_AGENT, "result")
        self._promotions = self._counter(
            "promotions_total", "Revisions brought to the users.", *_AGENT, "reason"
        )
        self._rollbacks = self._counter("rollbacks_total", "Revisions taken back.", *_AGENT, "reason")
        self._pods_asked = self._counter(
            "pods_asked_total", "Serving pods that were asked about live requests: ok, silent.", "outcome"
        )
        self.leader = Gauge(f"{_PREFIX}_leader", "1 while this process decides.", registry=self.registry)
        Gauge(
            f"{_PREFIX}_queue_depth", "Agents that wait for a worker.", registry=self.registry
        ).set_function(queue_depth)
        Gauge(
            f"{_PREFIX}_watch_heartbeat_age_seconds",
            "Time since a renewal of the Lease was seen through the watch.",
            registry=self.registry,
        ).set_function(lambda: self.heartbeat.age)
        self.registry.register(_Agents(cache))

    def reconciled(self, result: str, seconds: float) -> None:
        self._reconciles.labels(result).inc()
        self._reconcile_seconds.labels(result).observe(seconds)

    def requested(self, verb: str, code: str, seconds: float) -> None:
        self._requests.labels(verb, code).inc()
        self._request_seconds.labels(verb).observe(seconds)

    def pod_asked(self, has_told: bool) -> None:
        self._pods_asked.labels("ok" if has_told else "silent").inc()

    def agent_changed(self, key: AgentKey, before: EvolvingAgentStatus, after: EvolvingAgentStatus) -> None:
        """Count what a status that has just been written commits."""
        for counter, old, new in (
            (self._curations, before.curation, after.curation),
            (self._trainings, before.training, after.training),
        ):
            if new is not None and _has_just_ended(old, new):
                counter.labels(*key, new.state).inc()
        rollout = after.rollout
        if before.active is None or after.active is None or rollout is None:
            return
        if before.active.revision != after.active.revision:
            was_taken_back = rollout.step is RolloutStep.ROLLED_BACK
            counter = self._rollbacks if was_taken_back else self._promotions
            counter.labels(*key, rollout.reason).inc()

    def agent_is_gone(self, key: AgentKey) -> None:
        """Its series end: where agents come and go, they would be more each day."""
        labels = dict(zip(_AGENT, key, strict=True))
        for counter in (self._curations, self._trainings, self._verdicts, self._promotions, self._rollbacks):
            counter.remove_by_labels(labels)

    def revision_changed(
        self, key: AgentKey, before: AgentRevisionStatus | None, after: AgentRevisionStatus
    ) -> None:
        known = before.attempt if before is not None else None
        if after.result is not None and after.attempt != known:
            self._verdicts.labels(*key, after.result).inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"{_PREFIX}_{name}", text, labels, registry=self.registry, buckets=_BUCKETS)


class Heartbeat:
    """When the watch last brought proof that it is alive."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        self._last = self._clock()

    @property
    def age(self) -> float:
        """Seconds since the last beat, or since the start."""
        return self._clock() - self._last


class _Agents(Collector):
    """Reads the cached agents when asked, instead of keeping count at each change."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return self._families(())

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families(self._cache.agents())

    def _families(self, documents: Iterable[Raw]) -> Iterable[GaugeMetricFamily]:
        agents = _gauge("agents", "EvolvingAgents.")
        conditions = _gauge(
            "agent_conditions", "EvolvingAgents by type and status of a condition.", "type", "status"
        )
        ready = _gauge("agent_ready", "1 while the condition Ready is True.", *_AGENT)
        info = _gauge("agent_info", "1 for each agent and what it serves.", *_AGENT, "revision", "model")
        examples = _gauge("dataset_examples", "Training examples in the newest dataset.", *_AGENT)
        scores = _gauge(
            "verdict_score_bps",
            "Mean score in the newest verdict, in basis points: candidate, baseline.",
            *_AGENT,
            "side",
        )
        runs = _gauge(
            "run_state", "1 for the state of the latest run: curation, training.", *_AGENT, "run", "state"
        )
        tally: Tally[tuple[str, str]] = Tally()
        count = 0
        for raw in documents:
            count += 1
            status = raw.get("status") or {}
            name = (raw["metadata"]["namespace"], raw["metadata"]["name"])
            found = {item["type"]: item["status"] for item in status.get("conditions", ())}
            tally.update(found.items())
            ready.add_metric(name, found.get("Ready") == "True")
            if active := status.get("active"):
                info.add_metric((*name, active["revision"], active["modelID"]), 1)
            if dataset := status.get("dataset"):
                examples.add_metric(name, dataset["examples"])
            for side in ("baseline", "candidate"):
                if (score := status.get("lastVerdict", {}).get(side)) is not None:
                    scores.add_metric((*name, side), score)
            for run in ("curation", "training"):
                if latest := status.get(run):
                    runs.add_metric((*name, run, latest["state"]), 1)
        agents.add_metric((), count)
        for labels, number in sorted(tally.items()):
            conditions.add_metric(labels, number)
        return agents, conditions, ready, info, examples, scores, runs


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=labels)


@dataclass(frozen=True)
class Probes:
    """What /healthz and /readyz answer by: None is well, a text says what is not."""

    unhealthy: Callable[[], str | None]
    unready: Callable[[], str | None]


async def serve(telemetry: Telemetry, probes: Probes, port: int) -> web.AppRunner:
    """Start the HTTP server on all addresses. The caller cleans the runner up."""

    async def metrics(request: web.Request) -> web.Response:
        # `name[]` asks for single metrics, as in every Prometheus client.
        names = request.query.getall("name[]", [])
        registry = telemetry.registry.restricted_registry(names) if names else telemetry.registry
        # In a thread: with thousands of agents it takes as long as hundreds of decisions.
        text = await asyncio.to_thread(generate_latest, registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    def probe(fault: Callable[[], str | None]) -> Callable[[web.Request], object]:
        async def answer(_: web.Request) -> web.Response:
            problem = fault()
            return web.Response(text=problem or "ok", status=200 if problem is None else 503)

        return answer

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", probe(probes.unhealthy))  # type: ignore[arg-type]
    app.router.add_get("/readyz", probe(probes.unready))  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner


def _has_just_ended(before: RunStatus | None, after: RunStatus) -> bool:
    if after.state is RunState.RUNNING:
        return False
    return before is None or (before.job, before.state) != (after.job, after.state)
