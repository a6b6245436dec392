"""From OpenAI's chat messages, as a client sends them, to the input of the agent loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.models.fake_id import FAKE_RESPONSES_ID


class InvalidMessagesError(ValueError):
    """The conversation cannot be understood; `param` names the place, as OpenAI's errors do."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Conversation:
    """`extra_system` is what the client itself gave as system text: it follows the agent's instructions."""

    items: list[Any]
    extra_system: str
    query: str  # the latest thing the user said


def parse_conversation(messages: Sequence[Any]) -> Conversation:
    """Raises InvalidMessagesError."""
    if not messages:
        raise InvalidMessagesError("messages must hold at least one message", "messages")
    items: list[Any] = []
    system: list[str] = []
    open_calls: dict[str, str] = {}  # ID and name of those without a result
    query = ""
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise InvalidMessagesError(f"{where} must be an object", where)
        match message.get("role"):
            case "system" | "developer":
                system.append(_text(message.get("content"), where))
            case "user":
                content = message.get("content")
                items.append({"role": "user", "content": _user_content(content, where)})
                query = _text(content, where)
            case "assistant":
                said = _assistant_items(message, where)
                items.extend(said)
                open_calls |= {item["call_id"]: item["name"] for item in said if "call_id" in item}
            case "tool":
                output = _tool_output(message, where)
                if open_calls.pop(output["call_id"], None) is None:
                    problem = f"{where} answers a call that no message before it made: {output['call_id']!r}"
                    raise InvalidMessagesError(problem, f"{where}.tool_call_id")
                items.append(output)
            case role:
                raise InvalidMessagesError(
                    f"{where}.role is {role!r}; it must be system, developer, user, assistant or tool",
                    f"{where}.role",
                )
    if not items:
        raise InvalidMessagesError("messages must hold a message of the user", "messages")
    if open_calls:
        waiting = ", ".join(f"{name} ({call!r})" for call, name in open_calls.items())
        raise InvalidMessagesError(f"messages give no output for the call of {waiting}", "messages")
    return Conversation(items, "\n\n".join(system), query)


def _text(content: Any, where: str) -> str:
    """The text of a message's content: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    raise InvalidMessagesError(f"{where}.content must be a string or a list of parts", f"{where}.content")


def _user_content(content: Any, where: str) -> Any:
    if not isinstance(content, list):
        return _text(content, where)
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(content):
        match part:
            case {"type": "text", "text": str(text)}:
                parts.append({"type": "input_text", "text": text})
            case {"type": "image_url", "image_url": {"url": str(url), **rest}}:
                detail = rest.get("detail", "auto")
                parts.append({"type": "input_image", "image_url": url, "detail": detail})
            case _:
                place = f"{where}.content[{index}]"
                raise InvalidMessagesError(f"{place} must be a text or image_url part", place)
    return parts


def _assistant_items(message: dict[str, Any], where: str) -> list[Any]:
    items: list[Any] = []
    calls = message.get("tool_calls") or []
    content = message.get("content")
    if content is None:
        content = message.get("refusal")  # a refused answer has no other words
    if content is not None:
        text = _text(content, where)
        items.append(_beside_calls(text) if calls else {"role": "assistant", "content": text})
    for index, call in enumerate(calls):
        match call:
            case {"id": str(call_id), "function": {"name": str(name), "arguments": str(arguments)}}:
                items.append(
                    {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
                )
            case _:
                place = f"{where}.tool_calls[{index}]"
                raise InvalidMessagesError(f"{place} needs id, function.name and function.arguments", place)
    if not items:
        raise InvalidMessagesError(f"{where} needs content or tool_calls", where)
    return items


def _beside_calls(text: str) -> dict[str, Any]:
    """As the model itself says it: the SDK keeps that in one message with the calls that follow."""
    return {
        "id": FAKE_RESPONSES_ID,  # the SDK takes it out where a server would look it up
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }


def _tool_output(message: dict[str, Any], where: str) -> dict[str, Any]:
    call_id = message.get("tool_call_id")
    if not isinstance(call_id, str):
        raise InvalidMessagesError(f"{where} needs tool_call_id", f"{where}.tool_call_id")
    output = _text(message.get("content"), where)
    return {"type": "function_call_output", "call_id": call_id, "output": output}
