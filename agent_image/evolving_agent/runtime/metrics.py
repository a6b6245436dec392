"""The metrics of a serving pod, by revision, model and arm where they belong to a run."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from evolving_agent.runtime.traffic import Arm

RUN_LABELS = ("revision", "model", "arm")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
SCORES = tuple(float(score) for score in range(0, 101, 10))
UNKNOWN_TOOL = "(unknown)"  # a label must not take whatever name a model makes up


class Metrics:
    """Everything that `GET /metrics` shows; also told by the experience log what becomes of its lines."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(f"evolving_agent_{name}", help_text, labels, registry=registry)

        def gauge(name: str, help_text: str, *labels: str) -> Gauge:
            return Gauge(f"evolving_agent_{name}", help_text, labels, registry=registry)

        def histogram(name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"evolving_agent_{name}", help_text, labels, buckets=buckets, registry=registry)

        self.info = gauge("info", "What this pod serves; always 1.", "agent", "revision", "model", "config")
        self.ready = gauge("ready", "1 once the served model has answered, 0 before and while draining.")
        self.requests = counter("requests", "Runs of the agent by how they ended.", *RUN_LABELS, "outcome")
        self.refused = counter("requests_refused", "Requests that never reached the agent.", "reason")
        self.in_flight = gauge("requests_in_flight", "Requests that are being answered.")
        self.seconds = histogram("request_seconds", "Time of a whole run.", SECONDS, *RUN_LABELS)
        self.first_token = histogram(
            "first_token_seconds", "Time to the first piece of a streamed answer.", SECONDS, *RUN_LABELS
        )
        self.tokens = counter("tokens", "Tokens by direction: input, output.", *RUN_LABELS, "direction")
        self.tool_calls = counter(
            "tool_calls", "Calls of tools: ok, error, stubbed.", *RUN_LABELS, "tool", "outcome"
        )
        self.handoffs = counter(
            "handoffs", "Conversations handed to a specialist.", *RUN_LABELS, "specialist"
        )
        self.upstream_errors = counter("upstream_errors", "The model did not answer.", "model", "reason")
        self.reflections = counter(
            "reflections", "Reflections: parsed, unparsed, failed.", *RUN_LABELS, "source", "outcome"
        )
        self.reflection_score = histogram(
            "reflection_score", "Scores that reflections gave (0 to 100).", SCORES, *RUN_LABELS, "source"
        )
        self.reflections_skipped = counter("reflections_skipped", "Runs not reflected upon.", "reason")
        self.shadow_skipped = counter(
            "shadow_skipped", "Requests of the shadow's share not shown to it.", "reason"
        )
        self.memory_recalls = counter(
            "memory_recalls", "Prompts with memories: hit, miss, failed.", "outcome"
        )
        self.memory_writes = counter("memory_writes", "What memory was given: ok, failed.", "outcome")
        self.log_records = counter("log_records", "Lines written to the experience log.", "kind")
        self.log_dropped = counter("log_dropped", "Lines lost: the store refused them too long.", "kind")
        self.log_failures = counter("log_write_failures", "Refused writes to the store.", "kind")
        self.log_buffered = gauge("log_buffered_bytes", "Waiting for a store that refuses writes.", "kind")
        self.config_reloads = counter("config_reloads", "New contents of agent_config.json.", "outcome")
        self.config_valid = gauge(
            "config_valid", "0: agent_config.json is broken, the last good one is served."
        )
        for kind in ("episode", "reflection"):  # a loss is a change from 0: it must be there from the start
            self.log_dropped.labels(kind)
            self.log_failures.labels(kind)
        self.config_reloads.labels("failed")

    def exposition(self) -> bytes:
        return generate_latest(self._registry)

    def run_ended(self, arm: Arm, outcome: str, seconds: float) -> None:
        self.requests.labels(*arm.labels, outcome).inc()
        self.seconds.labels(*arm.labels).observe(seconds)

    def line_written(self, kind: str) -> None:
        self.log_records.labels(kind).inc()

    def line_dropped(self, kind: str) -> None:
        self.log_dropped.labels(kind).inc()

    def write_failed(self, kind: str) -> None:
        self.log_failures.labels(kind).inc()

    def buffered(self, kind: str, size: int) -> None:
        self.log_buffered.labels(kind).set(size)
