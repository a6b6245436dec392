"""The agent loop: one configuration, one conversation, one answer. Serving and evaluation both run this."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelRefusalError,
    ModelSettings,
    RunConfig,
    RunHooks,
    Runner,
    set_tracing_disabled,
)
from agents.exceptions import AgentsException

from evolving_agent.chat.endpoint import ModelEndpoint
from evolving_agent.chat.items import ResponseCreatedEvent, ResponseTextDeltaEvent
from evolving_agent.contract.config import (
    AgentConfig,
    BuiltinName,
    BuiltinTool,
    ReflectionMode,
    Tool,
    ToolUseBehavior,
)
from evolving_agent.memory.graph import Memory, MemoryUnavailableError, as_prompt
from evolving_agent.runtime.conversation import parse_conversation
from evolving_agent.runtime.observed_model import ObservedModel
from evolving_agent.runtime.tools.invocation import RunScope
from evolving_agent.runtime.tools.toolbox import Toolbox
from evolving_agent.runtime.trace import RunResult, RunTrace
from evolving_agent.store.records import ToolCall

MAX_TURNS = 8  # calls of the model in one run

logger = logging.getLogger(__name__)
set_tracing_disabled(True)  # the SDK would send traces to OpenAI


@dataclass(frozen=True)
class Sampling:
    """What a client may ask for beside the conversation; None leaves it to the configuration."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None


async def run_agent(
    config: AgentConfig,
    messages: Sequence[dict[str, Any]],
    *,
    endpoint: ModelEndpoint,
    memory: Memory | None = None,
    dry_run: bool = False,
    replay: Sequence[ToolCall] = (),
    toolbox: Toolbox | None = None,
    name: str = "agent",
) -> RunResult:
    """Answers `messages` (OpenAI chat messages).

    Dry: tools that write are not executed, but answered with what the same call returned in `replay`,
    or with a stub. Memory is recalled into the prompt where one is given. A model that misbehaves
    (unknown tools, broken arguments, no end) still gives a result, with `error` set.
    `toolbox` keeps the tools' connections; without one they are opened for this run alone.
    Raises ModelError when the endpoint does not answer, InvalidMessagesError for a broken conversation.
    """
    if toolbox is None:
        async with Toolbox() as own:
            return await run_agent(
                config,
                messages,
                endpoint=endpoint,
                memory=memory,
                dry_run=dry_run,
                replay=replay,
                toolbox=own,
                name=name,
            )
    scope = RunScope(RunTrace(), memory, dry_run, tuple(replay))
    return await AgentRun(config, messages, endpoint, toolbox, scope, name=name).result()


