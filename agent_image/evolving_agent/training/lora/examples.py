"""Training examples as token numbers, and their batches. No heavy library is needed here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from evolving_agent.contract import chatml

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True)
class Example:
    """Token numbers of what the model reads, and of what it is to say, the mark of its end included."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.prompt + self.answer

    @property
    def size(self) -> int:
        """How many tokens are read in one pass."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt."""

    preferred: Example
    rejected: Example

    @property
    def size(self) -> int:
        return self.preferred.size + self.rejected.size


Item = TypeVar("Item", Example, Pair)


@dataclass(frozen=True)
class Examples(Generic[Item]):
    kept: tuple[Item, ...]
    dropped_too_long: int


def read_examples(path: Path, tokenize: Tokenize, max_tokens: int) -> Examples[Example]:
    """The lines of a dataset's train.jsonl (OpenAI's chat format; the last message is the answer).

    Examples of more than `max_tokens` tokens are dropped and counted. Raises ValueError, naming the
    line, for one that is no training example.
    """
    read = _read(path, lambda line: _example(line, tokenize))
    return _short_ones(read, lambda example: example.size, max_tokens)


def read_pairs(path: Path, tokenize: Tokenize, max_tokens: int) -> Examples[Pair]:
    """The same of a preference dataset (OpenAI's preference format): no side may be longer."""
    read = _read(path, lambda line: _pair(line, tokenize))
    return _short_ones(read, lambda pair: max(pair.preferred.size, pair.rejected.size), max_tokens)


def _short_ones(read: list[Item], length: Callable[[Item], int], max_tokens: int) -> Examples[Item]:
    kept = tuple(item for item in read if length(item) <= max_tokens)
    return Examples(kept, len(read) - len(kept))


def _read(path: Path, parse: Callable[[Any], Item]) -> list[Item]:
    read: list[Item] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                read.append(parse(json.loads(line)))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: not a training example ({error})") from error
    return read


def _example(document: Any, tokenize: Tokenize) -> Example:
    *before, last = document["messages"]
    return _answered(before, document.get("tools") or (), last, tokenize)


def _pair(document: Any, tokenize: Tokenize) -> Pair:
    asked, sides = document["input"], []
    for name in ("preferred_output", "non_preferred_output"):
        [answer] = document[name]
        sides.append(_answered(asked["messages"], asked.get("tools") or (), answer, tokenize))
    return Pair(*sides)


def _answered(before: list[Any], tools: Sequence[Any], last: Any, tokenize: Tokenize) -> Example:
    if last["role"] != "assistant":
        raise ValueError("the last message is not the assistant's")
    prompt = chatml.prompt_text(before, tools)
    answer = chatml.answer_text(chatml.answer_of(last)) + chatml.TURN_END
    # Tokenized apart, as in serving: the model continues a finished prompt, so no token spans both.
    return Example(tuple(tokenize(prompt)), tuple(tokenize(answer)))


def shared_prefix(batch: Sequence[Example]) -> int:
    """How many tokens all prompts of a batch begin with in common.

    Always less than the shortest prompt: the last token of a prompt predicts the answer's first, which
    is the example's own.
    """
    limit = min(len(example.prompt) for example in batch) - 1
    first = batch[0].prompt
    for position in range(limit):
        if any(example.prompt[position] != first[position] for example in batch):
            return position
    return limit


def epochs_of_batches(
    examples: Sequence[Item], batch_size: int, epochs: int, seed: int
) -> Iterator[list[Item]]:
    """All batches of a training run: each epoch in an order of its own, the same for the same seed."""
    order = random.Random(seed)  # noqa: S311 (an order that can be repeated, not a secret)
    for _ in range(epochs):
        shuffled = list(examples)
        order.shuffle(shuffled)
        for start in range(0, len(shuffled), batch_size):
            yield shuffled[start : start + batch_size]
