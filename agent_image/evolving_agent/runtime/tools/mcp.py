"""The tools of one MCP server (streamable HTTP), through the Agents SDK's client."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from agents.mcp import MCPServerManager, MCPServerStreamableHttp

from evolving_agent.contract.config import MCPTool, ToolEffect
from evolving_agent.runtime.tools.invocation import RunScope, ToolDefinition, ToolError

CONNECT_TIMEOUT_SECONDS = 10.0
RETRY_SECONDS = 10.0  # a server that is down is not asked again sooner

logger = logging.getLogger(__name__)


class McpConnection:
    """A connection that is made at the first use, and made again after it broke.

    While its server is down the agent serves without its tools: `definitions` returns none, and the
    log says so.
    """

    def __init__(self, tool: MCPTool) -> None:
        self._tool = tool
        self._server = MCPServerStreamableHttp(
            {"url": tool.url, "timeout": tool.timeout_seconds, "sse_read_timeout": tool.timeout_seconds},
            name=tool.name,
            client_session_timeout_seconds=tool.timeout_seconds,
        )
        # in parallel mode each server is owned by a task of its own, so that any request's task may use it
        self._manager = MCPServerManager(
            [self._server], connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS, connect_in_parallel=True
        )
        self._lock = asyncio.Lock()
        self._definitions: list[ToolDefinition] | None = None
        self._retry_at = 0.0

    async def definitions(self) -> list[ToolDefinition]:
        async with self._lock:
            if self._definitions is None and time.monotonic() >= self._retry_at:
                try:
                    self._definitions = await self._connect()
                except Exception as error:  # the client's errors have no common base
                    self._retry_at = time.monotonic() + RETRY_SECONDS
                    logger.error(
                        "MCP server %s at %s cannot be used, serving without its tools: %r",
                        self._tool.name,
                        self._tool.url,
                        error,
                    )
            return self._definitions or []

    async def close(self) -> None:
        await self._manager.cleanup_all()

    async def _connect(self) -> list[ToolDefinition]:
        if not await self._manager.reconnect(failed_only=False):
            raise self._manager.errors[self._server]
        listed = await self._server.list_tools()
        return [self._definition(tool.model_dump(by_alias=True)) for tool in listed]

    def _definition(self, listed: dict[str, Any]) -> ToolDefinition:
        """`listed` is a tool in the protocol's own field names."""
        name = listed["name"]

        async def call(arguments: dict[str, Any], _: RunScope) -> str:
            return await self._call(name, arguments)

        read_only = bool((listed.get("annotations") or {}).get("readOnlyHint"))
        return ToolDefinition(
            name=name,
            description=listed.get("description") or "",
            parameters=listed["inputSchema"],
            effect=ToolEffect.READ if read_only else ToolEffect.WRITE,
            timeout_seconds=self._tool.timeout_seconds,
            call=call,
        )

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        try:
            result = (await self._server.call_tool(name, arguments)).model_dump(by_alias=True)
        except Exception as error:  # the client's errors have no common base
            self._definitions = None  # connect again before the next run
            raise ToolError(f"{name} of MCP server {self._tool.name} failed: {error!r}") from error
        text = "\n".join(part["text"] for part in result["content"] if part.get("type") == "text")
        if result.get("isError"):
            raise ToolError(f"{name} failed: {text}")
        return text
