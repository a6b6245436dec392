"""The agent loop: one configuration, one conversation, one answer. Serving and evaluation both run this."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelRefusalError,
    RunConfig,
    RunHooks,
    RunItem,
    Runner,
    set_tracing_disabled,
)
from agents.exceptions import AgentsException

from evolving_agent.chat.endpoint import ModelEndpoint, ModelError
from evolving_agent.chat.items import ResponseCreatedEvent, ResponseTextDeltaEvent
from evolving_agent.contract.config import AgentConfig, ServedModel, ToolUseBehavior
from evolving_agent.memory.errors import MemoryUnavailableError
from evolving_agent.memory.graph import Memory, as_prompt
from evolving_agent.runtime.asked import NOTHING_ASKED, Asked
from evolving_agent.runtime.conversation import Conversation, parse_conversation
from evolving_agent.runtime.observed_model import ObservedModel
from evolving_agent.runtime.specialists import TeamModels
from evolving_agent.runtime.team import Teams
from evolving_agent.runtime.tools.invocation import RunScope, ToolError
from evolving_agent.runtime.tools.toolbox import Toolbox
from evolving_agent.runtime.trace import RunResult, RunTrace
from evolving_agent.runtime.unfinished import own_work
from evolving_agent.store.records import ToolCall

logger = logging.getLogger(__name__)
_SEPARATOR = "\n\n"  # between what the model says in two calls
set_tracing_disabled(True)  # the SDK would send traces to OpenAI


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
    run = AgentRun(config, parse_conversation(messages), endpoint, Teams(toolbox, name), scope)
    return await run.result()


class AgentRun:
    """One run, for callers that stream it or keep the trace of one that fails; else see `run_agent`."""

    def __init__(
        self,
        config: AgentConfig,
        conversation: Conversation,
        endpoint: ModelEndpoint,
        teams: Teams,
        scope: RunScope,
        *,
        asked: Asked = NOTHING_ASKED,
        deadline: float | None = None,
    ) -> None:
        """`deadline` (of `time.monotonic()`) bounds the pauses before the model is asked again."""
        self.scope = scope
        self._config = config
        self._conversation = conversation
        self._endpoint = endpoint
        self._teams = teams
        self._asked = asked
        self._deadline = deadline

    async def result(self) -> RunResult:
        """Raises ModelError."""
        arguments = await self._arguments()
        try:
            result = await Runner.run(**arguments)
        except AgentsException as misbehaviour:
            return self._cut_short(misbehaviour)
        return self._ended(str(result.final_output or ""), result.new_items)

    async def stream(self) -> AsyncGenerator[str | RunResult]:
        """Pieces of the answer as they come, the RunResult last. Raises ModelError."""
        pieces = _Pieces()
        streamed = Runner.run_streamed(**await self._arguments())
        try:
            async for event in streamed.stream_events():
                if event.type == "raw_response_event" and (piece := pieces.of(event.data)):
                    yield piece
            answer = str(streamed.final_output or "")
            said = pieces.said + pieces.missing(answer)
            result = self._ended(answer, streamed.new_items, said)
        except AgentsException as misbehaviour:
            result = self._cut_short(misbehaviour)
        finally:
            streamed.cancel()  # stops the run where the client went away; nothing after its end
        if not result.refused and (rest := pieces.missing(result.answer)):
            yield rest
        yield result

    def _ended(self, answer: str, items: Sequence[RunItem], said: str | None = None) -> RunResult:
        """`said` is all that the client read of a stream, where the answer is its end."""
        if self.scope.trace.client_calls:
            return self._handed_over(items)
        read = answer if said is None else said
        problem = self._asked.format.problem(read) if self._asked.format else None
        return RunResult.of(self.scope.trace, answer, f"AnswerFormat: {problem}" if problem else None)

    def _handed_over(self, items: Sequence[RunItem]) -> RunResult:
        trace = self.scope.trace
        calls = tuple(trace.client_calls)
        result = RunResult.of(trace, trace.client_text)
        return replace(result, client_calls=calls, work=own_work(items, calls))

    def _cut_short(self, error: AgentsException) -> RunResult:
        """The model's latest text stands as the answer of a run that the model itself spoilt."""
        trace = self.scope.trace
        if trace.client_calls:
            return self._handed_over(error.run_data.new_items if error.run_data else ())
        match error:
            case MaxTurnsExceeded():
                why = f"TooManyTurns: no final answer after {self._max_model_calls} calls of the model"
            case ModelRefusalError(refusal=refusal):
                return RunResult.of(trace, refusal, "Refused: the model refused to answer", refused=True)
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
        scope.trace.prompt = system
        return {
            "starting_agent": await self._teams.of(config),
            "input": self._conversation.items,
            "context": replace(scope, ask_specialist=self._ask_specialist),
            "max_turns": self._max_model_calls,
            "hooks": _AgentPath(scope.trace),
            "run_config": self._run_config(scope.trace, self._asked),
        }

    def _run_config(self, trace: RunTrace, asked: Asked) -> RunConfig:
        final = self._config.tool_use_behavior is ToolUseBehavior.STOP_ON_FIRST_TOOL

        def observed(served: ServedModel, endpoint: ModelEndpoint) -> ObservedModel:
            return ObservedModel(
                served,
                endpoint,
                trace,
                asked=asked,
                deadline=self._deadline,
                final_on_unknown_tool=final,
            )

        return RunConfig(
            model_provider=TeamModels(self._config, self._endpoint, self._teams.endpoints, observed),
            tracing_disabled=True,
            tool_not_found_behavior="return_error_to_model",
        )

    async def _ask_specialist(self, specialist: Agent[RunScope], question: str) -> str:
        """A run within the run, with a trace of its own that goes into the outer one. Raises ToolError."""
        inner = RunTrace()
        try:
            result = await Runner.run(
                specialist,
                question,
                context=replace(self.scope, trace=inner),
                max_turns=self._max_model_calls,
                run_config=self._run_config(inner, self._asked.only_sampling),
            )
        except (AgentsException, ModelError) as error:
            raise ToolError(f"{specialist.name} could not answer: {error}") from error
        finally:
            self.scope.trace.absorb(inner, specialist.name)
        return str(result.final_output or "")

    @property
    def _max_model_calls(self) -> int:
        return self._config.limits.max_model_calls


