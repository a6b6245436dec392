"""Reading what models say when they should reflect."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolving_agent.runtime.reflection import (
    Reflected,
    ReflectionFields,
    parse_reflection,
    query_of,
    reflection_messages,
    reflection_record,
)
from evolving_agent.store.records import Episode, ReflectionSource, ToolCall


@pytest.mark.parametrize(
    "text",
    [
        '{"score": 80, "lesson": "Be brief."}',
        'Here it is:\n```json\n{"score": 80, "lesson": "Be brief."}\n```\nAnything else?',
        '{"broken": {"score": 80, "lesson": "Be brief."}',
        '{"an": "other object"} {"score": "80", "lesson": " Be brief. "}',
        '{"score": 80.2, "lesson": "Be brief.", "mistakes": null, "outcome": "dunno"}',
        '{"score": "80/100", "lesson": "Be brief.", "corrected_answer": "null", "task_type": ""}',
    ],
)
def test_a_reflection_is_found_in_what_surrounds_it(text: str) -> None:
    assert parse_reflection(text) == ReflectionFields(score=80, lesson="Be brief.")


@pytest.mark.parametrize(
    "text", ["", "I did well.", "{", "{}", "[1, 2]", '{"score": "high"}', '{"score": 101}', '{"score": true}']
)
def test_what_says_nothing_is_no_reflection(text: str) -> None:
    assert parse_reflection(text) is None


def test_one_text_where_a_list_belongs_is_a_list_of_one() -> None:
    fields = parse_reflection(
        '{"mistakes": "too long", "uncertainties": [1, "", "date"], "outcome": "Failure"}'
    )

    assert fields is not None
    assert (fields.mistakes, fields.uncertainties, fields.outcome) == (
        ("too long",),
        ("1", "date"),
        "failure",
    )


@given(
    st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps)
)
def test_no_text_breaks_the_parser(text: str) -> None:
    parse_reflection(text)


@given(
    st.dictionaries(
        st.sampled_from(["score", "lesson", "mistakes", "outcome", "corrected_answer", "task_type"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
    )
)
def test_no_value_breaks_a_field(said: dict[str, object]) -> None:
    fields = parse_reflection(json.dumps(said))

    assert fields is None or fields.score is None or 0 <= fields.score <= 100


def an_episode() -> Episode:
    return Episode(
        id="e1",
        time="2030-01-01T00:00:00Z",
        agent="support",
        revision="support-00000001",
        model="tiny",
        arm="active",
        messages=[
            {"role": "user", "content": "First"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": [{"type": "text", "text": "I lost"}, {"type": "text", "text": "it"}]},
        ],
        system="You are.",
        tool_calls=[ToolCall(name="route", arguments={"team": "cards"}, error="down")],
        answer="x" * 10_000,
    )


def test_the_prompt_shows_request_calls_and_answer_within_bounds() -> None:
    system, user = reflection_messages(an_episode())

    assert (system["role"], user["role"]) == ("system", "user")
    assert "I lost\nit" in user["content"]
    assert '{"name": "route", "arguments": {"team": "cards"}, "result": "down"}' in user["content"]
    assert len(user["content"]) < 5_000


def test_a_record_carries_query_trace_and_answer() -> None:
    episode = an_episode()
    fields = ReflectionFields(score=10, corrected_answer=episode.answer)

    record = reflection_record(Reflected.of(episode), ReflectionSource.AFTER_RUN, fields)

    assert (record.episode, record.query, record.answer) == ("e1", "I lost\nit", episode.answer)
    assert record.tool_trace == episode.tool_calls
    assert record.correction is None  # the "correction" is the answer itself


def test_an_episode_without_a_user_has_no_query() -> None:
    episode = an_episode()
    episode.messages.clear()

    assert query_of(episode) == ""
