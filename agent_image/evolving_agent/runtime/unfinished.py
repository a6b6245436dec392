"""What a run had done itself when its model called tools of the client.

The client sees its own calls only. Without the agent's, whose results the model had before or beside them,
the next run would make them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents import HandoffCallItem, HandoffOutputItem, RunItem
from agents.models.chatcmpl_converter import Converter

from evolving_agent.runtime.trace import ClientCall

Message = dict[str, Any]


def own_work(items: Sequence[RunItem], calls: Sequence[ClientCall]) -> tuple[Message, ...]:
    """A run's items as chat messages, the client's calls in the last one of the assistant.

    Empty where the agent itself had called nothing: then the client knows all of it. Hand-offs are left out:
    the main agent takes the next request, and may make them again.
    """
    own = [item for item in items if not isinstance(item, HandoffCallItem | HandoffOutputItem)]
    converted = Converter.items_to_messages([item.to_input_item() for item in own])
    messages: list[Message] = [dict(each) for each in converted]
    if not any(message["role"] == "tool" for message in messages):
        return ()
    last = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
    messages[last]["tool_calls"] = [
        *messages[last].get("tool_calls", ()),
        *(call.in_message() for call in calls),
    ]
    return tuple(_slim(message) for message in messages)


def call_ids(messages: Sequence[Any]) -> list[str]:
    """Of all calls in the messages, which may be anything that a client sends."""
    return [call["id"] for message in messages for call in _calls(message)]


def with_work(messages: Sequence[Any], work_of: Mapping[str, list[Message]]) -> list[Any]:
    """The messages with what is known of the runs behind them in place of what the client saw."""
    whole: list[Any] = []
    for message in messages:
        known = [work_of[call["id"]] for call in _calls(message) if call["id"] in work_of]
        whole.extend(known[0] if known else [message])
    return whole


def calls_tools(message: Any) -> bool:
    """Whether it is an assistant's message that calls tools."""
    return bool(_calls(message))


def _calls(message: Any) -> list[dict[str, Any]]:
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return []
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return []
    return [call for call in calls if isinstance(call, dict) and isinstance(call.get("id"), str)]


def _slim(message: Message) -> Message:
    """Without what is empty, and what a client would not send."""
    kept: Message = {
        key: message[key] for key in ("role", "content", "tool_calls", "tool_call_id") if key in message
    }
    return kept | {"content": message.get("content") or (None if "tool_calls" in message else "")}
