"""The Responses API on the wire: what it calls items becomes chat messages and back."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from evolving_agent.runtime.asked import Asked
from evolving_agent.runtime.client_tools import of_responses
from evolving_agent.runtime.errors import RefusedError, RequestError
from evolving_agent.runtime.format_wire import of_text_format
from evolving_agent.runtime.question import Question
from evolving_agent.runtime.sampling import Sampling
from evolving_agent.runtime.trace import ClientCall, RunResult
from evolving_agent.runtime.wire import (
    AnswerHead,
    details,
    event,
    unsupported,
    validated,
)

Message = dict[str, Any]

_CHAT_PREFIX, _PREFIX = "chatcmpl-", "resp_"


def response_id(completion_id: str) -> str:
    """One answer has two names: the experience log's, and this API's."""
    return _PREFIX + completion_id.removeprefix(_CHAT_PREFIX)


def completion_id(response: str) -> str:
    """The other way round; what is no response's ID stays as it is."""
    return _CHAT_PREFIX + response.removeprefix(_PREFIX) if response.startswith(_PREFIX) else response


class ConversationRef(BaseModel):
    id: str = Field(min_length=1)


class TextSettings(BaseModel):
    format: dict[str, Any] | None = None


class ResponsesRequest(BaseModel):
    """What is understood of a request. The agent's model and prompt are the agent's own, and so are the tools
    that it executes; those of the client are offered beside them.

    `instructions` follow the agent's, for this one response. Unknown fields are ignored.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    input: str | list[dict[str, Any]]
    model: str = ""
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationRef | None = None
    store: bool | None = None
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_output_tokens: int | None = Field(default=None, ge=1)
    text: TextSettings | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    background: bool | None = None
    metadata: dict[str, str] | None = None

    @classmethod
    def parse(cls, body: dict[str, Any]) -> ResponsesRequest:
        """Raises RefusedError."""
        parsed = validated(cls, body)
        if parsed.background:
            raise unsupported("background", "this agent answers while its client waits; leave background out")
        if parsed.previous_response_id and parsed.conversation:
            raise RefusedError(
                "invalid",
                400,
                "previous_response_id and conversation exclude each other: both say what came before",
                param="conversation",
            )
        return parsed

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationRef) else self.conversation

    def question(self, session: str | None, *, dry_run: bool) -> Question:
        """`session` is what the header says. Raises RefusedError."""
        said = messages_of(self.input)
        if self.instructions:
            said = [{"role": "system", "content": self.instructions}, *said]
        named = self.conversation_id or session or (self.metadata or {}).get("session_id") or None
        return Question(
            messages=said,
            asked=Asked(
                Sampling(self.temperature, self.top_p, self.max_output_tokens),
                of_text_format(self.text.format if self.text else None),
                of_responses(self.tools, self.tool_choice, self.parallel_tool_calls),
            ),
            session=named,
            continues=completion_id(self.previous_response_id) if self.previous_response_id else None,
            keep=self.is_stored,
            field="input",
            dry_run=dry_run,
        )


def messages_of(given: str | list[dict[str, Any]]) -> list[Message]:
    """Chat messages of the input. Raises RefusedError."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[Message] = []
    for index, item in enumerate(given):
        for message in _messages_of_item(item, f"input[{index}]"):
            if "tool_calls" in message and messages and messages[-1]["role"] == "assistant":
                # chat messages say in one what the model said at once
                calls = [*messages[-1].get("tool_calls", ()), *message["tool_calls"]]
                messages[-1] = {**messages[-1], "tool_calls": calls}
            else:
                messages.append(message)
    return messages


def _messages_of_item(item: dict[str, Any], where: str) -> list[Message]:
    match item:
        case {"type": "function_call", "call_id": str(call), "name": str(name), "arguments": str(given)}:
            function = {"name": name, "arguments": given}
            calls = [{"id": call, "type": "function", "function": function}]
            return [{"role": "assistant", "content": None, "tool_calls": calls}]
        case {"type": "function_call_output", "call_id": str(call), "output": output}:
            return [{"role": "tool", "tool_call_id": call, "content": _content(output, f"{where}.output")}]
        case {"type": "reasoning"}:
            return []  # another model's thoughts are of no use to this one
        case {"role": str(role), "content": content} if item.get("type", "message") == "message":
            return [{"role": role, "content": _content(content, f"{where}.content")}]
        case _:
            message = f"{where} must be a message (role and content), function_call or function_call_output"
            raise RefusedError("invalid", 400, message, param=where)