class AgentRun:
    """One run, for callers that stream it or keep the trace of one that fails; else see `run_agent`."""

    def __init__(
        self,
        config: AgentConfig,
        messages: Sequence[dict[str, Any]],
        endpoint: ModelEndpoint,
        toolbox: Toolbox,
        scope: RunScope,
        *,
        name: str,
        sampling: Sampling = Sampling(),
    ) -> None:
        """Raises InvalidMessagesError."""
        self.scope = scope
        self._config = config
        self._conversation = parse_conversation(messages)
        self._endpoint = endpoint
        self._toolbox = toolbox
        self._name = name
        self._sampling = sampling

    async def result(self) -> RunResult:
        """Raises ModelError."""
        arguments = await self._arguments()
        try:
            result = await Runner.run(**arguments)
        except AgentsException as misbehaviour:
            return self._cut_short(misbehaviour)
        return RunResult.of(self.scope.trace, str(result.final_output or ""))

    async def stream(self) -> AsyncGenerator[str | RunResult]:
        """Pieces of the answer as they come, the RunResult last. Raises ModelError."""
        pieces = _Pieces()
        streamed = Runner.run_streamed(**await self._arguments())
        try:
            async for event in streamed.stream_events():
                if event.type == "raw_response_event" and (piece := pieces.of(event.data)):
                    yield piece
            result = RunResult.of(self.scope.trace, str(streamed.final_output or ""))
        except AgentsException as misbehaviour:
            result = self._cut_short(misbehaviour)
        finally:
            streamed.cancel()  # stops the run where the client went away; nothing after its end
        if rest := pieces.missing(result.answer):
            yield rest
        yield result

    def _cut_short(self, error: AgentsException) -> RunResult:
        """The model's latest text stands as the answer of a run that the model itself spoilt."""
        trace = self.scope.trace
        match error:
            case MaxTurnsExceeded():
                why = f"TooManyTurns: no final answer after {MAX_TURNS} calls of the model"
            case ModelRefusalError(refusal=refusal):
                return RunResult.of(trace, refusal, "Refused: the model refused to answer")
            case _:
                why = f"ModelBehavior: {error}"
        return RunResult.of(trace, trace.last_text, why)

    async def _arguments(self) -> dict[str, Any]:
        config, scope = self._config, self.scope
        system = config.instructions
        if self._conversation.extra_system:
            system += "\n\n" + self._conversation.extra_system
        scope.trace.instructions = system
        if scope.memory is not None:
            system += await _recalled(scope.memory, self._conversation.query, scope.trace)
        model = ObservedModel(
            config.model,
            self._endpoint,
            scope.trace,
            final_on_unknown_tool=config.tool_use_behavior is ToolUseBehavior.STOP_ON_FIRST_TOOL,
        )
        return {
            "starting_agent": await self._build_team(system),
            "input": self._conversation.items,
            "context": scope,
            "max_turns": MAX_TURNS,
            "hooks": _AgentPath(scope.trace),
            "run_config": RunConfig(
                model=model,
                tracing_disabled=True,
                tool_not_found_behavior="return_error_to_model",
            ),
        }

    async def _build_team(self, system: str) -> Agent[RunScope]:
        """The main agent with `system` as its prompt, and its specialists."""
        config = self._config
        stop_on_first = config.tool_use_behavior is ToolUseBehavior.STOP_ON_FIRST_TOOL
        # not in the RunConfig, where the SDK would resolve type hints for each run: a millisecond of CPU
        settings = _model_settings(config, self._sampling)

        async def member(name: str, instructions: str, tools: Sequence[Tool], **more: Any) -> Agent[RunScope]:
            return Agent[RunScope](
                name=name,
                instructions=instructions,
                tools=[tool.as_function_tool() for tool in await self._toolbox.definitions(tools)],
                tool_use_behavior="stop_on_first_tool" if stop_on_first else "run_llm_again",
                model_settings=settings,
                **more,
            )

        specialists = [
            await member(
                specialist.name,
                specialist.instructions,
                specialist.tools,
                handoff_description=specialist.description,
            )
            for specialist in config.specialists
        ]
        return await member(self._name, system, offered_tools(config), handoffs=specialists)


class _Pieces:
    """The streamed text: that of the model's calls in turn, and the answer where it was none of theirs."""

    def __init__(self) -> None:
        self._current = ""
        self._any = False
        self._separate = False

    def of(self, event: object) -> str:
        if isinstance(event, ResponseCreatedEvent):
            self._current, self._separate = "", self._any
            return ""
        if not isinstance(event, ResponseTextDeltaEvent) or not event.delta:
            return ""
        piece = ("\n\n" if self._separate else "") + event.delta
        self._current += event.delta
        self._any, self._separate = True, False
        return piece

    def missing(self, answer: str) -> str:
        """What is still to send once the final answer is known: a tool's result was never streamed."""
        if not answer or self._current == answer:
            return ""
        return ("\n\n" if self._any else "") + answer


class _AgentPath(RunHooks[RunScope]):
    def __init__(self, trace: RunTrace) -> None:
        self._trace = trace

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        self._trace.agent_path.append(agent.name)


async def _recalled(memory: Memory, query: str, trace: RunTrace) -> str:
    """What memory adds to the system text; nothing where it cannot be read: the answer matters more."""
    try:
        remembered = await asyncio.to_thread(lambda: as_prompt(memory.recall(query)))
    except MemoryUnavailableError as error:
        logger.warning("answering without memory: %s", error)
        trace.recall = "failed"
        return ""
    trace.recall = "hit" if remembered else "miss"
    return remembered


def offered_tools(config: AgentConfig) -> tuple[Tool, ...]:
    """The main agent's tools: those of the spec, and the one by which it reflects where the mode says so."""
    reflect = BuiltinTool(type="BuiltIn", name=BuiltinName.RECORD_REFLECTION)
    if config.reflection.mode in (ReflectionMode.TOOL, ReflectionMode.BOTH) and reflect not in config.tools:
        return (*config.tools, reflect)
    return config.tools


def _model_settings(config: AgentConfig, sampling: Sampling) -> ModelSettings:
    limits = [limit for limit in (config.model.max_output_tokens, sampling.max_tokens) if limit is not None]
    return ModelSettings(
        temperature=config.model.temperature if sampling.temperature is None else sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=min(limits) if limits else None,
        include_usage=True,  # streamed answers carry no token counts otherwise
    )
