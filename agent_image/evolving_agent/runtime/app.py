"""The HTTP API: OpenAI-compatible chat, feedback, health, readiness and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evolving_agent.contract import env
from evolving_agent.runtime.feedback import Feedback
from evolving_agent.runtime.metrics import Metrics
from evolving_agent.runtime.service import AgentService, Caller, Work
from evolving_agent.runtime.trace import RunResult
from evolving_agent.runtime.wire import (
    RefusedError,
    RequestError,
    chunk,
    completion,
    details,
    error_body,
    event,
    invalid,
    parse_body,
    parse_chat_request,
    usage_chunk,
)

MAX_SESSION_CHARS = 256
CLIENT_CLOSED_REQUEST = 499


@dataclass
class PodState:
    """What the routes know of the pod; `service` is there as soon as requests can be answered."""

    metrics: Metrics
    max_request_bytes: int
    service: AgentService | None = None
    waiting_for: tuple[str, str] = ("Starting", "the pod is starting")  # reason and message
    draining: bool = False

    @property
    def ready_service(self) -> AgentService:
        """Raises RefusedError while the pod starts."""
        if self.service is None:
            reason, message = self.waiting_for
            raise RefusedError("not_ready", 503, f"not ready: {message}", kind="unavailable", code=reason)
        return self.service


def build_app(state: PodState) -> ASGIApp:
    routes = _Routes(state)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)  # noqa: S101 (starlette's handlers are not generic)
        if isinstance(error, RefusedError):
            state.metrics.refused.labels(error.reason).inc()
        return JSONResponse(error.body, status_code=error.status)

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/feedback", routes.feedback, methods=["POST"]),
            Route("/v1/models", routes.models),
            Route("/healthz", routes.healthz),
            Route("/readyz", routes.readyz),
            Route("/metrics", routes.metrics),
        ],
        exception_handlers={RequestError: refused, HTTPException: _http_error, Exception: _internal_error},
    )
    return _closing_connections_while(lambda: state.draining, app)


class _Routes:
    def __init__(self, state: PodState) -> None:
        self._state = state

    async def chat(self, request: Request) -> Response:
        service = self._state.ready_service
        chat_request = parse_chat_request(await self._body(request))
        work = service.accept(chat_request, _caller(request))
        if chat_request.stream:
            return await _streamed(service, work)
        result = await _unless_disconnected(request, service.answer(work))
        if result is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)  # nobody reads it
        return JSONResponse(completion(work.head, result))

    async def feedback(self, request: Request) -> Response:
        service = self._state.ready_service
        try:
            feedback = Feedback.model_validate(parse_body(await self._body(request)))
        except ValidationError as error:
            raise invalid(error) from error
        record = await service.feedback(feedback)
        body = {"id": record.id, "object": "feedback", "completion_id": record.episode}
        return JSONResponse(body, status_code=201)

    async def models(self, _: Request) -> Response:
        service = self._state.ready_service
        names = dict.fromkeys((service.agent, service.configuration.own.model.id))
        data = [{"id": name, "object": "model", "created": 0, "owned_by": service.agent} for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def healthz(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        if self._state.draining:
            reason, message = "Draining", "the pod is shutting down"
        elif self._state.service is None:
            reason, message = self._state.waiting_for
        else:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "reason": reason, "message": message}, status_code=503)

    async def metrics(self, _: Request) -> Response:
        return Response(self._state.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    async def _body(self, request: Request) -> bytes:
        """Raises RefusedError where the body is longer than it may be."""
        body = bytearray()
        limit = self._state.max_request_bytes
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise RefusedError("too_large", 413, f"the request is longer than {limit} bytes")
        return bytes(body)


def _caller(request: Request) -> Caller:
    session = request.headers.get(env.SESSION_HEADER, "")[:MAX_SESSION_CHARS]
    return Caller(session or None, request.headers.get(env.DRY_RUN_HEADER, "").lower() == "true")


async def _streamed(service: AgentService, work: Work) -> Response:
    """Waits for the first piece: an error before it still has a status of its own."""
    parts = service.stream(work)
    try:
        first = await anext(parts)
    except BaseException:
        await parts.aclose()
        raise

    async def events() -> AsyncIterator[bytes]:
        async with aclosing(parts):
            yield event(chunk(work.head, {"role": "assistant", "content": ""}))
            part = first
            try:
                while not isinstance(part, RunResult):
                    yield event(chunk(work.head, {"content": part}))
                    part = await anext(parts)
            except RequestError as error:
                yield event(error.body)
                return
            yield event(chunk(work.head, {}, "stop", evolving_agents=details(work.head, part)))
            if work.request.wants_usage:
                yield event(usage_chunk(work.head, part))
            yield event("[DONE]")

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


async def _unless_disconnected(request: Request, answer: Awaitable[RunResult]) -> RunResult | None:
    """The answer; None, and the run cancelled, where the client hangs up before."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    run = asyncio.ensure_future(answer)
    watch = asyncio.create_task(hung_up())
    try:
        await asyncio.wait((run, watch), return_when=asyncio.FIRST_COMPLETED)
        return await run if run.done() else None
    finally:
        watch.cancel()
        run.cancel()
        await asyncio.gather(run, watch, return_exceptions=True)


async def _http_error(_: Request, error: Exception) -> Response:
    """Unknown paths and methods, in OpenAI's shape."""
    assert isinstance(error, HTTPException)  # noqa: S101 (starlette's handlers are not generic)
    body = error_body(error.detail, "invalid_request_error")
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _internal_error(_: Request, error: Exception) -> Response:
    """Starlette logs the exception itself, with its trace."""
    body = error_body("internal error of the agent; its log says more", "api_error", type(error).__name__)
    return JSONResponse(body, status_code=500)


def _closing_connections_while(draining: Callable[[], bool], app: ASGIApp) -> ASGIApp:
    """Asks clients to come back on a new connection: it will lead to another pod."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and draining():
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await app(scope, receive, send_closing)

    return wrapped
