"""One described HTTP call as a tool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from evolving_agent.contract.config import HTTPTool
from evolving_agent.runtime.tools.invocation import MAX_RESULT_CHARS, RunScope, ToolDefinition, ToolError

MAX_ERROR_CHARS = 500


def http_tool(tool: HTTPTool, connection: Callable[[], httpx.AsyncClient]) -> ToolDefinition:
    """Arguments travel as the query of a GET, or as the JSON body of a POST; the body is the result."""

    async def call(arguments: dict[str, Any], _: RunScope) -> str:
        client = connection()
        request = (
            client.build_request("GET", tool.url, params=arguments)
            if tool.method == "GET"
            else client.build_request("POST", tool.url, json=arguments)
        )
        try:
            response = await client.send(request, stream=True)
            try:
                body = await _bounded_body(response)
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise ToolError(f"{tool.name}: {tool.method} {tool.url} failed: {error!r}") from error
        if response.is_error:
            raise ToolError(f"{tool.name} answered {response.status_code}: {body[:MAX_ERROR_CHARS]}")
        return body

    return ToolDefinition(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        effect=tool.effect,
        timeout_seconds=tool.timeout_seconds,
        call=call,
    )


async def _bounded_body(response: httpx.Response) -> str:
    """The body as text; reading stops a little above the size that a result may have."""
    text = ""
    async for chunk in response.aiter_text():
        text += chunk
        if len(text) > MAX_RESULT_CHARS:
            break
    return text
