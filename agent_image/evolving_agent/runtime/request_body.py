"""A request's body: bounded in size and time, and JSON."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from evolving_agent.runtime.errors import RefusedError
from evolving_agent.runtime.wire import parse_body

BODY_SECONDS = 30.0  # a client that sends more slowly holds a connection and nothing else
# curl -d sends the second one unless it is told otherwise
JSON_TYPES = ("application/json", "application/x-www-form-urlencoded", "text/plain", "")


async def read_json(request: Request, max_bytes: int) -> dict[str, Any]:
    """Raises RefusedError: 415 for another content type, 413, 408, and 400 for what is no JSON object."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in JSON_TYPES and not content_type.endswith("+json"):
        raise RefusedError("invalid", 415, f"the content type is {content_type!r}; send application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    message = f"the request is longer than {max_bytes} bytes (agent.limits.maxRequestBytes)"
                    raise RefusedError("too_large", 413, message)
    except TimeoutError as error:
        message = f"the body did not come within {BODY_SECONDS:g} s"
        raise RefusedError("slow", 408, message) from error
    return parse_body(bytes(body))
