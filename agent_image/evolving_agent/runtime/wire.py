"""OpenAI's shapes on the wire: requests parsed once, answers, chunks and errors built once."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evolving_agent.runtime.loop import Sampling
from evolving_agent.runtime.trace import RunResult


class RequestError(Exception):
    """A request that is answered with an error; `status` and the fields of OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, kind, code, param)


class RefusedError(RequestError):
    """A request that never reached the agent; `reason` is what the metric calls it."""

    def __init__(self, reason: str, status: int, message: str, **more: Any) -> None:
        super().__init__(status, message, **more)
        self.reason = reason


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """What is understood of a chat request. The agent's model, prompt and tools are the agent's own.

    `model` may be anything; unknown fields are ignored, as other servers do.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    messages: list[dict[str, Any]]
    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=1, ge=1, le=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.max_completion_tokens or self.max_tokens)

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


def parse_body(body: bytes) -> dict[str, Any]:
    """Raises RefusedError."""
    try:
        parsed = json.loads(body)
    except ValueError as error:
        raise RefusedError("invalid", 400, f"the body is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise RefusedError("invalid", 400, "the body must be a JSON object")
    return parsed


def parse_chat_request(body: bytes) -> ChatRequest:
    """Raises RefusedError."""
    parsed = parse_body(body)
    if parsed.get("tools"):
        raise RefusedError(
            "invalid",
            400,
            "this agent brings its own tools and cannot call the client's; leave tools out",
            code="unsupported_parameter",
            param="tools",
        )
    try:
        return ChatRequest.model_validate(parsed)
    except ValidationError as error:
        raise invalid(error) from error


def invalid(error: ValidationError) -> RefusedError:
    """The first thing that is wrong with a body, and where."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    message = f"{where}: {first['msg']}" if where else first["msg"]
    return RefusedError("invalid", 400, message, param=where or None)


@dataclass(frozen=True)
class AnswerHead:
    """What every part of one answer says about it."""

    id: str
    model: str
    revision: str
    arm: str


def completion(head: AnswerHead, result: RunResult) -> dict[str, Any]:
    message = {"role": "assistant", "content": result.answer, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": head.model,
        "choices": [choice],
        "usage": usage(result),
        "evolving_agents": details(head, result),
    }


def usage(result: RunResult) -> dict[str, int]:
    """Tokens of all calls of the model in the run."""
    return {
        "prompt_tokens": result.input_tokens,
        "completion_tokens": result.output_tokens,
        "total_tokens": result.input_tokens + result.output_tokens,
    }


def details(head: AnswerHead, result: RunResult) -> dict[str, Any]:
    said: dict[str, Any] = {
        "revision": head.revision,
        "arm": head.arm,
        "tool_calls": [{"name": call.name, "arguments": call.arguments} for call in result.tool_calls],
        "agent_path": list(result.agent_path),
    }
    return said | ({"error": result.error} if result.error else {})


def chunk(
    head: AnswerHead, delta: dict[str, Any], finish_reason: str | None = None, **more: Any
) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": head.model,
        "choices": [choice],
        **more,
    }


def usage_chunk(head: AnswerHead, result: RunResult) -> dict[str, Any]:
    return chunk(head, {}) | {"choices": [], "usage": usage(result)}


def event(data: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n".encode()
