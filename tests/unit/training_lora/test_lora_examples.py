"""Examples as token numbers, with a tokenizer of one number per character."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolving_agent.training.lora.examples import (
    Example,
    epochs_of_batches,
    read_examples,
    read_pairs,
    shared_prefix,
)

TOOL = {"type": "function", "function": {"name": "route", "parameters": {"type": "object"}}}
tokens = st.lists(st.integers(0, 3), min_size=1, max_size=8).map(tuple)
examples = st.builds(Example, prompt=tokens, answer=tokens)


def characters(text: str) -> list[int]:
    return [ord(character) for character in text]


def text_of(numbers: tuple[int, ...]) -> str:
    return "".join(chr(number) for number in numbers)


def line(question: str) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": "route", "arguments": '{"team": "cards"}'}}
    return {
        "messages": [
            {"role": "system", "content": "Route."},
            {"role": "user", "content": question},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ],
        "tools": [TOOL],
    }


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return path


def test_the_model_reads_the_conversation_and_learns_the_last_message(tmp_path: Path) -> None:
    read = read_examples(write(tmp_path / "train.jsonl", line("Lost card")), characters, 1000)

    [example] = read.kept
    assert text_of(example.prompt).endswith("Lost card<|im_end|>\n<|im_start|>assistant\n")
    assert "route(" in text_of(example.prompt)
    assert text_of(example.answer) == '<tool_call> route {"team": "cards"}<|im_end|>'


def test_long_examples_are_dropped_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", line("short"), line("long " * 200), line("short too"))

    read = read_examples(path, characters, 400)

    assert len(read.kept) == 2
    assert read.dropped_too_long == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"messages": [{"role": "user", "content": "no answer"}]},
        {"messages": []},
        {"no": "messages"},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]},
        [],
    ],
)
def test_a_line_that_is_no_example_is_named(tmp_path: Path, broken: object) -> None:
    path = write(tmp_path / "train.jsonl", line("fine"), broken)

    with pytest.raises(ValueError, match=r"train\.jsonl, line 2"):
        read_examples(path, characters, 1000)


def pair(question: str, wrong: str = "I am not sure.") -> dict[str, Any]:
    *asked, right = line(question)["messages"]
    return {
        "input": {"messages": asked, "tools": [TOOL]},
        "preferred_output": [right],
        "non_preferred_output": [{"role": "assistant", "content": wrong}],
    }


def test_both_answers_of_a_pair_continue_one_prompt(tmp_path: Path) -> None:
    read = read_pairs(write(tmp_path / "train.jsonl", pair("Lost card")), characters, 1000)

    [both] = read.kept
    [alone] = read_examples(write(tmp_path / "train.jsonl", line("Lost card")), characters, 1000).kept
    assert both.preferred == alone
    assert both.rejected.prompt == alone.prompt
    assert text_of(both.rejected.answer) == "I am not sure.<|im_end|>"
    assert both.size == len(both.preferred.tokens) + len(both.rejected.tokens)


def test_a_pair_with_a_long_side_is_dropped_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", pair("short"), pair("short", wrong="long " * 200))

    read = read_pairs(path, characters, 400)

    assert (len(read.kept), read.dropped_too_long) == (1, 1)


@pytest.mark.parametrize("broken", [line("of the other format"), pair("x") | {"preferred_output": []}, []])
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, broken: object) -> None:
    path = write(tmp_path / "train.jsonl", pair("fine"), broken)

    with pytest.raises(ValueError, match=r"train\.jsonl, line 2"):
        read_pairs(path, characters, 1000)


@given(st.lists(examples, min_size=1, max_size=5))
def test_the_shared_prefix_is_common_and_as_long_as_can_be(batch: list[Example]) -> None:
    length = shared_prefix(batch)

    assert len({example.prompt[:length] for example in batch}) == 1
    assert all(length < len(example.prompt) for example in batch)
    can_grow = all(length + 1 < len(example.prompt) for example in batch)
    assert not can_grow or len({example.prompt[: length + 1] for example in batch}) > 1


@given(st.lists(examples, min_size=1, max_size=9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 9))
def test_every_epoch_holds_every_example_once(
    all_examples: list[Example], batch_size: int, epochs: int, seed: int
) -> None:
    batches = list(epochs_of_batches(all_examples, batch_size, epochs, seed))

    assert batches == list(epochs_of_batches(all_examples, batch_size, epochs, seed))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    per_epoch = len(batches) // epochs
    for epoch in range(epochs):
        seen = [
            example for batch in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for example in batch
        ]
        assert sorted(seen, key=repr) == sorted(all_examples, key=repr)
