"""The HTTP API, OpenAI-compatible; adapters are loaded and unloaded as in vLLM."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from evolving_agent.contract.chatml import ToolCall
from evolving_model_server.adapters import AdapterDirectory, AdapterRefusedError
from evolving_model_server.chat import Completed, Delta, answer
from evolving_model_server.inference import (
    BusyError,
    Engine,
    InferenceQueue,
    PromptTooLongError,
    UnusableAdapterError,
    UnusableSchemaError,
)
from evolving_model_server.metrics import Metrics
from evolving_model_server.protocol import (
    ApiError,
    ChatRequest,
    LoadAdapterRequest,
    UnloadAdapterRequest,
    parse,
)

MAX_BODY_BYTES = 1 << 20
RETRY_AFTER_SECONDS = 2
CLIENT_GONE = 499  # never seen by a client: it names the outcome in the metrics

Result = TypeVar("Result")


@dataclass(frozen=True)
class ModelServer:
    """The routes over one engine. `base_model` is the ID under which the model itself is asked for."""

    base_model: str
    adapters: AdapterDirectory
    queue: InferenceQueue
    metrics: Metrics
    started: int

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics_page(self, request: Request) -> Response:
        self.metrics.waiting.set(self.queue.pending)
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def models(self, request: Request) -> Response:
        base = {"id": self.base_model, "object": "model", "created": self.started, "owned_by": "local"}
        adapters = [
            {**base, "id": name, "parent": self.base_model, "root": str(self.adapters.root / name)}
            for name in await asyncio.to_thread(self.adapters.names)
        ]
        return JSONResponse({"object": "list", "data": [base, *adapters]})

    async def load_adapter(self, request: Request) -> Response:
        wanted = parse(LoadAdapterRequest, await _body(request))
        try:
            file = self.adapters.require(wanted.lora_name, wanted.lora_path)
        except AdapterRefusedError as error:
            raise ApiError(400, str(error), param="lora_path", code="invalid_adapter") from error
        try:
            await self.queue.run(lambda engine: engine.load(file))
        except UnusableAdapterError as error:
            raise ApiError(400, str(error), param="lora_path", code="invalid_adapter") from error
        return PlainTextResponse(f"Success: LoRA adapter '{wanted.lora_name}' added successfully.")

    async def unload_adapter(self, request: Request) -> Response:
        name = parse(UnloadAdapterRequest, await _body(request)).lora_name
        file = self.adapters.find(name)
        if file is None or not await self.queue.run(lambda engine: engine.unload(file)):
            raise ApiError(404, f"The LoRA adapter {name!r} is not loaded.", param="lora_name")
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def chat_completions(self, request: Request) -> Response:
        asked = parse(ChatRequest, await _body(request))
        adapter = self._adapter_of(asked.model)
        completion = _Completion(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), asked.model)
        events = self._measured(asked, adapter)
        if not asked.stream:
            done = await _unless_disconnected(request, _completed(events))
            return JSONResponse(completion.whole(done)) if done else Response(status_code=CLIENT_GONE)
        # A refusal must be an HTTP status, so the stream begins only once the model has.
        first = await _unless_disconnected(request, anext(events))
        if first is None:
            return Response(status_code=CLIENT_GONE)
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return StreamingResponse(completion.stream(first, events, with_usage), media_type="text/event-stream")

    def _adapter_of(self, model: str) -> Path | None:
        """The adapter behind a model's ID, None for the base model. Raises ApiError for an unknown ID."""
        if model == self.base_model:
            return None
        file = self.adapters.find(model)
        if file is None:
            raise ApiError(404, f"The model {model!r} does not exist.", param="model", code="model_not_found")
        return file

    async def _measured(self, asked: ChatRequest, adapter: Path | None) -> AsyncGenerator[Delta | Completed]:
        """The answer, counted; what the engine refuses becomes an HTTP error."""
        began = time.monotonic()
        outcome = str(CLIENT_GONE)
        try:
            async with aclosing(answer(asked, adapter, self.queue)) as events:
                async for event in events:
                    if isinstance(event, Completed):
                        outcome = "200"
                        self.metrics.tokens.labels(asked.model, "prompt").inc(event.prompt_tokens)
                        self.metrics.tokens.labels(asked.model, "completion").inc(event.completion_tokens)
                    yield event
        except Exception as error:
            refusal = _refusal(error)
            outcome = str(refusal.status) if refusal else "500"
            if refusal is None:
                raise
            raise refusal from error
        finally:
            self.metrics.requests.labels(asked.model, outcome).inc()
            self.metrics.seconds.labels(asked.model).observe(time.monotonic() - began)


