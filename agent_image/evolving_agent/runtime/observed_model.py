"""The model as the agent loop sees it: what it was sent is recorded, what it answers is made safe to run."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from typing import Any

from agents import (
    Handoff,
    Model,
    ModelBehaviorError,
    ModelResponse,
    ModelSettings,
    ModelTracing,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Tool,
)
from agents.agent_output import AgentOutputSchemaBase
from agents.exceptions import AgentsException
from agents.items import TResponseInputItem, TResponseStreamEvent
from agents.models.chatcmpl_converter import Converter
from typing_extensions import override

from evolving_agent.chat.endpoint import ModelEndpoint, ModelError
from evolving_agent.chat.items import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)
from evolving_agent.contract.config import ModelAPI, ServedModel
from evolving_agent.runtime.asked import Asked
from evolving_agent.runtime.trace import ClientCall, RunTrace
from evolving_agent.runtime.tracing import Span, model_span
from evolving_agent.store.records import ToolCall

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class ClientsTurnError(AgentsException):
    """The model has called tools of the client: the run goes on with the client's next request."""


class ObservedModel(Model):
    """One run's model. Errors of the endpoint come out as ModelError.

    Tools of the client are offered here, beside those of the SDK's agents, and calls of them go into the
    trace instead of the loop. The agent's own calls of the same answer are still executed; then the loop
    asks again, and gets ClientsTurnError. A hand-off waits: the next run can make it.

    Small models call tools that do not exist, and small servers repeat or forget call IDs: neither may
    end a run with an error. With `final_on_unknown_tool`, a call of an unknown tool ends the run with
    the text beside it; otherwise the loop tells the model, and lets it try again.
    """

    def __init__(
        self,
        served: ServedModel,
        endpoint: ModelEndpoint,
        trace: RunTrace,
        *,
        asked: Asked,
        deadline: float | None,
        final_on_unknown_tool: bool,
    ) -> None:
        """No pause before another try goes beyond `deadline`, a time of `time.monotonic()`."""
        model_class = OpenAIResponsesModel if served.api is ModelAPI.RESPONSES else OpenAIChatCompletionsModel
        self._inner: Model = model_class(served.id, endpoint.client)
        self._id = served.id
        self._endpoint = endpoint
        self._api = served.api
        self._trace = trace
        self._asked = asked
        self._client_tools: list[Tool] = [*asked.tools.as_function_tools()] if asked.tools else []
        self._client_names = asked.tools.names if asked.tools else frozenset[str]()
        self._deadline = deadline
        self._final_on_unknown_tool = final_on_unknown_tool

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
        failures = 0
        while True:
            try:
                with model_span(self._id, self._endpoint.base_url) as span:
                    async with self._endpoint.calling(self._id):
                        response = await self._inner.get_response(
                            system_instructions,
                            input,
                            self._settings(model_settings, span),
                            [*tools, *self._client_tools],
                            output_schema,
                            handoffs,
                            tracing,
                            **conversation,
                        )
                    span.used(response.usage.input_tokens, response.usage.output_tokens)
                break
            except ModelBehaviorError as error:  # no choices in it: no answer of a model
                raise self._endpoint.shapeless(self._id, str(error)) from error
            except ModelError as error:
                failures += 1
                await self._endpoint.pause_after(error, failures, self._deadline)
        self._refuse_nothing(response.output, response.usage.total_tokens)
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
        failures, begun, completed = 0, False, False
        while True:
            try:
                with model_span(self._id, self._endpoint.base_url) as span:
                    async with self._endpoint.calling(self._id):
                        async for event in self._inner.stream_response(
                            system_instructions,
                            input,
                            self._settings(model_settings, span),
                            [*tools, *self._client_tools],
                            output_schema,
                            handoffs,
                            tracing,
                            **conversation,
                        ):
                            begun = True
                            if isinstance(event, ResponseCompletedEvent):
                                completed = True
                                self._completed(event.response, span, tools, handoffs)
                            yield event
                if not completed:
                    raise self._endpoint.shapeless(self._id, "a stream without its end")
                return
            except ModelError as error:
                if begun:
                    raise  # what was said cannot be taken back
                failures += 1
                await self._endpoint.pause_after(error, failures, self._deadline)

    def _completed(
        self, response: Response, span: Span, tools: list[Tool], handoffs: list[Handoff[Any, Any]]
    ) -> None:
        self._refuse_nothing(response.output, response.usage.total_tokens if response.usage else 0)
        if response.usage is not None:
            span.used(response.usage.input_tokens, response.usage.output_tokens)
            self._trace.input_tokens += response.usage.input_tokens
            self._trace.output_tokens += response.usage.output_tokens
        response.output = self._made_safe(response.output, tools, handoffs)

    def _refuse_nothing(self, output: list[Any], tokens: int) -> None:
        """A web server's 200 must not pass as an empty answer. Raises ModelError.

        A model that has nothing to say still counts the tokens that it read.
        """
        if tokens == 0 and not any(_says_something(item) for item in output):
            raise self._endpoint.shapeless(self._id, "no text, no call of a tool, no token counted")

    def _settings(self, of_agent: ModelSettings, span: Span) -> ModelSettings:
        """Those of the agent with what the client asked for, in the form that the model takes."""
        sampling = self._asked.sampling
        settings = _with_extra(sampling.applied_to(of_agent), sampling.settings(self._api))
        if headers := span.headers():
            settings = replace(settings, extra_headers=headers)
        if self._asked.format is not None:
            settings = _with_extra(settings, self._asked.format.settings(self._api))
        if (offer := self._asked.tools) is not None:
            # not the SDK's own settings: it takes names like web_search for tools of OpenAI's
            settings = _with_extra(settings, offer.settings(self._api))
            settings = replace(settings, parallel_tool_calls=offer.parallel)
        limit = settings.max_tokens
        if (
            limit is None
            or self._api is not ModelAPI.CHAT_COMPLETIONS
            or not self._endpoint.wants_completion_tokens(self._id)
        ):
            return settings
        return replace(_with_extra(settings, {"max_completion_tokens": limit}), max_tokens=None)

    def _observe_call(self, system: str | None, tools: list[Tool], handoffs: list[Handoff[Any, Any]]) -> None:
        """Raises ClientsTurnError."""
        if self._trace.client_calls:
            raise ClientsTurnError
        self._trace.model_calls += 1
        if self._trace.model_calls == 1:
            self._trace.system = system or ""
            self._trace.tools = [dict(Converter.tool_to_openai(tool)) for tool in tools]
            self._trace.tools += [dict(Converter.convert_handoff_tool(handoff)) for handoff in handoffs]

    def _made_safe(
        self, output: list[Any], tools: list[Tool], handoffs: list[Handoff[Any, Any]]
    ) -> list[Any]:
        """What the loop is to see: unique call IDs, no calls of the client's tools.

        Those, hand-offs and unknown tools are entered into the trace.
        """
        tool_names = {tool.name for tool in tools}
        targets = {handoff.tool_name: handoff.agent_name for handoff in handoffs}
        text = _text_of(output)
        self._trace.last_text = text or self._trace.last_text
        kept: list[Any] = []
        is_clients_turn = self._client_names and any(
            isinstance(item, ResponseFunctionToolCall) and item.name in self._client_names for item in output
        )
        if is_clients_turn:
            self._trace.client_text = text
        for item in output:
            if isinstance(item, ResponseFunctionToolCall):
                item.call_id = self._unique(item.call_id)
                item.arguments = _well_formed(item.arguments)
                if item.name in self._client_names:
                    self._trace.client_calls.append(ClientCall(item.name, item.arguments))
                    continue
                if item.name in targets:
                    if is_clients_turn:
                        self._trace.tool_calls.append(_put_off(item.name))
                        continue
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
        if not call_id or call_id in self._trace.call_ids:
            call_id = f"call_{uuid.uuid4().hex}"
        self._trace.call_ids.add(call_id)
        return call_id


def _well_formed(arguments: str) -> str:
    """The arguments of a call without halves of characters, which could be neither hashed nor logged."""
    arguments = arguments.encode(errors="replace").decode()
    if _SURROGATE.search(arguments) is None:
        return arguments
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False).encode(errors="replace").decode()
    except ValueError:
        return arguments  # no JSON at all: the tool says so


def _with_extra(settings: ModelSettings, extra: dict[str, Any]) -> ModelSettings:
    return replace(settings, extra_args={**(settings.extra_args or {}), **extra}) if extra else settings


def _put_off(name: str) -> ToolCall:
    return ToolCall(name=name, arguments={}, error="put off: tools of the client were called beside it")


def _unknown(name: str, known: Collection[str]) -> ToolCall:
    choice = f"; there are {', '.join(sorted(known))}" if known else "; there are no tools"
    return ToolCall(name=name, arguments={}, error=f"there is no tool {name!r}{choice}")


def _says_something(item: Any) -> bool:
    return not isinstance(item, ResponseOutputMessage) or any(
        not isinstance(part, ResponseOutputText) or part.text for part in item.content
    )


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
