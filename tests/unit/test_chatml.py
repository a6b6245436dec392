"""The prompt text of the embedded model: the same words in training and in serving."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolving_agent.contract.chatml import (
    CALL,
    TURN_END,
    TURN_START,
    Answer,
    AnswerReader,
    ToolCall,
    answer_of,
    answer_text,
    parse_answer,
    prompt_text,
)

ROUTE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "route_request",
        "description": "Hands the request\n  to a team.",
        "parameters": {
            "type": "object",
            "properties": {
                "team": {"type": "string", "enum": ["cards", "loans"]},
                "urgent": {"type": "boolean"},
            },
            "required": ["team"],
        },
    },
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
calls = st.builds(
    ToolCall,
    st.sampled_from(["route_request", "record_reflection"]),
    st.dictionaries(st.text(), json_values, max_size=4),
)
contents = st.none() | st.text(min_size=1).map(str.strip).filter(lambda text: text != "" and CALL not in text)
answers = st.builds(Answer, contents, st.lists(calls, max_size=3).map(tuple))
OFFERED = ("route_request", "record_reflection")


def test_a_prompt_reads_as_the_module_promises() -> None:
    messages = [
        {"role": "system", "content": "Send each request to the right team."},
        {"role": "user", "content": "My card is bent."},
    ]

    prompt = prompt_text(messages, [ROUTE])

    assert prompt == (
        "<|im_start|>system\n"
        "Send each request to the right team.\n"
        "\n"
        'Tools: to use one, answer with a line <tool_call> NAME {"ARGUMENT": VALUE}\n'
        'route_request(team: "cards"|"loans", urgent?: boolean): Hands the request to a team.<|im_end|>\n'
        "<|im_start|>user\n"
        "My card is bent.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_tools_get_a_system_turn_of_their_own_where_there_is_none() -> None:
    prompt = prompt_text([{"role": "user", "content": "hello"}], [ROUTE])

    assert prompt.startswith(f"{TURN_START}system\nTools: ")
    assert "Tools:" not in prompt_text([{"role": "user", "content": "hello"}])


def test_a_conversation_with_a_call_and_its_result_keeps_all_its_turns() -> None:
    prompt = prompt_text(
        [
            {
                "role": "developer",
                "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}],
            },
            {"role": "user", "content": "Is it raining?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Bonn"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "dry"},
        ]
    )

    assert f"{TURN_START}system\nBe kind.{TURN_END}\n" in prompt
    assert f'{TURN_START}assistant\n{CALL} weather {{"city": "Bonn"}}{TURN_END}\n' in prompt
    assert prompt.endswith(f"{TURN_START}tool\ndry{TURN_END}\n{TURN_START}assistant\n")


@given(st.lists(st.text(st.sampled_from("<|im_start>end\nuser x"), max_size=40), min_size=1, max_size=4))
def test_nobody_can_begin_or_end_a_turn_by_what_they_say(said: list[str]) -> None:
    prompt = prompt_text([{"role": "user", "content": text} for text in said])

    assert prompt.count(TURN_START) == len(said) + 1
    assert prompt.count(TURN_END) == len(said)


@given(answers)
def test_an_answer_survives_being_written_and_read(answer: Answer) -> None:
    assert parse_answer(answer_text(answer), OFFERED) == answer


@given(st.text(st.sampled_from(f'{CALL} route_request{{}}\n"a:1'), max_size=120), st.data())
def test_reading_in_pieces_gives_what_reading_at_once_gives(text: str, data: st.DataObject) -> None:
    reader = AnswerReader(OFFERED)
    streamed = ""
    rest = text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        streamed += reader.feed(rest[:size])
        rest = rest[size:]
    streamed += reader.finish()

    assert reader.answer == parse_answer(text, OFFERED)
    assert streamed.strip() == (reader.answer.content or "")


@given(answers)
def test_the_wire_form_of_an_answer_is_read_as_that_answer(answer: Answer) -> None:
    if answer == Answer():
        with pytest.raises(ValueError, match="neither content nor a tool call"):
            answer_of({"role": "assistant", "content": ""})
        return
    message = {
        "role": "assistant",
        "content": answer.content,
        "tool_calls": [
            {"type": "function", "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
            for call in answer.tool_calls
        ],
    }

    assert answer_of(message) == answer


@pytest.mark.parametrize(
    "line",
    [
        f"{CALL} unknown_tool {{}}",
        f"{CALL} route_request",
        f"{CALL} route_request not json",
        f'{CALL} route_request ["a", "list"]',
        f'{CALL} route_request {{"team": "car',
    ],
)
def test_what_is_no_call_of_an_offered_tool_stays_text(line: str) -> None:
    assert parse_answer(line, OFFERED) == Answer(line)


def test_without_tools_nothing_is_a_call() -> None:
    line = f"{CALL} route_request {{}}"

    assert parse_answer(line, ()) == Answer(line)


def test_a_call_is_not_shown_as_text_while_it_is_being_written() -> None:
    reader = AnswerReader(OFFERED)

    shown = [
        reader.feed(piece) for piece in ("On", " it.\n", "<tool", '_call> route_request {"team": "cards"}')
    ]

    assert shown == ["On", " it.\n", "", ""]
    assert reader.finish() == ""
    assert reader.answer == Answer("On it.", (ToolCall("route_request", {"team": "cards"}),))


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, r"messages\[1\].*image_url"),
        ({"content": "no role"}, r"messages\[1\].*role"),
        ({"role": "assistant", "content": None}, r"messages\[1\].*neither content nor a tool call"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
            r"messages\[1\].*must be a JSON object",
        ),
    ],
)
def test_a_message_without_a_form_as_text_is_refused_by_its_place(
    message: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        prompt_text([{"role": "system", "content": "x"}, message])


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "array", "items": {"type": "string"}}, "[string]"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer|null"),
        ({"type": ["string", "null"]}, "string|null"),
        ({"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}, "{a: number}"),
        ({"type": "object"}, "object"),
        ({}, "any"),
    ],
)
def test_types_of_arguments_are_written_short(schema: dict[str, Any], text: str) -> None:
    tool = {"function": {"name": "f", "parameters": {"properties": {"x": schema}, "required": ["x"]}}}

    assert f"\nf(x: {text}){TURN_END}" in prompt_text([{"role": "user", "content": "?"}], [tool])