def _content(content: Any, where: str) -> Any:
    """A string, or the parts as chat messages have them; a single text comes as a string."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RefusedError("invalid", 400, f"{where} must be a string or a list of parts", param=where)
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(content):
        match part:
            case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
                parts.append({"type": "text", "text": text})
            case {"type": "refusal", "refusal": str(text)}:
                parts.append({"type": "text", "text": text})
            case {"type": "input_image", "image_url": str(url)}:
                picture = {"url": url, "detail": part.get("detail") or "auto"}
                parts.append({"type": "image_url", "image_url": picture})
            case _:
                place = f"{where}[{index}]"
                raise RefusedError("invalid", 400, f"{place} must be text or an image's URL", param=place)
    match parts:
        case [{"type": "text", "text": text}]:
            return text
        case _:
            return parts


class ResponsesAnswer:
    """One response: as an object, or as the events that make it up. Made when it is known who answers."""

    def __init__(self, head: AnswerHead, request: ResponsesRequest, *, stored: bool) -> None:
        self._head = head
        self._request = request
        self._stored = stored
        self._id = response_id(head.id)
        self._item_id = f"msg_{self._id.removeprefix(_PREFIX)}"
        self._sent = 0
        self._text = ""

    def whole(self, result: RunResult) -> dict[str, Any]:
        used = {
            "input_tokens": result.input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": result.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": result.input_tokens + result.output_tokens,
        }
        more = {"usage": used, "evolving_agents": details(self._head, result)}
        return self._response("completed", self._output(result), **more)

    def kept(self, result: RunResult) -> dict[str, Any]:
        """What `GET /v1/responses/{id}` shows."""
        return self.whole(result)

    def opening(self) -> bytes:
        response = self._response("in_progress", [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def piece(self, text: str) -> bytes:
        begun = b"" if self._text else self._message_begins(_part(""))
        self._text += text
        return begun + self._part_event("response.output_text.delta", delta=text, logprobs=[])

    def ending(self, result: RunResult) -> bytes:
        events = b""
        for index, item in enumerate(self._output(result)):
            if item["type"] == "function_call":
                events += self._call_events(index, item)
            else:
                events += self._message_ends(item)
        return events + self._event("response.completed", response=self.whole(result))

    def failure(self, error: RequestError) -> bytes:
        said = error.body["error"]
        problem = {"code": "server_error", "message": said["message"]}
        return self._event("response.failed", response=self._response("failed", [], error=problem)) + (
            self._event("error", code=said["code"], message=said["message"], param=said["param"])
        )

    def _output(self, result: RunResult) -> list[dict[str, Any]]:
        """What the model said, then its calls of the client's tools; at least one item.

        A stream also showed what the model said before it called a tool: there all of it is the answer.
        """
        text = self._text or ("" if result.refused else result.answer)
        parts = [_part(text)] if text else []
        if result.refused:
            parts.append({"type": "refusal", "refusal": result.answer})
        elif not parts and not result.client_calls:
            parts.append(_part(""))
        message = [self._item("completed", parts)] if parts else []
        return [*message, *(_call_item(call) for call in result.client_calls)]

    def _message_begins(self, part: dict[str, Any]) -> bytes:
        item = self._item("in_progress", [])
        return self._event("response.output_item.added", output_index=0, item=item) + self._part_event(
            "response.content_part.added", part=part
        )

    def _message_ends(self, item: dict[str, Any]) -> bytes:
        events = b""
        for index, part in enumerate(item["content"]):
            if part["type"] == "refusal":
                empty = part | {"refusal": ""}
                begun = self._part_event("response.content_part.added", index, part=empty)
                events += begun if index else self._message_begins(empty)
                said = part["refusal"]
                events += self._part_event("response.refusal.delta", index, delta=said)
                events += self._part_event("response.refusal.done", index, refusal=said)
            else:
                events += b"" if self._text else self._message_begins(_part(""))
                events += self._part_event("response.output_text.done", index, text=part["text"], logprobs=[])
            events += self._part_event("response.content_part.done", index, part=part)
        return events + self._event("response.output_item.done", output_index=0, item=item)

    def _call_events(self, index: int, item: dict[str, Any]) -> bytes:
        place = {"output_index": index, "item_id": item["id"]}
        begun = item | {"status": "in_progress", "arguments": ""}
        given = item["arguments"]
        kind = "response.function_call_arguments"
        return (
            self._event("response.output_item.added", output_index=index, item=begun)
            + self._event(f"{kind}.delta", **place, delta=given)
            + self._event(f"{kind}.done", **place, name=item["name"], arguments=given)
            + self._event("response.output_item.done", output_index=index, item=item)
        )

    def _event(self, kind: str, **data: Any) -> bytes:
        number, self._sent = self._sent, self._sent + 1
        return event({"type": kind, "sequence_number": number, **data}, kind)

    def _part_event(self, kind: str, part_index: int = 0, **data: Any) -> bytes:
        return self._event(kind, item_id=self._item_id, output_index=0, content_index=part_index, **data)

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._item_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _response(self, status: str, output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        request = self._request
        conversation = request.conversation_id
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._head.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self._head.model,
            "output": output,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "conversation": {"id": conversation} if conversation else None,
            "store": self._stored,
            "temperature": request.temperature,
            "text": {"format": (request.text and request.text.format) or {"type": "text"}},
            "tool_choice": request.tool_choice or "auto",
            "tools": request.tools or [],
            "top_p": request.top_p,
            "usage": None,
            **more,
        }


def _call_item(call: ClientCall) -> dict[str, Any]:
    return {
        "id": f"fc_{call.id.removeprefix('call_')}",
        "type": "function_call",
        "status": "completed",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
