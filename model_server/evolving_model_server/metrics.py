"""Prometheus metrics of one server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """Labels hold only IDs of models that exist: a request for an unknown one makes no new series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "evolving_model_requests_total",
            "Chat completions by model and HTTP status (499: the client left before the answer).",
            ["model", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "evolving_model_request_seconds",
            "Time from a chat request's arrival to its last token, waiting included.",
            ["model"],
            buckets=(0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120),
            registry=self.registry,
        )
        self.tokens = Counter(
            "evolving_model_tokens_total",
            "Tokens of completed answers, by kind: prompt or completion.",
            ["model", "kind"],
            registry=self.registry,
        )
        self.waiting = Gauge(
            "evolving_model_requests_in_progress",
            "Generations that run or wait.",
            registry=self.registry,
        )
