"""The connections behind an agent's tools: they outlive a run, and are shared by all runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

import httpx

from evolving_agent.contract.config import BuiltinTool, HTTPTool, MCPTool, Tool
from evolving_agent.runtime.tools.builtin import builtin_tool
from evolving_agent.runtime.tools.http import http_tool
from evolving_agent.runtime.tools.invocation import ToolDefinition
from evolving_agent.runtime.tools.mcp import McpConnection


class Toolbox:
    """An async context manager; `definitions` turns what a config names into tools that can be called."""

    def __init__(self) -> None:
        self._http: httpx.AsyncClient | None = None
        self._mcp: dict[MCPTool, McpConnection] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await asyncio.gather(*(connection.close() for connection in self._mcp.values()))
        if self._http is not None:
            await self._http.aclose()

    async def definitions(self, tools: Sequence[Tool]) -> list[ToolDefinition]:
        """In the order of `tools`; an MCP server that is down contributes none."""
        found: list[ToolDefinition] = []
        for tool in tools:
            match tool:
                case BuiltinTool():
                    found.append(builtin_tool(tool.name))
                case HTTPTool():
                    found.append(http_tool(tool, self._http_client))
                case MCPTool():
                    connection = self._mcp.get(tool) or self._mcp.setdefault(tool, McpConnection(tool))
                    found.extend(await connection.definitions())
        return found

    def _http_client(self) -> httpx.AsyncClient:
        """Made at the first call: loading certificates takes longer than many a run, and most need none."""
        if self._http is None:
            self._http = httpx.AsyncClient(
                timeout=None,  # noqa: S113 (each call is bounded by its tool's own timeout)
                follow_redirects=True,
            )
        return self._http
