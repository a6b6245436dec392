"""The model as the agent loop sees it: what it was sent is recorded, what it answers is made safe to run."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection
from typing import Any

from agents import (
    Handoff,
    Model,
    ModelResponse,
    ModelSettings,
    ModelTracing,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Tool,
)
from agents.agent_output import AgentOutputSchemaBase
from agents.items import TResponseInputItem, TResponseStreamEvent
from agents.models.chatcmpl_converter import Converter
from typing_extensions import override

from evolving_agent.chat.endpoint import ModelEndpoint
from evolving_agent.chat.items import (
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)
from evolving_agent.contract.config import ModelAPI, ServedModel
from evolving_agent.runtime.trace import RunTrace
from evolving_agent.store.records import ToolCall


class ObservedModel(Model):
    """One run's model. Errors of the endpoint come out as ModelError.

    Small models call tools that do not exist, and small servers repeat or forget call IDs: neither may
    end a run with an error. With `final_on_unknown_tool`, a call of an unknown tool ends the run with
    the text beside it; otherwise the loop tells the model, and lets it try again.
    """

    def __init__(
        self, served: ServedModel, endpoint: ModelEndpoint, trace: RunTrace, *, final_on_unknown_tool: bool
    ) -> None:
        model_class = OpenAIResponsesModel if served.api is ModelAPI.RESPONSES else OpenAIChatCompletionsModel
        self._inner: Model = model_class(served.id, endpoint.client)
        self._id = served.id
        self._endpoint = endpoint
        self._trace = trace
        self._final_on_unknown_tool = final_on_unknown_tool
        self._call_ids: set[str] = set()

    @override
    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        **conversation: Any,
    ) -> ModelResponse:
        self._observe_call(system_instructions, tools, handoffs)
        async with self._endpoint.calling(self._id):
            response = await self._inner.get_response(
                system_instructions,
                input,
                model_settings,
                tools,
                output_schema,
                handoffs,
                tracing,
                **conversation,
            )
        self._trace.input_tokens += response.usage.input_tokens
        self._trace.output_tokens += response.usage.output_tokens
        response.output = self._made_safe(response.output, tools, handoffs)
        return response

    @override
    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        **conversation: Any,
    ) -> AsyncIterator[TResponseStreamEvent]:
        self._observe_call(system_instructions, tools, handoffs)
        async with self._endpoint.calling(self._id):
            async for event in self._inner.stream_response(
                system_instructions,
                input,
                model_settings,
                tools,
                output_schema,
                handoffs,
                tracing,
                **conversation,
            ):
                if isinstance(event, ResponseCompletedEvent):
                    if event.response.usage is not None:
                        self._trace.input_tokens += event.response.usage.input_tokens
                        self._trace.output_tokens += event.response.usage.output_tokens
                    event.response.output = self._made_safe(event.response.output, tools, handoffs)
                yield event

    def _observe_call(self, system: str | None, tools: list[Tool], handoffs: list[Handoff[Any, Any]]) -> None:
        self._trace.model_calls += 1
        if self._trace.model_calls == 1:
            self._trace.system = system or ""
            self._trace.tools = [dict(Converter.tool_to_openai(tool)) for tool in tools]
            self._trace.tools += [dict(Converter.convert_handoff_tool(handoff)) for handoff in handoffs]

    def _made_safe(
        self, output: list[Any], tools: list[Tool], handoffs: list[Handoff[Any, Any]]
    ) -> list[Any]:
        """The output with unique call IDs; hand-offs and unknown tools are entered into the trace."""
        tool_names = {tool.name for tool in tools}
        targets = {handoff.tool_name: handoff.agent_name for handoff in handoffs}
        text = _text_of(output)
        self._trace.last_text = text or self._trace.last_text
        kept: list[Any] = []
        for item in output:
            if isinstance(item, ResponseFunctionToolCall):
                item.call_id = self._unique(item.call_id)
                if item.name in targets:
                    call = ToolCall(name=item.name, arguments={}, result=targets[item.name])
                    self._trace.tool_calls.append(call)
                elif item.name not in tool_names:
                    self._trace.unknown_tools.add(item.name)
                    self._trace.tool_calls.append(_unknown(item.name, tool_names | targets.keys()))
                    if self._final_on_unknown_tool:
                        continue
            kept.append(item)
        if not any(isinstance(item, ResponseFunctionToolCall | ResponseOutputMessage) for item in kept):
            kept.append(_message(""))  # the loop would ask again for ever without any output
        return kept

    def _unique(self, call_id: str | None) -> str:
        if not call_id or call_id in self._call_ids:
            call_id = f"call_{uuid.uuid4().hex}"
        self._call_ids.add(call_id)
        return call_id


def _unknown(name: str, known: Collection[str]) -> ToolCall:
    choice = f"; there are {', '.join(sorted(known))}" if known else "; there are no tools"
    return ToolCall(name=name, arguments={}, error=f"there is no tool {name!r}{choice}")


def _text_of(output: list[Any]) -> str:
    return "".join(
        part.text
        for item in output
        if isinstance(item, ResponseOutputMessage)
        for part in item.content
        if isinstance(part, ResponseOutputText)
    )


def _message(text: str) -> ResponseOutputMessage:
    return ResponseOutputMessage(
        id=f"msg_{uuid.uuid4().hex}",
        type="message",
        role="assistant",
        status="completed",
        content=[ResponseOutputText(type="output_text", text=text, annotations=[])],
    )
