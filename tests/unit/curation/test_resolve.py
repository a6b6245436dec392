"""Near-duplicates, evaluation data, the split and the balance: properties against plain definitions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolving_agent.contract.learning import CurationThresholds
from evolving_agent.curation.choose import GENERAL
from evolving_agent.curation.drops import DropReason
from evolving_agent.curation.examples import Example, Rejected, Target, Trust
from evolving_agent.curation.resolve import Resolved, is_held_out, resolve, task_type_limit
from evolving_agent.curation.similarity import SimilarityIndex, normalised, shingles

NO_LIMITS = CurationThresholds(max_task_type_percent=100)


def example(number: int, text: str, **changes: object) -> Example:
    made = Example(
        episode=f"e{number}",
        reflection=f"r{number}",
        time=f"2026-01-01T00:00:{number % 60:02}Z",
        trust=Trust.FEEDBACK_CORRECTION,
        task_type=GENERAL,
        instructions="Answer.",
        messages=({"role": "user", "content": text},),
        tools=(),
        target=Target("yes"),
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # fields by name, as a test writes them


def resolved(
    examples: list[Example],
    thresholds: CurationThresholds = NO_LIMITS,
    holdout: int = 0,
    evaluation: tuple[str, ...] = (),
    *,
    pairs: bool = False,
) -> tuple[Resolved, Counter[DropReason]]:
    dropped: Counter[DropReason] = Counter()
    return resolve(examples, evaluation, thresholds, holdout, dropped, pairs=pairs), dropped


def paired(made: Example) -> Example:
    wrong = Rejected(episode=made.episode, time=made.time, by_person=True, target=Target("no"))
    return replace(made, rejected=wrong)


def jaccard_at_least(left: str, right: str, percent: int) -> bool:
    a, b = shingles(left), shingles(right)
    return 100 * len(a & b) >= percent * len(a | b)


texts = st.lists(st.text(alphabet="abcd ", max_size=24).map(normalised), max_size=30)


@given(texts, st.integers(min_value=50, max_value=100))
def test_the_index_finds_exactly_what_comparing_every_pair_finds(inputs: list[str], percent: int) -> None:
    index = SimilarityIndex(inputs, percent)
    for position, text in enumerate(inputs):
        expected = [p for p in range(position) if jaccard_at_least(inputs[p], text, percent)]
        assert index.similar_to(text) == expected
        assert index.add(text) == position


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing_and_case_and_punctuation_do_not_matter(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once
    assert normalised(f"  word {once.upper()}!? ") == normalised(f"Word,{once.upper()}")


def test_templated_inputs_that_differ_in_what_matters_are_kept_apart() -> None:
    template = "Please send the statement of {} for {} to my branch"
    inputs = [
        template.format(what, when)
        for what in ("account", "savings", "loan")
        for when in ("May", "June", "July")
    ]
    calls = [Target(None, "send_statement", {"of": text}) for text in inputs]
    examples = [
        example(n, text, target=call) for n, (text, call) in enumerate(zip(inputs, calls, strict=True))
    ]
    outcome, dropped = resolved(examples)
    assert len(outcome.train) == len(inputs)
    assert dropped[DropReason.NEAR_DUPLICATE] == 0


def test_for_one_input_only_one_call_can_be_right() -> None:
    first = example(1, "close it", target=Target(None, "close", {"what": "card"}))
    second = example(2, "Close it!", target=Target(None, "close", {"what": "account"}))
    outcome, _ = resolved([first, second])
    assert outcome.train == (second,)
    assert outcome.conflicts == 1


def test_of_near_duplicates_the_most_trusted_then_the_newest_stays() -> None:
    said_by_itself = example(
        9, "my card has not arrived yet", trust=Trust.SELF_CORRECTION, target=Target(None, "close", {})
    )
    older = example(1, "My card has not arrived yet!")
    newer = example(2, "my card has not arrived yet")
    outcome, dropped = resolved([said_by_itself, older, newer])
    assert [kept.episode for kept in outcome.train] == ["e2"]
    assert +dropped == {DropReason.NEAR_DUPLICATE: 2}
    assert outcome.conflicts == 1


@given(st.permutations(range(8)))
def test_the_order_of_reading_does_not_matter(order: list[int]) -> None:
    examples = [example(n, f"request {'abc'[n % 3] * 9} number {n // 3}") for n in range(8)]
    thresholds = CurationThresholds(near_duplicate_percent=50)
    straight, _ = resolved(examples, thresholds, holdout=30)
    shuffled, _ = resolved([examples[n] for n in order], thresholds, holdout=30)
    assert shuffled == straight


@pytest.mark.parametrize(
    "text",
    [
        "where is my new card",
        "Where is my NEW card?",
        "where is my new card now",
    ],
)
def test_inputs_of_the_evaluation_are_kept_out(text: str) -> None:
    case = normalised("Where is my new card?")
    outcome, dropped = resolved(
        [example(1, text), example(2, "close my account")], CurationThresholds(), evaluation=(case,)
    )
    assert [kept.episode for kept in outcome.train] == ["e2"]
    assert dropped[DropReason.EVALUATION_OVERLAP] == 1


def test_a_case_that_was_asked_inside_a_longer_conversation_is_kept_out_too() -> None:
    turns = (
        {"role": "user", "content": "hello there"},
        {"role": "assistant", "content": "how can I help?"},
        {"role": "user", "content": "Where is my new card?"},
    )
    conversation = example(1, "", messages=turns)
    outcome, _ = resolved([conversation], evaluation=(normalised("where is my new card"),))
    assert outcome.train == ()


@given(st.text(max_size=20), st.integers(min_value=0, max_value=50), st.integers(min_value=0, max_value=50))
def test_a_greater_share_only_adds_to_the_held_out_split(text: str, one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert not is_held_out(text, small) or is_held_out(text, large)
    assert not is_held_out(text, 0)


def test_the_held_out_share_is_about_what_was_asked_for() -> None:
    share = sum(is_held_out(f"input {n}", 20) for n in range(5000))
    assert 900 < share < 1100


words = st.lists(st.sampled_from(["card", "loan", "transfer", "account", "fee"]), min_size=1, max_size=5)


@given(st.lists(words.map(" ".join), min_size=1, max_size=20), st.data())
def test_a_held_out_input_never_comes_into_training_as_the_log_grows(
    inputs: list[str], data: st.DataObject
) -> None:
    examples = [example(n, text) for n, text in enumerate(inputs)]
    cut = data.draw(st.integers(min_value=0, max_value=len(examples)))
    thresholds = CurationThresholds(near_duplicate_percent=70, max_task_type_percent=100)
    before, _ = resolved(examples[:cut], thresholds, holdout=30)
    after, _ = resolved(examples, thresholds, holdout=30)
    assert not {e.input for e in before.held_out} & {e.input for e in after.train}


@given(
    st.dictionaries(st.sampled_from([GENERAL, "a", "b", "c", "d"]), st.integers(1, 60), min_size=1),
    st.integers(1, 100),
)
def test_the_task_type_limit_holds_and_is_the_largest_that_does(counts: dict[str, int], percent: int) -> None:
    limit = task_type_limit(Counter(counts), percent)
    classified = sum(1 for name in counts if name != GENERAL)
    percent = max(percent, -(-100 // max(1, classified)))

    def holds(candidate: int) -> bool:
        kept = {name: n if name == GENERAL else min(n, candidate) for name, n in counts.items()}
        return all(100 * n <= percent * sum(kept.values()) for name, n in kept.items() if name != GENERAL)

    assert holds(limit)
    assert not any(
        holds(larger)
        for larger in range(limit + 1, max(counts.values()) + 1)
        if any(name != GENERAL and n >= larger for name, n in counts.items())
    )


def test_a_task_type_alone_may_fill_the_dataset() -> None:
    distinct = [f"{a}{b} {b}{a}{a} {a * 3}" for a in "abcdef" for b in "uvwxyz"]
    outcome, _ = resolved(
        [example(n, t, task_type="routing") for n, t in enumerate(distinct)], CurationThresholds()
    )
    assert len(outcome.train) == len(distinct)


def test_above_the_maximum_the_newest_stay_and_every_example_is_accounted_for() -> None:
    distinct = [f"{a}{b} {b}{a}{a} {a * 3}" for a in "abcdef" for b in "uvwxyz"]
    examples = [example(n, t, task_type="ab"[n % 3 == 0]) for n, t in enumerate(distinct)]
    outcome, dropped = resolved(examples, CurationThresholds(max_examples=12), holdout=25)
    kept = outcome.train + outcome.held_out
    assert len(kept) == 12
    assert len(kept) + dropped.total() == len(examples)
    assert dropped[DropReason.MAX_EXAMPLES] > 0
    assert dropped[DropReason.TASK_TYPE_LIMIT] > 0


@given(st.lists(st.tuples(words.map(" ".join), st.booleans()), min_size=1, max_size=20), st.data())
def test_only_pairs_are_trained_on_and_everything_else_is_held_out_or_accounted_for(
    inputs: list[tuple[str, bool]], data: st.DataObject
) -> None:
    examples = [
        paired(example(n, text)) if has_pair else example(n, text)
        for n, (text, has_pair) in enumerate(inputs)
    ]
    thresholds = CurationThresholds(near_duplicate_percent=70, max_task_type_percent=100)
    cut = data.draw(st.integers(min_value=0, max_value=len(examples)))
    before, _ = resolved(examples[:cut], thresholds, holdout=30, pairs=True)
    after, dropped = resolved(data.draw(st.permutations(examples)), thresholds, holdout=30, pairs=True)
    supervised, _ = resolved(examples, thresholds, holdout=30)

    assert all(kept.rejected is not None for kept in after.train)
    assert len(after.train) + len(after.held_out) + dropped.total() == len(examples)
    once_held_out = {e.input for e in (*before.held_out, *supervised.held_out)}
    assert not once_held_out & {e.input for e in after.train}


def test_of_equally_trusted_near_duplicates_one_in_a_pair_stays_and_trust_comes_first() -> None:
    newer = example(2, "my card has not arrived yet")
    older = paired(example(1, "My card has not arrived yet!"))
    outcome, _ = resolved([newer, older], pairs=True)
    assert outcome.train == (older,)

    by_itself = replace(older, trust=Trust.SELF_CORRECTION)
    outcome, dropped = resolved([newer, by_itself], pairs=True)
    assert outcome.train == ()
    assert +dropped == {DropReason.NEAR_DUPLICATE: 1, DropReason.NO_PAIR: 1}


def test_task_types_are_in_balance_among_the_pairs_and_the_newest_pairs_stay() -> None:
    distinct = [f"{a}{b} {b}{a}{a} {a * 3}" for a in "abcdef" for b in "uvwxyz"]
    examples = [example(n, t, task_type="ab"[n % 3 == 0]) for n, t in enumerate(distinct)]
    pairs = [e if n % 4 == 1 else paired(e) for n, e in enumerate(examples)]
    outcome, dropped = resolved(pairs, CurationThresholds(max_examples=14), pairs=True)
    assert dropped[DropReason.NO_PAIR] == 9
    counts = Counter(e.task_type for e in outcome.train)
    assert len(outcome.train) == 14
    assert dropped[DropReason.TASK_TYPE_LIMIT] > 0
    assert counts.total() + dropped.total() == len(distinct)
