"""An OpenAI-compatible model server that says what a test tells it to, over real HTTP."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp


@dataclass(frozen=True)
class Reply:
    """What the model says next: text, tool calls (name and arguments, raw where a string), or an error."""

    text: str | None = None
    calls: tuple[tuple[str, dict[str, Any] | str], ...] = ()
    refusal: str | None = None  # in place of a text
    call_id: str | None = None  # the same for all calls, as careless servers do
    status: int = 200
    code: str | None = None  # of the error
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0  # before the answer
    piece_seconds: float = 0.0  # before each streamed piece
    breaks_off: bool = False  # a stream ends in the middle

    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.refusal is not None:
            message["refusal"] = self.refusal
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": self.call_id if self.call_id is not None else f"call_{uuid.uuid4().hex[:12]}",
                    "type": "function",
                    "function": {
                        "name": name,
                        "arguments": given if isinstance(given, str) else json.dumps(given),
                    },
                }
                for name, given in self.calls
            ]
        return message


Script = Callable[[dict[str, Any]], Reply]


def last_user_text(body: dict[str, Any]) -> str:
    """The latest thing that the user said in a request of either API."""
    messages = body.get("messages") or body["input"]
    said = [message["content"] for message in messages if message.get("role") == "user"]
    return said[-1] if said else ""


class ScriptedModel:
    """`script` makes a reply of each request's body; `say` puts replies in front of it, once each.

    `requests` holds the bodies of all chat requests so far, the answered ones and the refused; `aborted`
    counts those whose client left before it had its answer.
    """

    def __init__(self, script: Script | None = None, models: Sequence[str] = ("tiny",)) -> None:
        self.script: Script = script or (lambda body: Reply(text=f"echo: {last_user_text(body)}"))
        self.models = list(models)
        self.requests: list[dict[str, Any]] = []
        self.aborted = 0
        self._next: list[Reply] = []
        self._gate = asyncio.Event()
        self._gate.set()
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._list_models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/responses", self._respond, methods=["POST"]),
            ]
        )

    def say(self, *replies: Reply) -> None:
        self._next.extend(replies)

    def hold(self, until: asyncio.Event) -> None:
        """From now on no request is answered before `until` is set."""
        self._gate = until

    async def _list_models(self, _: Request) -> Response:
        data = [{"id": name, "object": "model", "owned_by": "script"} for name in self.models]
        return JSONResponse({"object": "list", "data": data})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        reply = self._reply(body)
        if not await self._time_passes(request, reply.seconds):
            return Response(status_code=499)  # nobody reads it
        if reply.status != 200:
            return _error(reply)
        if body.get("stream"):
            return StreamingResponse(self._counted(_stream(body, reply)), media_type="text/event-stream")
        answer = _completion(body, "chat.completion")
        reason = "tool_calls" if reply.calls else "stop"
        answer["choices"] = [{"index": 0, "message": reply.message(), "finish_reason": reason}]
        answer["usage"] = _usage(reply)
        return JSONResponse(answer)

    async def _respond(self, request: Request) -> Response:
        body = await request.json()
        reply = self._reply(body)
        if not await self._time_passes(request, reply.seconds):
            return Response(status_code=499)  # nobody reads it
        if reply.status != 200:
            return _error(reply)
        answer = _response(body, reply)
        if body.get("stream"):
            return StreamingResponse(
                self._counted(_response_events(answer, reply)), media_type="text/event-stream"
            )
        return JSONResponse(answer)

    async def _time_passes(self, request: Request, seconds: float) -> bool:
        """Returns after the gate has opened and so many seconds; False where the client leaves before."""
        if seconds == 0 and self._gate.is_set():
            return True

        async def passed() -> None:
            await self._gate.wait()
            await asyncio.sleep(seconds)

        async def left() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        passing, leaving = asyncio.create_task(passed()), asyncio.create_task(left())
        await asyncio.wait((passing, leaving), return_when=asyncio.FIRST_COMPLETED)
        in_time = passing.done()
        for task in (passing, leaving):
            task.cancel()
        await asyncio.gather(passing, leaving, return_exceptions=True)
        self.aborted += not in_time
        return in_time

    async def _counted(self, pieces: AsyncIterator[str]) -> AsyncIterator[str]:
        try:
            async for piece in pieces:
                yield piece
        except (GeneratorExit, asyncio.CancelledError):
            self.aborted += 1
            raise

    def _reply(self, body: dict[str, Any]) -> Reply:
        self.requests.append(body)
        if body["model"] not in self.models:
            return Reply(status=404, code="model_not_found", text=f"the model {body['model']} does not exist")
        return self._next.pop(0) if self._next else self.script(body)


def _error(reply: Reply) -> Response:
    error = {"message": reply.text or "scripted failure", "type": "scripted", "code": reply.code}
    return JSONResponse({"error": error}, status_code=reply.status, headers=reply.headers)


def _completion(body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex[:12]}", "object": kind, "created": 0, "model": body["model"]}


def _usage(reply: Reply) -> dict[str, int]:
    output = len((reply.text or "").split()) + 5 * len(reply.calls)
    return {"prompt_tokens": 10, "completion_tokens": output, "total_tokens": 10 + output}


async def _stream(body: dict[str, Any], reply: Reply) -> AsyncIterator[str]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
        part = _completion(body, "chat.completion.chunk")
        part["choices"] = [{"index": 0, "delta": delta, "finish_reason": finish}]
        return f"data: {json.dumps(part)}\n\n"

    yield chunk({"role": "assistant", "content": ""})
    words = (reply.text or "").split(" ") if reply.text else []
    for position, word in enumerate(words):
        await asyncio.sleep(reply.piece_seconds)
        if reply.breaks_off and position == len(words) // 2:
            raise ConnectionResetError("the script breaks off here")
        yield chunk({"content": word if position == 0 else f" {word}"})
    if reply.refusal is not None:
        yield chunk({"refusal": reply.refusal})
    for index, call in enumerate(reply.message().get("tool_calls", [])):
        yield chunk({"tool_calls": [{"index": index, **call}]})
    yield chunk({}, "tool_calls" if reply.calls else "stop")
    if (body.get("stream_options") or {}).get("include_usage"):
        usage = _completion(body, "chat.completion.chunk")
        usage |= {"choices": [], "usage": _usage(reply)}
        yield f"data: {json.dumps(usage)}\n\n"
    yield "data: [DONE]\n\n"


def _response(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """A whole response; its output: tool calls, then the text."""
    output: list[dict[str, Any]] = [
        {
            "type": "function_call",
            "id": f"fc_{uuid.uuid4().hex[:12]}",
            "call_id": call["id"],
            "name": call["function"]["name"],
            "arguments": call["function"]["arguments"],
            "status": "completed",
        }
        for call in reply.message().get("tool_calls", [])
    ]
    if reply.text is not None:
        output.append(
            {
                "type": "message",
                "id": f"msg_{uuid.uuid4().hex[:12]}",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": reply.text, "annotations": []}],
            }
        )
    usage = {
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    return {
        "id": f"resp_{uuid.uuid4().hex[:12]}",
        "object": "response",
        "created_at": 0,
        "model": body["model"],
        "status": "completed",
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    }


async def _response_events(response: dict[str, Any], reply: Reply) -> AsyncIterator[str]:
    numbers = itertools.count()

    def event(kind: str, **data: Any) -> str:
        whole = {"type": kind, "sequence_number": next(numbers), **data}
        return f"event: {kind}\ndata: {json.dumps(whole)}\n\n"

    yield event("response.created", response=response | {"status": "in_progress", "output": []})
    for index, item in enumerate(response["output"]):
        empty: dict[str, Any] = {"content": []} if item["type"] == "message" else {"arguments": ""}
        begun = item | empty
        yield event("response.output_item.added", output_index=index, item=begun)
        if item["type"] == "message":
            place = {"item_id": item["id"], "output_index": index, "content_index": 0}
            yield event("response.content_part.added", **place, part=item["content"][0] | {"text": ""})
            for position, word in enumerate((reply.text or "").split(" ")):
                await asyncio.sleep(reply.piece_seconds)
                if reply.breaks_off and position > 0:
                    raise ConnectionResetError("the script breaks off here")
                delta = word if position == 0 else f" {word}"
                yield event("response.output_text.delta", **place, delta=delta, logprobs=[])
        yield event("response.output_item.done", output_index=index, item=item)
    yield event("response.completed", response=response)


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """Serves an app on a free port of the loopback; yields its URL without a path."""
    listener = socket.create_server(("127.0.0.1", 0))
    # asyncio does so for listeners that it makes itself; without, head and body of an answer lie 40 ms apart
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    # not serve(): that would take over the process's signal handlers
    task = asyncio.create_task(server._serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
