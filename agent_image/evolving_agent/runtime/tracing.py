"""OpenTelemetry traces of what an agent does, after the semantic conventions for generative AI.

Off unless the environment names a receiver (OTEL_EXPORTER_OTLP_ENDPOINT); all other settings are
OpenTelemetry's own variables. Until `start_tracing` every span is the API's empty one, which costs nothing
worth measuring and keeps the SDK from being loaded. Spans hold no text of a conversation, unless
OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT asks for it.

A request continues its caller's trace, and hands it on (W3C `traceparent`): to the model endpoint and to HTTP
tools as a header; to MCP servers their client gives it in `_meta`. A caller's `baggage` goes no further than
this pod: it may hold what is no model provider's business.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import SpanKind, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
CAPTURE_CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
SERVER_ERROR = 500

logger = logging.getLogger(__name__)
_tracer = trace.get_tracer("evolving_agent")

Attributes = dict[str, str | int | float | bool]


def is_traced(environment: Mapping[str, str]) -> bool:
    """Whether the environment names somebody to send traces to, and does not switch them off."""
    named = any(environment.get(name) for name in ENDPOINTS)
    return named and environment.get("OTEL_SDK_DISABLED", "").lower() != "true"


def captures_content(environment: Mapping[str, str]) -> bool:
    return environment.get(CAPTURE_CONTENT, "").lower() == "true"


def start_tracing(agent: str, pod: str) -> Callable[[], None]:
    """Sends spans from now on, from a thread. Returns what ends it: that blocks, and sends the rest.

    What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes before `agent` and `pod`.
    """
    # loaded only where it is used: 20 MB that most pods do not need
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    own = Resource.create({"service.name": agent, "service.instance.id": pod, "k8s.pod.name": pod})
    provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider.shutdown


@dataclass(frozen=True)
class Span:
    """A span while it runs."""

    _span: trace.Span

    def used(self, input_tokens: int, output_tokens: int) -> None:
        self.note({"gen_ai.usage.input_tokens": input_tokens, "gen_ai.usage.output_tokens": output_tokens})

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def headers(self) -> dict[str, str]:
        """What makes a request's receiver a child of this span; nothing where tracing is off."""
        carrier: dict[str, str] = {}
        if self._span.get_span_context().is_valid:
            inject(carrier, trace.set_span_in_context(self._span))
        return carrier

    def failed(self, kind: str) -> None:
        """`kind` is one of few: a class of error, or a status."""
        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)


def current_span() -> Span:
    """The innermost one of this task; an empty one outside of all spans."""
    return Span(trace.get_current_span())


@contextmanager
def agent_span(agent: str, model: str, *, completion: str, session: str | None) -> Iterator[Span]:
    """One run of the agent; the parent of what happens in it."""
    attributes: Attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "openai",  # the dialect: whose API is spoken
        "gen_ai.agent.name": agent,
        "gen_ai.request.model": model,
        "gen_ai.response.id": completion,
    }
    if session is not None:
        attributes["gen_ai.conversation.id"] = session
    with _current(f"invoke_agent {agent}", attributes) as span:
        yield span


@contextmanager
def tool_span(tool: str) -> Iterator[Span]:
    """One call of a tool."""
    attributes: Attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": tool,
        "gen_ai.tool.type": "function",
    }
    with _current(f"execute_tool {tool}", attributes) as span:
        yield span


@contextmanager
def model_span(model: str, base_url: str) -> Iterator[Span]:
    """One call of a model. It is nobody's parent, so that an async generator can hold it open."""
    server = urlsplit(base_url)
    attributes: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": model,
        "server.address": server.hostname or "",
    }
    if server.port is not None:
        attributes["server.port"] = server.port
    inner = _tracer.start_span(f"chat {model}", kind=SpanKind.CLIENT, attributes=attributes)
    try:
        with _told_of_failure(Span(inner)) as span:
            yield span
    finally:
        inner.end()


def content(messages: Sequence[Mapping[str, Any]], answer: str) -> Attributes:
    """What was said, in the conventions' form; for those who ask for it."""
    asked = [
        {"role": message.get("role", ""), "parts": [{"type": "text", "content": message.get("content")}]}
        for message in messages
    ]
    said = [{"role": "assistant", "parts": [{"type": "text", "content": answer}], "finish_reason": "stop"}]
    return {
        "gen_ai.input.messages": json.dumps(asked, ensure_ascii=False),
        "gen_ai.output.messages": json.dumps(said, ensure_ascii=False),
    }


def traced(app: ASGIApp) -> ASGIApp:
    """A span around every request of the API, the child of its caller's (W3C `traceparent`)."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            return await app(scope, receive, send)
        attributes: Attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
        name = f"{scope['method']} {'/'.join(scope['path'].split('/')[:3])}"  # of few: without IDs
        caller = trace.get_current_span(extract(Headers(scope=scope)))
        parent = trace.set_span_in_context(caller, Context())  # without baggage
        with _current(name, attributes, kind=SpanKind.SERVER, context=parent) as span:

            async def observed(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.note({"http.response.status_code": message["status"]})
                    if message["status"] >= SERVER_ERROR:
                        span.failed(str(message["status"]))
                await send(message)

            return await app(scope, receive, observed)

    return wrapped


@contextmanager
def _current(
    name: str, attributes: Attributes, *, kind: SpanKind = SpanKind.INTERNAL, context: Context | None = None
) -> Iterator[Span]:
    current = _tracer.start_as_current_span(
        name,
        context,
        kind=kind,
        attributes=attributes,
        record_exception=False,  # its message may hold what was said
        set_status_on_exception=False,
    )
    with current as inner, _told_of_failure(Span(inner)) as span:
        yield span


@contextmanager
def _told_of_failure(span: Span) -> Iterator[Span]:
    """An exception's class is told; its message may hold what was said."""
    try:
        yield span
    except Exception as error:
        span.failed(type(error).__name__)
        raise
