"""The metrics of a serving pod, by revision, model and arm where they belong to a run."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from evolving_agent.runtime.traffic import Arm

RUN_LABELS = ("revision", "model", "arm")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
WRITE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
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
        self.cost = counter("cost_usd", "US dollars spent on tokens, at spec.model.pricing.", *RUN_LABELS)
        self.tool_calls = counter(
            "tool_calls", "Calls of tools: ok, cut, error, stubbed.", *RUN_LABELS, "tool", "outcome"
        )
        self.client_tool_calls = counter(
            "client_tool_calls", "Calls of tools that clients brought, left to them.", *RUN_LABELS
        )
        self.tool_usable = gauge(
            "tool_usable", "0: the functions behind a tool cannot be had, it is served without.", "tool"
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
        self.reflection_tokens = counter(
            "reflection_tokens", "Tokens of reflections after a run: input, output.", "model", "direction"
        )
        self.reflections_skipped = counter("reflections_skipped", "Runs not reflected upon.", "reason")
        self.shadow_skipped = counter(
            "shadow_skipped", "Requests of the shadow's share not shown to it.", "reason"
        )
        self.memory_recalls = counter(
            "memory_recalls", "Prompts with memories: hit, miss, failed.", "outcome"
        )
        self.turns_kept = counter("turns_kept", "Turns of sessions kept: ok, failed.", "outcome")
        self.fallbacks = counter(
            "fallbacks",
            "Requests that another revision answered because the model was gone.",
            *("revision", "model", "answered_by"),
        )
        self.model_missing = gauge(
            "model_missing", "1 while the latest request found the model gone (404).", "model"
        )
        self.memory_up = gauge("memory_up", "1 while what is remembered can be read and written.", "type")
        self.memory_writes = counter("memory_writes", "What memory was given: ok, failed.", "outcome")
        self.log_records = counter("log_records", "Lines written to the experience log.", "kind")
        self.log_seconds = histogram(
            "log_write_seconds",
            "Time until a group of lines was on the disk (synced).",
            WRITE_SECONDS,
            "kind",
        )
        self.log_dropped = counter("log_dropped", "Lines lost: the store refused them too long.", "kind")
        self.log_late = counter(
            "log_late", "Lines whose answer did not wait for the disk, because it took too long.", "kind"
        )
        self.log_failures = counter("log_write_failures", "Refused writes to the store.", "kind")
        self.log_buffered = gauge("log_buffered_bytes", "Waiting for a store that refuses writes.", "kind")
        self.log_ship_failures = counter("log_ship_failures", "Refused uploads to the object store.")
        self.log_unshipped = gauge(
            "log_unshipped_bytes", "Log on the pod's disk that is not in the object store yet."
        )
        self.config_reloads = counter("config_reloads", "New contents of agent_config.json.", "outcome")
        self.config_valid = gauge(
            "config_valid", "0: agent_config.json is broken, the last good one is served."
        )
        for kind in ("episode", "reflection"):  # a loss is a change from 0: it must be there from the start
            self.log_dropped.labels(kind)
            self.log_failures.labels(kind)
            self.log_late.labels(kind)
            self.log_buffered.labels(kind)
        self.config_reloads.labels("failed")

    def exposition(self) -> bytes:
        return generate_latest(self._registry)

    def run_ended(self, arm: Arm, outcome: str, seconds: float) -> None:
        self.requests.labels(*arm.labels, outcome).inc()
        self.seconds.labels(*arm.labels).observe(seconds)

    def tokens_used(self, arm: Arm, input_tokens: int, output_tokens: int) -> None:
        """Of one run; a specialist's own model counts as the agent's."""
        self.tokens.labels(*arm.labels, "input").inc(input_tokens)
        self.tokens.labels(*arm.labels, "output").inc(output_tokens)
        self._spent(arm, input_tokens, output_tokens)

    def reflection_tokens_used(self, arm: Arm, model: str, input_tokens: int, output_tokens: int) -> None:
        """Of a call after a run; what another model than the agent's costs is not known."""
        self.reflection_tokens.labels(model, "input").inc(input_tokens)
        self.reflection_tokens.labels(model, "output").inc(output_tokens)
        if model == arm.config.model.id:
            self._spent(arm, input_tokens, output_tokens)

    def _spent(self, arm: Arm, input_tokens: int, output_tokens: int) -> None:
        pricing = arm.config.model.pricing
        if pricing is not None:
            self.cost.labels(*arm.labels).inc(pricing.usd(input_tokens, output_tokens))

    def lines_written(self, kind: str, count: int, seconds: float) -> None:
        self.log_records.labels(kind).inc(count)
        self.log_seconds.labels(kind).observe(seconds)

    def lines_dropped(self, kind: str, count: int) -> None:
        self.log_dropped.labels(kind).inc(count)

    def ship_failed(self) -> None:
        self.log_ship_failures.inc()

    def unshipped(self, size: int) -> None:
        self.log_unshipped.set(size)

    def late(self, kind: str) -> None:
        self.log_late.labels(kind).inc()

    def write_failed(self, kind: str) -> None:
        self.log_failures.labels(kind).inc()

    def buffered(self, kind: str, size: int) -> None:
        self.log_buffered.labels(kind).set(size)
