from __future__ import annotations

from typing import Any

import pytest

from evolving_agent.runtime.conversation import InvalidMessagesError, parse_conversation

CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def test_system_texts_are_joined_and_the_rest_keeps_its_order() -> None:
    conversation = parse_conversation(
        [
            {"role": "system", "content": "A"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "developer", "content": "B"},
            {"role": "user", "content": "three"},
        ]
    )

    assert conversation.extra_system == "A\n\nB"
    assert [item["content"] for item in conversation.items] == ["one", "two", "three"]
    assert conversation.query == "three"


def test_pictures_are_passed_on() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}

    conversation = parse_conversation(
        [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}]
    )

    assert conversation.items[0]["content"][1] == {
        "type": "input_image",
        "image_url": "data:image/png;base64,AA==",
        "detail": "low",
    }
    assert conversation.query == "What is it?"


def test_a_refusal_in_the_history_is_what_the_assistant_said() -> None:
    refused = {"role": "assistant", "content": None, "refusal": "No."}

    conversation = parse_conversation(
        [{"role": "user", "content": "x"}, refused, {"role": "user", "content": "y"}]
    )

    assert conversation.items[1] == {"role": "assistant", "content": "No."}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "system", "content": "x"}], "messages"),
        (["x"], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0]"),
        ([{"role": "assistant"}], "messages[0]"),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "messages[0].tool_calls[0]"),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
        ([{"role": "tool", "tool_call_id": "c", "content": "x"}], "messages[0].tool_call_id"),
        (
            [
                {"role": "user", "content": "x"},
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c", "content": "x"},
                {"role": "tool", "tool_call_id": "c", "content": "again"},
            ],
            "messages[3].tool_call_id",
        ),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [CALL]}], "messages"),
    ],
)
def test_what_cannot_be_understood_is_named(messages: list[Any], param: str) -> None:
    with pytest.raises(InvalidMessagesError) as raised:
        parse_conversation(messages)

    assert raised.value.param == param
    assert param.partition(".")[0] in str(raised.value)