class _Pieces:
    """The streamed text: that of the model's calls in turn, and the answer where it was none of theirs."""

    def __init__(self) -> None:
        self._before = ""  # of the calls before this one
        self._current = ""

    @property
    def said(self) -> str:
        """All of it so far, as the client reads it."""
        return self._before + (_SEPARATOR if self._before and self._current else "") + self._current

    def of(self, event: object) -> str:
        if isinstance(event, ResponseCreatedEvent):
            self._before, self._current = self.said, ""
            return ""
        if not isinstance(event, ResponseTextDeltaEvent) or not event.delta:
            return ""
        piece = (_SEPARATOR if self._before and not self._current else "") + event.delta
        self._current += event.delta
        return piece

    def missing(self, answer: str) -> str:
        """What is still to send once the final answer is known: a tool's result was never streamed."""
        if not answer or self._current == answer:
            return ""
        return (_SEPARATOR if self._before or self._current else "") + answer


class _AgentPath(RunHooks[RunScope]):
    def __init__(self, trace: RunTrace) -> None:
        self._trace = trace

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        self._trace.agent_path.append(agent.name)


async def _recalled(memory: Memory, query: str, trace: RunTrace) -> str:
    """What memory adds to the system text; nothing where it cannot be read: the answer matters more."""
    try:
        remembered = as_prompt(await memory.recall(query))
    except MemoryUnavailableError as error:
        logger.warning("answering without memory: %s", error)
        trace.recall = "failed"
        return ""
    trace.recall = "hit" if remembered else "miss"
    return remembered
