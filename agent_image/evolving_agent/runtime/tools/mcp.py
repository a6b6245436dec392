"""The tools of one MCP server (streamable HTTP or SSE), through the Agents SDK's client.

The client follows redirects within the server's origin only, and takes no other origin from an SSE server.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from agents.mcp import MCPServerManager, MCPServerSse, MCPServerStreamableHttp
from mcp.shared.exceptions import MCPError
from mcp.types import CONNECTION_CLOSED, INVALID_REQUEST, REQUEST_TIMEOUT

from evolving_agent.contract.tools import MCPTool, MCPTransport, ToolEffect
from evolving_agent.runtime.tools.files import MissingFileError, MountedFiles
from evolving_agent.runtime.tools.invocation import RunScope, ToolDefinition, ToolError
from evolving_agent.runtime.tools.openapi import function_name
from evolving_agent.runtime.tools.source import SourceError

CONNECT_TIMEOUT_SECONDS = 10.0
CLOSE_TIMEOUT_SECONDS = 5.0
MARGIN_SECONDS = 2.0  # the client gives a call up first: it then tells the server so
IDEMPOTENCY_KEY = "evolvingagents.io/idempotency-key"  # in the `_meta` of calls that write
# A session that a restarted server does not know, a closed stream, a server that is silent.
_SESSION_IS_LOST = frozenset({CONNECTION_CLOSED, INVALID_REQUEST, REQUEST_TIMEOUT})

logger = logging.getLogger(__name__)


class McpClient:
    """One server. A broken connection costs the call that finds it broken; the next one connects anew."""

    def __init__(self, tool: MCPTool, files: MountedFiles) -> None:
        self._tool = tool
        self._files = files
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def tools(self) -> list[ToolDefinition]:
        """What the server offers and the spec allows. Raises SourceError."""
        try:
            listed = await (await self._connected()).server.list_tools()
        except (ToolError, SourceError) as error:
            raise SourceError(str(error)) from error
        except Exception as error:  # the client's errors have no common base
            self._drop()
            raise SourceError(f"{self._tool.url} does not list its tools: {_told(error)}") from error
        offered = {tool.name: tool.model_dump(by_alias=True) for tool in listed}
        wanted = self._tool.functions or tuple(offered)
        for name in wanted:
            if name not in offered:
                logger.warning("the MCP server %s has no tool %s", self._tool.name, name)
        return [self._definition(offered[name]) for name in wanted if name in offered]

    async def close(self) -> None:
        self._drop()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _definition(self, listed: dict[str, Any]) -> ToolDefinition:
        """`listed` is a tool in the protocol's own field names."""
        name = listed["name"]
        read_only = bool((listed.get("annotations") or {}).get("readOnlyHint"))
        effect = self._tool.effect or (ToolEffect.READ if read_only else ToolEffect.WRITE)

        async def call(arguments: dict[str, Any], scope: RunScope) -> str:
            meta = (
                {IDEMPOTENCY_KEY: scope.idempotency_key(name, arguments)}
                if effect is ToolEffect.WRITE
                else None
            )
            return await self._call(name, arguments, meta)

        return ToolDefinition(
            name=function_name(self._tool.name_prefix + name),
            description=listed.get("description") or listed.get("title") or name,
            parameters=listed["inputSchema"],
            effect=effect,
            timeout_seconds=self._tool.timeout_seconds + MARGIN_SECONDS,
            call=call,
            max_result_bytes=self._tool.max_result_bytes,
        )

    async def _call(self, name: str, arguments: dict[str, Any], meta: dict[str, Any] | None) -> str:
        connection = await self._connected()
        connection.calls += 1
        try:
            answer = await connection.server.call_tool(name, arguments, meta)
        except Exception as error:  # the client's errors have no common base
            if not isinstance(error, MCPError) or error.code in _SESSION_IS_LOST:
                self._drop(connection)
            raise ToolError(f"{name} of the MCP server {self._tool.name} failed: {_told(error)}") from error
        finally:
            connection.calls -= 1
            connection.idle.set()
        result = answer.model_dump(by_alias=True)
        parts = [_as_text(part) for part in result["content"]]
        if result.get("isError"):
            raise ToolError(f"{name} failed: {' '.join(parts)}")
        return "\n".join(parts)

    async def _connected(self) -> _Connection:
        """Raises ToolError where the server cannot be reached."""
        async with self._connecting:
            if self._connection is None:
                try:
                    headers = await asyncio.to_thread(self._files.headers, self._tool.headers)
                except MissingFileError as error:
                    raise ToolError(f"{self._tool.name}: {error}") from error
                self._connection = await _Connection.open(self._tool, headers)
            return self._connection

    def _drop(self, connection: _Connection | None = None) -> None:
        """The next call connects anew; calls that are under way on the old connection may end."""
        broken = connection or self._connection
        if broken is None or broken is not self._connection:
            return
        self._connection = None
        task = asyncio.create_task(broken.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Connection:
    """A session with the server. `calls` counts those under way."""

    def __init__(self, server: MCPServerStreamableHttp | MCPServerSse) -> None:
        self.server = server
        self.calls = 0
        self.idle = asyncio.Event()
        # in parallel mode the server is owned by a task of its own, so that any request's task may use it
        self._manager = MCPServerManager(
            [server],
            connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS,
            cleanup_timeout_seconds=CLOSE_TIMEOUT_SECONDS,
            connect_in_parallel=True,
        )

    @classmethod
    async def open(cls, tool: MCPTool, headers: dict[str, str]) -> _Connection:
        """Raises ToolError."""
        kind = MCPServerSse if tool.transport is MCPTransport.SSE else MCPServerStreamableHttp
        connection = cls(
            kind(
                {
                    "url": tool.url,
                    "headers": headers,
                    "timeout": tool.timeout_seconds,
                    # of a stream's silence; an SSE stream is silent between calls
                    "sse_read_timeout": 86_400 if kind is MCPServerSse else tool.timeout_seconds,
                },
                name=tool.name,
                client_session_timeout_seconds=tool.timeout_seconds,
            )
        )
        manager = connection._manager
        try:
            connected = await manager.reconnect(failed_only=False)
        except BaseException:
            await manager.cleanup_all()
            raise
        if not connected:
            error = manager.errors[connection.server]
            await manager.cleanup_all()
            raise ToolError(f"the MCP server {tool.name} at {tool.url} cannot be reached: {_told(error)}")
        return connection

    async def close(self) -> None:
        """Waits for the calls under way: each has its own timeout."""
        while self.calls:
            self.idle.clear()
            await self.idle.wait()
        await self._manager.cleanup_all()


def _as_text(part: dict[str, Any]) -> str:
    match part.get("type"):
        case "text":
            return str(part["text"])
        case "resource" if isinstance(text := part["resource"].get("text"), str):
            return text
        case "resource_link":
            return f"{part.get('name')}: {part.get('uri')}"
        case kind:
            return f"({kind}: not shown, a tool's result is text)"


def _told(error: BaseException) -> str:
    """The innermost reason: errors of the client come in groups."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    if isinstance(error, MCPError) and error.code == REQUEST_TIMEOUT:
        return "it did not answer in time"
    return str(error) or type(error).__name__
