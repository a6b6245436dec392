"""The connections behind an agent's tools and specialists: they outlive a run, and are shared by all runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

from evolving_agent.contract.base import canonical_json
from evolving_agent.contract.config import AgentConfig
from evolving_agent.contract.tools import BuiltinTool, HTTPTool, MCPTool, ModuleTool, Tool
from evolving_agent.runtime.specialists import SpecialistEndpoints
from evolving_agent.runtime.tools.builtin import builtin_tool
from evolving_agent.runtime.tools.files import MountedFiles
from evolving_agent.runtime.tools.http import HTTPConnections, http_tool
from evolving_agent.runtime.tools.invocation import MAX_FUNCTIONS, ToolDefinition
from evolving_agent.runtime.tools.mcp import McpClient
from evolving_agent.runtime.tools.module import module_tools
from evolving_agent.runtime.tools.openapi_tool import openapi_tools
from evolving_agent.runtime.tools.source import Source
from evolving_agent.runtime.tools.threads import DaemonThreads

MAX_KNOWN = 1024  # tools, those of configurations that were replaced included

logger = logging.getLogger(__name__)


def _unobserved(_tool: str, _usable: bool) -> None:
    return


class Toolbox:
    """An async context manager; `definitions` turns what a config names into functions that can be called.

    `observe` is told when the functions behind an entry become usable, or cannot be had.
    """

    def __init__(
        self, files: MountedFiles | None = None, observe: Callable[[str, bool], None] = _unobserved
    ) -> None:
        self.files = files or MountedFiles.from_environment()
        self._observe = observe
        self.specialist_endpoints = SpecialistEndpoints(self.files)
        self._connections = HTTPConnections()
        self._threads = DaemonThreads()
        self._sources: dict[str, Source] = {}
        self._known: dict[int, tuple[Tool, Source | ToolDefinition]] = {}
        self._mcp: list[McpClient] = []
        self._told: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await asyncio.gather(*(source.close() for source in self._sources.values()))
        await asyncio.gather(*(client.close() for client in self._mcp))
        await asyncio.gather(self._connections.close(), self.specialist_endpoints.close())

    async def open(self, config: AgentConfig) -> None:
        """Finds out, before the first request needs it, what servers and modules have to offer."""
        own = [config.tools, *(specialist.tools for specialist in config.specialists)]
        await asyncio.gather(*(self.definitions(tools) for tools in own))

    @property
    def problems(self) -> list[str]:
        """What the agent is served without."""
        return [source.problem for source in self._sources.values() if source.problem]

    async def definitions(self, tools: Sequence[Tool]) -> list[ToolDefinition]:
        """In the order of `tools`; what cannot be used now contributes none. Names are unique."""
        behind = [self._behind(tool) for tool in tools]
        if waiting := [each for each in behind if isinstance(each, Source) and each.loaded is None]:
            await asyncio.gather(*(source.load() for source in waiting))
        found: dict[str, ToolDefinition] = {}
        for tool, each in zip(tools, behind, strict=True):
            for definition in (each.loaded or ()) if isinstance(each, Source) else (each,):
                if definition.name in found:
                    self._tell(f"{tool.name}: a function {definition.name} is there already: set namePrefix")
                elif len(found) == MAX_FUNCTIONS:
                    self._tell(
                        f"{tool.name}: {definition.name} is more than the {MAX_FUNCTIONS} of a request"
                    )
                else:
                    found[definition.name] = definition
        return list(found.values())

    def _behind(self, tool: Tool) -> Source | ToolDefinition:
        """The same for the same tool: runs share what is behind it, and what is built of that."""
        if isinstance(tool, BuiltinTool):
            return builtin_tool(tool)
        if id(tool) not in self._known:  # its hash would take longer; the entry keeps the tool alive
            if len(self._known) > MAX_KNOWN:
                self._known.clear()
            match tool:
                case HTTPTool(open_api=None):
                    self._known[id(tool)] = tool, http_tool(tool, self._connections, self.files)
                case _:
                    self._known[id(tool)] = tool, self._source(tool)
        return self._known[id(tool)][1]

    def _source(self, tool: HTTPTool | MCPTool | ModuleTool) -> Source:
        key = canonical_json(tool.to_wire())
        if key not in self._sources:
            match tool:
                case MCPTool():
                    client = McpClient(tool, self.files)
                    self._mcp.append(client)
                    load = client.tools
                case HTTPTool():
                    load = partial(openapi_tools, tool, self._connections, self.files)
                case ModuleTool():
                    load = partial(module_tools, tool, self.files, self._threads)
            self._sources[key] = Source(tool.name, load, partial(self._observe, tool.name))
        return self._sources[key]

    def _tell(self, problem: str) -> None:
        """Once: it is found again with each run."""
        if problem not in self._told:
            self._told.add(problem)
            logger.error("a function is not offered: %s", problem)