def _refusal(error: Exception) -> ApiError | None:
    """What the client is told of an error that it can do something about."""
    match error:
        case ApiError():
            return error
        case BusyError():
            retry = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            return ApiError(429, f"{error}; try again", code="queue_full", headers=retry)
        case PromptTooLongError():
            return ApiError(400, str(error), param="messages", code="context_length_exceeded")
        case UnusableSchemaError():
            return ApiError(400, str(error), code="invalid_value")
        case UnusableAdapterError():
            return ApiError(500, str(error), param="model", code="invalid_adapter")
    return None


@dataclass(frozen=True)
class _Completion:
    """One completion in the two forms of OpenAI's API."""

    id: str
    created: int
    model: str

    def whole(self, done: Completed) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": done.answer.content, "refusal": None}
        if done.answer.tool_calls:
            message["tool_calls"] = [_tool_call(call) for call in done.answer.tool_calls]
        choice = {"index": 0, "message": message, "finish_reason": done.reason, "logprobs": None}
        return {**self._head("chat.completion"), "choices": [choice], "usage": _usage(done)}

    async def stream(
        self, first: Delta | Completed, events: AsyncIterator[Delta | Completed], with_usage: bool
    ) -> AsyncIterator[str]:
        """Server-sent events."""
        yield self._chunk({"role": "assistant", "content": ""})
        try:
            async for event in _chain(first, events):
                if isinstance(event, Delta):
                    yield self._chunk({"content": event.text})
                    continue
                for index, call in enumerate(event.answer.tool_calls):
                    yield self._chunk({"tool_calls": [{"index": index, **_tool_call(call)}]})
                yield self._chunk({}, event.reason)
                if with_usage:
                    head = self._head("chat.completion.chunk")
                    yield _event({**head, "choices": [], "usage": _usage(event)})
        except ApiError as error:  # the status has been sent: the error is the last event
            yield _event(error.body())
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _event(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _usage(done: Completed) -> dict[str, int]:
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
    }


async def _chain(
    first: Delta | Completed, rest: AsyncIterator[Delta | Completed]
) -> AsyncIterator[Delta | Completed]:
    yield first
    async for event in rest:
        yield event


async def _completed(events: AsyncGenerator[Delta | Completed]) -> Completed:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Completed):
                return event
    raise RuntimeError("an answer ended without being completed")


async def _unless_disconnected(request: Request, work: Awaitable[Result]) -> Result | None:
    """The result of `work`; None once the client has gone, and then `work` is cancelled."""
    answering = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await answering if answering.done() else None
    finally:
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, f"the request is larger than {MAX_BODY_BYTES} bytes", code="too_large")
    return bytes(body)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 (Starlette calls this for that class alone)
    return JSONResponse(error.body(), error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the shape of all other errors."""
    assert isinstance(error, HTTPException)  # noqa: S101 (Starlette calls this for that class alone)
    refusal = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    return JSONResponse(refusal.body(), error.status_code, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _bug(request: Request, error: Exception) -> Response:
    body = ApiError(500, "The model server failed; its log says why.", code="internal_error").body()
    return JSONResponse(body, 500)


def create_app(engine: Engine, base_model: str, adapters: Path, queue_limit: int) -> Starlette:
    """The application over an engine that is ready to answer."""
    queue = InferenceQueue(engine, queue_limit)
    server = ModelServer(base_model, AdapterDirectory(adapters), queue, Metrics(), int(time.time()))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(queue.close)

    return Starlette(
        routes=[
            Route("/health", server.health),
            Route("/metrics", server.metrics_page),
            Route("/v1/models", server.models),
            Route("/v1/chat/completions", server.chat_completions, methods=["POST"]),
            Route("/v1/load_lora_adapter", server.load_adapter, methods=["POST"]),
            Route("/v1/unload_lora_adapter", server.unload_adapter, methods=["POST"]),
        ],
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _bug,
        },
        lifespan=lifespan,
    )
