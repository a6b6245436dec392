"""Pairs: which answer was wrong, which right answer it is compared with, and what is no pair."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from evolving_agent.contract.chatml import prompt_text
from evolving_agent.contract.learning import Redaction
from evolving_agent.curation.choose import choose_example
from evolving_agent.curation.drops import DropReason
from evolving_agent.curation.examples import Example, Rejected, Step, Target
from evolving_agent.curation.pairs import WrongAnswers, rejected_answer, without_right_answer
from evolving_agent.curation.scrub import redact
from evolving_agent.store.records import Correction, Episode, ReflectionRecord, ReflectionSource, ToolCall
from evolving_agent.testing.experience import ROUTE_TOOL, episode, reflection, routed_to

FEEDBACK, OWN = ReflectionSource.FEEDBACK, ReflectionSource.AFTER_RUN
ASKED = episode(1, "my card is bent")
SAID = Target("I am not sure.")
TO_LOANS = ToolCall(name="route_request", arguments={"team": "loans"}, result="queued: loans")
CALLED = episode(1, "my card is bent", tool_calls=[TO_LOANS], answer="The loans team will call you.")
LOANS = Target(None, "route_request", {"team": "loans"})
RIGHT_WORDS = Correction(answer="The cards team will call you.")


def rejected(asked: Episode, *reflections: ReflectionRecord) -> Rejected | None:
    chosen = choose_example(asked, reflections, min_score=70)
    right = chosen.target if isinstance(chosen, Example) else None
    return rejected_answer(asked, reflections, 70, right)


def own_correction(**changes: Any) -> ReflectionRecord:
    correction = Correction(tool_name="route_request", tool_arguments={"team": "cards"})
    return reflection(ASKED, OWN, **({"outcome": "failure", "correction": correction} | changes))


@pytest.mark.parametrize(
    ("asked", "reflections", "said"),
    [
        # corrected, or scored low, by a person
        (ASKED, [routed_to(ASKED, "cards")], SAID),
        (ASKED, [reflection(ASKED, FEEDBACK, score=69)], SAID),
        (ASKED, [reflection(ASKED, FEEDBACK, score=70)], None),
        # the same by the agent itself, where it stands by it
        (ASKED, [own_correction()], SAID),
        (ASKED, [own_correction(outcome="success", score=90)], None),
        (ASKED, [reflection(ASKED, OWN, score=10)], SAID),
        (ASKED, [reflection(ASKED, OWN, score=90, outcome="failure")], SAID),
        (ASKED, [reflection(ASKED, OWN, score=90)], None),
        (ASKED, [], None),
        # a person's word outranks the agent's, in either direction
        (ASKED, [own_correction(), reflection(ASKED, FEEDBACK, score=90)], None),
        (ASKED, [reflection(ASKED, OWN, score=100), reflection(ASKED, FEEDBACK, score=0)], SAID),
        # a wrong call is what is compared with the right one, not the words after it
        (CALLED, [routed_to(CALLED, "cards")], LOANS),
        (CALLED, [reflection(CALLED, FEEDBACK, score=0)], LOANS),
        # a correction that says the same
        (CALLED, [routed_to(CALLED, "loans")], None),
        # what nobody saw, or the agent did not say
        (episode(1, "hi", arm="shadow"), [routed_to(ASKED, "cards")], None),
        (episode(1, "hi", error="ModelBehavior: no"), [routed_to(ASKED, "cards")], None),
        (episode(1, "hi", answer=" "), [routed_to(ASKED, "cards")], None),
        (episode(1, "hi", agent_path=["support", "billing"]), [routed_to(ASKED, "cards")], None),
        (
            episode(1, "hi", tool_calls=[ToolCall(name="invented", arguments={})]),
            [routed_to(ASKED, "cards")],
            None,
        ),
        # another client's prompt is another one: its tools, and the form that it asked for
        (episode(1, "hi", client_tools=[ROUTE_TOOL]), [routed_to(ASKED, "cards")], None),
        (episode(1, "hi", answer_format={"type": "json_object"}), [routed_to(ASKED, "cards")], None),
    ],
)
def test_what_was_marked_wrong_is_what_the_agent_said(
    asked: Episode, reflections: list[ReflectionRecord], said: Target | None
) -> None:
    found = rejected(asked, *reflections)
    assert (found.target if found else None) == said
    assert found is None or found.after == ()


def test_words_that_were_corrected_after_a_call_are_compared_after_its_result() -> None:
    corrected = reflection(CALLED, FEEDBACK, correction=RIGHT_WORDS)
    found = rejected(CALLED, corrected)

    assert found is not None
    assert found.target == Target("The loans team will call you.")
    assert found.after == (Step("route_request", {"team": "loans"}, "queued: loans"),)
    example = choose_example(CALLED, [corrected], 70)
    assert isinstance(example, Example)
    line = example.preference_line(found)
    system, user, call, result = line["input"]["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert call["tool_calls"][0]["function"] == {"name": "route_request", "arguments": '{"team":"loans"}'}
    assert result == {
        "role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": "queued: loans"
    }  # fmt: skip
    assert prompt_text(line["input"]["messages"]).endswith(
        '<tool_call> route_request {"team": "loans"}<|im_end|>\n'
        "<|im_start|>tool\nqueued: loans<|im_end|>\n<|im_start|>assistant\n"
    )
    assert line["preferred_output"] == [{"role": "assistant", "content": RIGHT_WORDS.answer}]
    assert line["non_preferred_output"] == [{"role": "assistant", "content": CALLED.answer}]


@pytest.mark.parametrize(
    "asked",
    [
        episode(1, "hi", tool_calls=[TO_LOANS], answer="queued: loans"),  # the tool's words, not the model's
        episode(1, "hi", tool_calls=[ToolCall(name="route_request", arguments={}, error="timeout")]),
        episode(1, "hi", tool_calls=[TO_LOANS], agent_path=["support", "billing"]),
    ],
)
def test_words_after_calls_that_cannot_be_shown_are_compared_with_nothing(asked: Episode) -> None:
    corrected = reflection(asked, FEEDBACK, correction=RIGHT_WORDS)
    assert rejected(asked, corrected) is None
    example = choose_example(asked, [corrected], 70)
    assert isinstance(example, Example)

    # not with another run's first call either: that would teach to answer without a call
    pool = WrongAnswers()
    other = without_right_answer(asked, Rejected("other", "", by_person=True, target=LOANS))
    assert other is not None
    pool.add(other)
    assert pool.paired(example).rejected is None


def test_a_good_answer_is_paired_with_a_bad_one_of_another_run_with_the_same_prompt() -> None:
    good = episode(1, "My card is BENT!", tool_calls=[call_of("cards")])
    right = choose_example(good, [reflection(good, FEEDBACK, score=100)], 70)
    assert isinstance(right, Example)
    runs: dict[str, tuple[int, str, ReflectionSource, dict[str, Any]]] = {
        "by itself": (2, "my card is bent", OWN, {}),
        "by a person": (3, "my card is bent", FEEDBACK, {"tool_calls": [TO_LOANS]}),
        "the same answer": (4, "my card is bent", FEEDBACK, {"tool_calls": [call_of("cards")]}),
        "another request": (5, "my card is lost", FEEDBACK, {}),
        "other instructions": (6, "my card is bent", FEEDBACK, {"system": "Be brief."}),
        "other tools": (7, "my card is bent", FEEDBACK, {"tools": [ROUTE_TOOL, ROUTE_TOOL]}),
    }
    pool = WrongAnswers()
    for number, text, source, more in runs.values():
        asked = episode(number, text, **more)
        found = rejected(asked, reflection(asked, source, score=0))
        assert found is not None
        prompt = without_right_answer(asked, found)
        assert prompt is not None
        pool.add(prompt)

    pair = pool.paired(right)
    assert pair.rejected is not None
    assert (pair.rejected.episode, pair.rejected.target) == ("chatcmpl-3", LOANS)
    assert pair == replace(right, rejected=pair.rejected)


def call_of(team: str) -> ToolCall:
    return ToolCall(name="route_request", arguments={"team": team}, result="queued")


@pytest.mark.parametrize(
    ("after", "is_pair"), [("Write to the branch.", True), ("Write to a@bank.com.", False)]
)
def test_answers_that_are_the_same_once_they_are_redacted_are_no_pair(after: str, is_pair: bool) -> None:
    asked = episode(1, "where to complain", answer=after)
    judgement = reflection(asked, FEEDBACK, correction=Correction(answer="Write to b@bank.com."))
    example = choose_example(asked, [judgement], 70)
    assert isinstance(example, Example)

    clean = redact(replace(example, rejected=rejected(asked, judgement)), Redaction.REQUIRED, Counter())

    assert isinstance(clean, Example)
    assert clean.rejected is not None
    assert (WrongAnswers().paired(clean).rejected is not None) is is_pair


def test_a_pair_is_scrubbed_on_both_sides_and_in_between() -> None:
    secret = "jane.doe@example.com"
    step = Step("route_request", {"team": secret}, f"queued for {secret}")
    wrong = Rejected(
        "e",
        "",
        by_person=True,
        target=Target(f"Write to {secret}", "route_request", {"to": secret}),
        after=(step,),
    )
    example = choose_example(ASKED, [routed_to(ASKED, "cards")], 70)
    assert isinstance(example, Example)

    counted: Counter[str] = Counter()
    found = redact(replace(example, rejected=wrong), Redaction.REQUIRED, counted)
    assert isinstance(found, Example)
    assert found.rejected is not None
    assert secret not in str(found.preference_line(found.rejected))
    assert counted.total() == 4


def test_a_wrong_side_that_cannot_be_scrubbed_drops_the_pair() -> None:
    card_number = {"number": 4111111111111111}  # no placeholder fits a number
    wrong = Rejected("e", "", by_person=True, target=Target(None, "route_request", card_number))
    example = choose_example(ASKED, [routed_to(ASKED, "cards")], 70)
    assert isinstance(example, Example)

    assert (
        redact(replace(example, rejected=wrong), Redaction.REQUIRED, Counter()) is DropReason.REDACTION_FAILED
    )
