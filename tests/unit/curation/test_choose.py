"""What an episode teaches, by whose word, and why it may teach nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from evolving_agent.contract.learning import Redaction
from evolving_agent.curation.choose import choose_example
from evolving_agent.curation.drops import DropReason
from evolving_agent.curation.examples import Example, Target, Trust
from evolving_agent.curation.scrub import redact
from evolving_agent.store.records import Correction, Episode, ReflectionRecord, ReflectionSource, ToolCall
from evolving_agent.testing.experience import episode, reflection, routed_to
from evolving_agent.training.lora.examples import read_examples

FEEDBACK, OWN = ReflectionSource.FEEDBACK, ReflectionSource.AFTER_RUN
CARDS = Target(None, "route_request", {"team": "cards"})
ASKED = episode(1, "my card is bent")
LATER = "2026-02-01T00:00:00Z"


def choose(asked: Episode, *reflections: ReflectionRecord) -> Example | DropReason:
    return choose_example(asked, reflections, min_score=70)


def own_correction(**changes: Any) -> ReflectionRecord:
    correction = Correction(tool_name="route_request", tool_arguments={"team": "cards"})
    return reflection(ASKED, OWN, **({"outcome": "failure", "correction": correction} | changes))


@pytest.mark.parametrize(
    ("reflections", "trust", "target"),
    [
        ([routed_to(ASKED, "cards")], Trust.FEEDBACK_CORRECTION, CARDS),
        ([reflection(ASKED, FEEDBACK, score=100)], Trust.FEEDBACK_SCORE, Target("I am not sure.")),
        ([own_correction()], Trust.SELF_CORRECTION, CARDS),
        ([own_correction(outcome="unknown", score=10)], Trust.SELF_CORRECTION, CARDS),
        ([reflection(ASKED, OWN, score=70)], Trust.SELF_SCORE, Target("I am not sure.")),
        # a person's word outranks the agent's, in either direction
        ([own_correction(), routed_to(ASKED, "loans")], Trust.FEEDBACK_CORRECTION, None),
        ([own_correction(), reflection(ASKED, FEEDBACK, score=90)], Trust.FEEDBACK_SCORE, None),
        ([own_correction(), reflection(ASKED, FEEDBACK, score=0)], Trust.SELF_CORRECTION, CARDS),
    ],
)
def test_the_most_trusted_signal_chooses_the_target(
    reflections: list[ReflectionRecord], trust: Trust, target: Target | None
) -> None:
    chosen = choose(ASKED, *reflections)
    assert isinstance(chosen, Example)
    assert chosen.trust is trust
    assert target is None or chosen.target == target


def test_of_two_corrections_by_feedback_the_newest_counts() -> None:
    newest = Correction(tool_name="route_request", tool_arguments={"team": "cards"})
    second_thought = reflection(ASKED, FEEDBACK, id="z", time=LATER, correction=newest)
    for order in ([routed_to(ASKED, "loans"), second_thought], [second_thought, routed_to(ASKED, "loans")]):
        chosen = choose(ASKED, *order)
        assert isinstance(chosen, Example)
        assert (chosen.target, chosen.reflection) == (CARDS, "z")


@pytest.mark.parametrize(
    ("asked", "reflections", "reason"),
    [
        (ASKED, [], DropReason.NO_SIGNAL),
        (ASKED, [reflection(ASKED, OWN)], DropReason.NO_SIGNAL),
        (ASKED, [reflection(ASKED, OWN, score=69)], DropReason.LOW_SCORE),
        (ASKED, [reflection(ASKED, FEEDBACK, score=0)], DropReason.LOW_SCORE),
        # a thumbs down by a person is not outvoted by the agent's praise of itself
        (
            ASKED,
            [reflection(ASKED, FEEDBACK, score=0), reflection(ASKED, OWN, score=100)],
            DropReason.LOW_SCORE,
        ),
        # a correction that does not call the answer wrong is not believed
        (ASKED, [own_correction(outcome="success", score=20)], None),
        (ASKED, [own_correction(outcome="unknown")], DropReason.NO_SIGNAL),
        (ASKED, [reflection(ASKED, OWN, score=95, outcome="failure")], DropReason.LOW_SCORE),
        (episode(1, "hi", arm="shadow"), [reflection(ASKED, FEEDBACK, score=100)], DropReason.SHADOW_ARM),
        (episode(1, "hi", error="ModelBehavior: no"), [], DropReason.FAILED),
        (episode(1, "hi", error="no"), [reflection(ASKED, FEEDBACK, score=100)], DropReason.FAILED),
        (episode(1, "hi", answer=" "), [reflection(ASKED, FEEDBACK, score=100)], DropReason.INVALID_TARGET),
        (
            episode(1, "hi", agent_path=["support", "billing"]),
            [reflection(ASKED, FEEDBACK, score=100)],
            DropReason.HANDED_OFF,
        ),
        (
            episode(1, "", messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            [routed_to(ASKED, "cards")],
            DropReason.UNSUPPORTED_CONTENT,
        ),
    ],
)
def test_an_episode_that_teaches_nothing_says_why(
    asked: Episode, reflections: list[ReflectionRecord], reason: DropReason | None
) -> None:
    chosen = choose(asked, *reflections)
    if reason is None:
        assert isinstance(chosen, Example)
    else:
        assert chosen is reason


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("delete_everything", {}),  # not on offer
        ("route_request", {}),  # a required argument is missing
        ("route_request", {"team": "attackers"}),  # not one of the values
        ("route_request", {"team": "cards", "also": "x"}),  # an argument that the tool does not know
    ],
)
@pytest.mark.parametrize("source", [FEEDBACK, OWN])
def test_a_correction_to_a_call_that_the_agent_cannot_make_is_refused(
    source: ReflectionSource, name: str, arguments: dict[str, Any]
) -> None:
    correction = Correction(tool_name=name, tool_arguments=arguments)
    assert (
        choose(ASKED, reflection(ASKED, source, outcome="failure", correction=correction))
        is DropReason.INVALID_TARGET
    )


def test_a_good_answer_by_a_tool_teaches_the_first_call_and_no_bookkeeping() -> None:
    calls = [
        ToolCall(name="record_reflection", arguments={"lesson": "x"}),
        ToolCall(name="route_request", arguments={"team": "cards"}, result="done"),
        ToolCall(name="route_request", arguments={"team": "loans"}, result="done"),
    ]
    chosen = choose(episode(1, "my card", tool_calls=calls), reflection(ASKED, FEEDBACK, score=100))
    assert isinstance(chosen, Example)
    assert chosen.target == CARDS


def test_the_line_has_openais_shape_and_one_system_message() -> None:
    asked = episode(
        1,
        "",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "my card"}],
        instructions="Route each request.\n\nBe brief.",
        system="Route each request.\n\nBe brief.\n\nMemory: Ann likes tea.",
    )
    chosen = choose(asked, routed_to(asked, "cards"))
    assert isinstance(chosen, Example)
    line = chosen.held_out_line()
    system, user, assistant = line["messages"]
    assert system == {"role": "system", "content": "Route each request.\n\nBe brief."}
    assert user == {"role": "user", "content": "my card"}
    assert assistant["role"] == "assistant"
    assert assistant["tool_calls"][0]["type"] == "function"
    assert assistant["tool_calls"][0]["function"] == {
        "name": "route_request",
        "arguments": '{"team":"cards"}',
    }
    assert line["tools"] == asked.tools
    assert line["case"]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert line["case"]["expected"] == {"tool": {"name": "route_request", "arguments": {"team": "cards"}}}


def test_a_task_type_comes_from_whichever_reflection_names_one() -> None:
    chosen = choose(ASKED, reflection(ASKED, OWN, task_type="routing"), routed_to(ASKED, "cards"))
    assert isinstance(chosen, Example)
    assert chosen.task_type == "routing"


WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "by ada@example.org", "parameters": {}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
UNFINISHED = episode(1, "rain?", answer="", client_tools=[WEATHER], client_calls=[CALL])
FINISHED = episode(
    2,
    "rain?",
    answer="It rains.",
    client_tools=[WEATHER],
    messages=[
        {"role": "user", "content": "rain?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ],
)


@pytest.mark.parametrize(
    "reflections",
    [
        [],
        [reflection(UNFINISHED, FEEDBACK, score=100)],
        [reflection(UNFINISHED, OWN, score=100)],
        [reflection(UNFINISHED, OWN, outcome="failure", correction=Correction(answer="It may rain."))],
    ],
)
def test_a_run_that_waits_for_its_client_is_no_answer(reflections: list[ReflectionRecord]) -> None:
    assert choose(UNFINISHED, *reflections) is DropReason.CLIENTS_TURN


def test_a_person_may_say_what_should_have_come_in_place_of_a_clients_call() -> None:
    for correction in (Correction(answer="Look out of the window."), Correction(tool_name="weather")):
        chosen = choose(UNFINISHED, reflection(UNFINISHED, FEEDBACK, correction=correction))
        assert isinstance(chosen, Example)


def test_the_answer_to_a_clients_result_is_an_example_of_several_turns() -> None:
    chosen = choose(FINISHED, reflection(FINISHED, FEEDBACK, score=100))

    assert isinstance(chosen, Example)
    line = chosen.training_line()
    assert [message["role"] for message in line["messages"]] == [
        *("system", "user", "assistant", "tool", "assistant"),
    ]
    assert line["messages"][2]["tool_calls"] == [CALL]
    assert line["tools"] == [*FINISHED.tools, WEATHER]
    assert chosen.held_out_line()["case"]["messages"] == line["messages"][1:-1]


@pytest.mark.parametrize(
    "said",
    [
        {"content": None, "tool_calls": [CALL | {"function": {"name": "weather", "arguments": "{"}}]},
        {"content": None, "tool_calls": [CALL | {"function": {"name": "weather", "arguments": "[1]"}}]},
        {"content": "x", "tool_calls": [{"id": "call_1"}]},
        {"content": None, "refusal": "No."},
        {"content": ""},
    ],
)
def test_what_the_assistant_cannot_have_said_spoils_no_training(said: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "rain?"}, {"role": "assistant", **said}]
    asked = replace(FINISHED, messages=messages)

    assert choose(asked, reflection(asked, FEEDBACK, score=100)) is DropReason.UNSUPPORTED_CONTENT


def test_every_line_with_a_clients_tools_is_one_that_the_trainer_reads(tmp_path: Path) -> None:
    odd = {"name": "odd", "parameters": {"properties": {"a": True, "b": {"type": "array", "items": True}}}}
    asked = replace(FINISHED, client_tools=[WEATHER, {"type": "function", "function": odd}])
    chosen = choose(asked, reflection(asked, FEEDBACK, score=100))
    assert isinstance(chosen, Example)
    dataset = tmp_path / "train.jsonl"
    dataset.write_text(json.dumps(chosen.training_line()) + "\n")

    (example,) = read_examples(dataset, lambda text: list(text.encode()), max_tokens=10_000).kept

    prompt = bytes(example.prompt).decode()
    assert "odd(a?: any, b?: [any])" in prompt
    assert "<tool_call> weather {}" in prompt


def test_a_clients_tools_are_scrubbed_and_the_agents_own_are_not() -> None:
    chosen = choose(FINISHED, reflection(FINISHED, FEEDBACK, score=100))
    assert isinstance(chosen, Example)

    clean = redact(chosen, Redaction.REQUIRED, Counter())

    assert isinstance(clean, Example)
    (tool,) = clean.client_tools
    assert "ada@example.org" not in tool["function"]["description"]
    assert clean.tools == chosen.tools


def test_json_that_the_client_asked_for_is_not_taught_and_a_call_is() -> None:
    said = {"answer_format": {"type": "json_object"}}
    answered = episode(3, "card?", answer='{"team": "cards"}', **said)
    called = episode(
        4, "card?", tool_calls=[ToolCall(name="route_request", arguments={"team": "cards"})], **said
    )

    assert choose(answered, reflection(answered, FEEDBACK, score=100)) is DropReason.ANSWER_FORMAT
    chosen = choose(called, reflection(called, FEEDBACK, score=100))
    assert isinstance(chosen, Example)
    assert chosen.target == CARDS
