"""Brings an answer to its client, whole or as events, and ends the run of a client that hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from evolving_agent.runtime.errors import RequestError
from evolving_agent.runtime.service import AgentService, Work
from evolving_agent.runtime.trace import RunResult
from evolving_agent.runtime.wire import encoded

CLIENT_CLOSED_REQUEST = 499

T = TypeVar("T")


class Streamed(Protocol):
    """An answer as server-sent events: opening, pieces, then ending or failure."""

    def opening(self) -> bytes: ...
    def piece(self, text: str) -> bytes: ...
    def ending(self, result: RunResult) -> bytes: ...
    def failure(self, error: RequestError) -> bytes: ...
    def kept(self, result: RunResult) -> dict[str, Any] | None: ...


def json_response(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encoded(body), status, headers, "application/json")


async def whole(
    request: Request, service: AgentService, work: Work, render: Callable[[RunResult], dict[str, Any]]
) -> Response:
    """Raises RequestError."""

    async def answer() -> dict[str, Any]:
        result = await service.answer(work)
        body = render(result)
        await service.keep(work, result, body)
        return body

    body = await _unless_disconnected(request, answer())
    if body is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)  # nobody reads it
    return json_response(body)


async def streamed(
    request: Request, service: AgentService, work: Work, begin: Callable[[], Streamed]
) -> Response:
    """Waits for the first piece: an error before it still has a status of its own. Raises RequestError."""
    parts = service.stream(work)
    try:
        first = await _unless_disconnected(request, anext(parts))
    except BaseException:
        await parts.aclose()
        raise
    if first is None:
        await parts.aclose()
        return Response(status_code=CLIENT_CLOSED_REQUEST)  # nobody reads it
    answer = begin()

    async def events() -> AsyncIterator[bytes]:
        async with aclosing(parts):
            part: str | RunResult | RequestError = first
            opening = answer.opening()  # in one write with the first piece: that waits for no other
            while isinstance(part, str):
                yield opening + answer.piece(part)
                opening, part = b"", await _next(parts)
            if opening:
                yield opening
            if isinstance(part, RequestError):
                yield answer.failure(part)
                return
            await service.keep(work, part, answer.kept(part))
            yield answer.ending(part)

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


async def _next(parts: AsyncIterator[str | RunResult]) -> str | RunResult | RequestError:
    try:
        return await anext(parts)
    except RequestError as error:
        return error


async def _unless_disconnected(request: Request, answer: Awaitable[T]) -> T | None:
    """The answer; None, and the waiting cancelled, where the client hangs up before."""

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
