"""What both APIs share on the wire: JSON, server-sent events, and what an answer says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from evolving_agent.runtime.errors import RefusedError
from evolving_agent.runtime.trace import RunResult

encoded = msgspec.json.Encoder().encode
Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True)
class AnswerHead:
    """What every part of one answer says about it. `created` in seconds since the epoch."""

    id: str
    model: str
    revision: str
    arm: str
    created: int


def parse_body(body: bytes) -> dict[str, Any]:
    """Raises RefusedError."""
    try:
        parsed = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise RefusedError("invalid", 400, f"the body is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise RefusedError("invalid", 400, "the body must be a JSON object")
    return parsed


def invalid(error: ValidationError) -> RefusedError:
    """The first thing that is wrong with a body, and where."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    message = f"{where}: {first['msg']}" if where else first["msg"]
    return RefusedError("invalid", 400, message, param=where or None)


def unsupported(param: str, message: str) -> RefusedError:
    return RefusedError("invalid", 400, message, code="unsupported_parameter", param=param)


def validated(model: type[Body], body: dict[str, Any]) -> Body:
    """A request of either API. Raises RefusedError."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise invalid(error) from error


def details(head: AnswerHead, result: RunResult) -> dict[str, Any]:
    """What an answer tells beyond OpenAI's fields."""
    said: dict[str, Any] = {
        "revision": head.revision,
        "arm": head.arm,
        "tool_calls": [
            {"name": call.name, "arguments": call.arguments} | ({"agent": call.agent} if call.agent else {})
            for call in result.tool_calls
        ],
        "agent_path": list(result.agent_path),
    }
    return said | ({"error": result.error} if result.error else {})


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event."""
    named = f"event: {name}\n".encode() if name is not None else b""
    return named + b"data: " + encoded(data) + b"\n\n"
