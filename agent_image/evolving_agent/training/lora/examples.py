"""Training examples as token numbers, and their batches. No heavy library is needed here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Examples:
    kept: tuple[Example, ...]
    dropped_too_long: int


def read_examples(path: Path, tokenize: Tokenize, max_tokens: int) -> Examples:
    """The lines of a dataset's train.jsonl (OpenAI's chat format; the last message is the answer).

    Examples of more than `max_tokens` tokens are dropped and counted. Raises ValueError, naming the
    line, for one that is no training example.
    """
    kept: list[Example] = []
    dropped = 0
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                example = _example(line, tokenize)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: not a training example ({error})") from error
            if len(example.tokens) > max_tokens:
                dropped += 1
            else:
                kept.append(example)
    return Examples(tuple(kept), dropped)


def _example(line: str, tokenize: Tokenize) -> Example:
    document = json.loads(line)
    *before, last = document["messages"]
    if last["role"] != "assistant":
        raise ValueError("the last message is not the assistant's")
    prompt = chatml.prompt_text(before, document.get("tools") or ())
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
    examples: Sequence[Example], batch_size: int, epochs: int, seed: int
) -> Iterator[list[Example]]:
    """All batches of a training run: each epoch in an order of its own, the same for the same seed."""
    order = random.Random(seed)  # noqa: S311 (an order that can be repeated, not a secret)
    for _ in range(epochs):
        shuffled = list(examples)
        order.shuffle(shuffled)
        for start in range(0, len(shuffled), batch_size):
            yield shuffled[start : start + batch_size]
