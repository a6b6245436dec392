"""The Agents SDK's agents of a configuration: built once, used by all runs.

What differs from run to run is not in them: the system text comes from the run's scope, and the model with
the client's sampling from the run's configuration.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from agents import Agent, Handoff, ModelSettings, RunContextWrapper, handoff

from evolving_agent.contract.config import (
    AgentConfig,
    ReflectionMode,
    Specialist,
    SpecialistMode,
    ToolUseBehavior,
)
from evolving_agent.contract.tools import BuiltinName, BuiltinTool, Tool
from evolving_agent.runtime.specialists import as_tool
from evolving_agent.runtime.tools.invocation import RunScope, ToolDefinition
from evolving_agent.runtime.tools.toolbox import Toolbox

MAX_BUILT = 8  # configurations: active, candidate, previous, and those of a file that was reloaded

logger = logging.getLogger(__name__)

Definitions = list[list[ToolDefinition]]  # of the main agent, then of each specialist


@dataclass(frozen=True)
class _Built:
    config: AgentConfig
    definitions: Definitions
    main: Agent[RunScope]
    names: frozenset[str]


class Teams:
    """`name` is the main agent's. A team is built again when its tools change, as an MCP server's may."""

    def __init__(self, toolbox: Toolbox, name: str) -> None:
        self._toolbox = toolbox
        self._name = name
        self._built: OrderedDict[int, _Built] = OrderedDict()
        self.endpoints = toolbox.specialist_endpoints

    async def of(self, config: AgentConfig) -> Agent[RunScope]:
        """The main agent, with its specialists behind it."""
        return (await self._of(config)).main

    async def names(self, config: AgentConfig) -> frozenset[str]:
        """Of all that the model may call, under the main agent or one that it hands over to."""
        return (await self._of(config)).names

    async def _of(self, config: AgentConfig) -> _Built:
        definitions = [await self._toolbox.definitions(offered_tools(config))]
        definitions += [await self._toolbox.definitions(each.tools) for each in config.specialists]
        key = id(config)  # its hash takes longer than all of this; the entry keeps it alive
        known = self._built.get(key)
        if known is None or known.definitions != definitions:
            known = self._built[key] = self._build(config, definitions)
            while len(self._built) > MAX_BUILT:
                self._built.popitem(last=False)
        return known

    def _build(self, config: AgentConfig, definitions: Definitions) -> _Built:
        stop_on_first = config.tool_use_behavior is ToolUseBehavior.STOP_ON_FIRST_TOOL
        # not in the RunConfig, where the SDK would resolve type hints for each run: a millisecond of CPU
        settings = ModelSettings(
            temperature=config.model.temperature,
            max_tokens=config.model.max_output_tokens,
            include_usage=True,  # streamed answers carry no token counts otherwise
        )

        def member(
            name: str, tools: list[ToolDefinition], specialist: str = "", **more: Any
        ) -> Agent[RunScope]:
            return Agent[RunScope](
                name=name,
                tools=[tool.as_function_tool(specialist) for tool in tools],
                tool_use_behavior="stop_on_first_tool" if stop_on_first else "run_llm_again",
                model_settings=settings,
                **more,
            )

        own, *theirs = definitions
        handoffs: list[Handoff[RunScope, Agent[RunScope]]] = []
        asked: list[ToolDefinition] = []
        taken = {tool.name for tool in own}
        behind: set[str] = set()  # functions of those handed over to, which may have names taken here
        for each, tools in zip(config.specialists, theirs, strict=True):
            specialist = member(
                each.name,
                tools,
                each.name,
                instructions=each.instructions,
                handoff_description=each.description,
                model=None if each.model is None else each.name,
            )
            function = _function_of(each)
            if function in taken:
                logger.error("the specialist %s is not offered: a tool is called %s", each.name, function)
                continue
            taken.add(function)
            if each.mode is SpecialistMode.HANDOFF:
                handoffs.append(handoff(specialist, tool_name_override=function))
                behind |= {tool.name for tool in tools}
            else:
                asked.append(as_tool(each, specialist))
        main = member(self._name, [*own, *asked], instructions=_system_of_run, handoffs=handoffs)
        return _Built(config, definitions, main, frozenset(taken | behind))


def _system_of_run(context: RunContextWrapper[RunScope], _: Agent[RunScope]) -> str:
    return context.context.trace.prompt


def _function_of(specialist: Specialist) -> str:
    """What the model calls to reach it. The SDK's own name of a hand-off is the same for EU and eu, or for
    order-desk and order_desk; this one stays within the 64 characters of a function's name.
    """
    return specialist.name if specialist.mode is SpecialistMode.TOOL else f"transfer_to_{specialist.name}"


def offered_tools(config: AgentConfig) -> tuple[Tool, ...]:
    """The main agent's tools: those of the spec, and the one by which it reflects where the mode says so."""
    reflect = BuiltinTool(type="BuiltIn", name=BuiltinName.RECORD_REFLECTION)
    if config.reflection.mode in (ReflectionMode.TOOL, ReflectionMode.BOTH) and all(
        tool.name != reflect.name for tool in config.tools
    ):
        return (*config.tools, reflect)
    return config.tools
