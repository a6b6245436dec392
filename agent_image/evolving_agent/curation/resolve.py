"""Which examples stay: evaluation data out, one of each kind of input, task types in balance, the newest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evolving_agent.contract.learning import CurationThresholds
from evolving_agent.curation.choose import GENERAL
from evolving_agent.curation.drops import DropReason
from evolving_agent.curation.examples import Example
from evolving_agent.curation.similarity import SimilarityIndex, normalised


@dataclass(frozen=True)
class Resolved:
    """Examples to train on and to hold out, both in the order of time."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    conflicts: int  # inputs that were dropped as near-duplicates of one with another target


def resolve(
    examples: Sequence[Example],
    evaluation_inputs: Iterable[str],
    thresholds: CurationThresholds,
    holdout_percent: int,
    dropped: Counter[DropReason],
    *,
    pairs: bool = False,
) -> Resolved:
    """Resolves overlaps; what goes is counted in `dropped`. The order of `examples` does not matter.

    `evaluation_inputs` are normalised inputs of the evaluation suites. With `pairs`, only examples that have
    their other side are trained on. Those without can still be held out: an evaluation that asked only
    what went wrong before would not see what training spoils.
    """
    by_preference = sorted(
        examples, key=lambda e: (e.trust, e.rejected is not None, e.time, e.episode), reverse=True
    )
    apart = _without_evaluation_data(
        by_preference, set(evaluation_inputs), thresholds.near_duplicate_percent, dropped
    )
    unique, held_out_inputs, conflicts = _one_of_each(
        apart, thresholds.near_duplicate_percent, holdout_percent, dropped
    )
    if pairs:
        held_out = [e for e in unique if e.input in held_out_inputs]
        paired = [e for e in unique if e.input not in held_out_inputs and e.rejected is not None]
        dropped[DropReason.NO_PAIR] += len(unique) - len(held_out) - len(paired)
        return Resolved(
            train=_limited(paired, thresholds, dropped),
            held_out=_limited(held_out, thresholds, dropped),
            conflicts=conflicts,
        )
    kept = _limited(unique, thresholds, dropped)
    return Resolved(
        train=tuple(e for e in kept if e.input not in held_out_inputs),
        held_out=tuple(e for e in kept if e.input in held_out_inputs),
        conflicts=conflicts,
    )


def is_held_out(normalised_input: str, percent: int) -> bool:
    """Whether an input belongs to the held-out split: a fixed property of its text, stable over runs.

    Raising `percent` only adds inputs to the split.
    """
    position = int.from_bytes(hashlib.sha256(normalised_input.encode()).digest()[:8])
    return position * 100 < percent * 2**64


def _without_evaluation_data(
    examples: Sequence[Example], evaluation_inputs: set[str], percent: int, dropped: Counter[DropReason]
) -> list[Example]:
    """Examples none of whose user messages, and whose whole input neither, is near to a case."""
    if not evaluation_inputs:
        return list(examples)
    texts = {example.episode: _asked_texts(example) for example in examples}
    index = SimilarityIndex([*evaluation_inputs, *(t for asked in texts.values() for t in asked)], percent)
    for case_input in sorted(evaluation_inputs):
        index.add(case_input)
    kept = [e for e in examples if not any(index.similar_to(text) for text in texts[e.episode])]
    dropped[DropReason.EVALUATION_OVERLAP] += len(examples) - len(kept)
    return kept


def _asked_texts(example: Example) -> set[str]:
    by_user = (m["content"] for m in example.messages if m.get("role") == "user" and m.get("content"))
    return {example.input, *(normalised(text) for text in by_user)}


def _one_of_each(
    by_preference: Sequence[Example], percent: int, holdout_percent: int, dropped: Counter[DropReason]
) -> tuple[list[Example], set[str], int]:
    """Keeps of near-duplicates the most trusted, then newest one.

    Returns those kept, the inputs that are held out, and the number of contradictions. A kept example is held
    out when its own input is, or that of any near-duplicate it stands for: so no held-out input comes back
    into training in another wording.
    """
    index = SimilarityIndex((e.input for e in by_preference), percent)
    kept: list[Example] = []
    held_out: set[str] = set()
    conflicts = 0
    for example in by_preference:
        text = example.input
        same = [kept[n] for n in index.similar_to(text) if _is_duplicate(example, kept[n])]
        if is_held_out(text, holdout_percent):
            held_out |= {text, *(other.input for other in same)}
        if same:
            conflicts += any(not _same_call(example, other) for other in same)
            continue
        index.add(text)
        kept.append(example)
    dropped[DropReason.NEAR_DUPLICATE] += len(by_preference) - len(kept)
    return kept, held_out, conflicts


def _is_duplicate(example: Example, similar: Example) -> bool:
    """Whether one of two examples with similar inputs is enough.

    Inputs from a template differ in few characters ("… for June", "… for July") and call a tool with other
    arguments: those are two requests. With equal inputs, only one of the two can be right.
    """
    both_call = example.target.tool_name is not None and similar.target.tool_name is not None
    return example.input == similar.input or not both_call or _same_call(example, similar)


def _same_call(one: Example, other: Example) -> bool:
    left, right = one.target, other.target
    return (left.tool_name, left.tool_arguments) == (right.tool_name, right.tool_arguments)


def _limited(
    by_preference: Sequence[Example], thresholds: CurationThresholds, dropped: Counter[DropReason]
) -> tuple[Example, ...]:
    """In balance, and the newest of them, in the order of time."""
    balanced = _balanced(by_preference, thresholds.max_task_type_percent, dropped)
    newest = sorted(balanced, key=lambda e: (e.time, e.episode))[-thresholds.max_examples :]
    dropped[DropReason.MAX_EXAMPLES] += len(balanced) - len(newest)
    return tuple(newest)


def _balanced(
    by_preference: Sequence[Example], max_percent: int, dropped: Counter[DropReason]
) -> list[Example]:
    """Limits each task type to its share, keeping the preferred ones.

    Examples that nobody classified ("general") count for the total but are not limited.
    """
    counts = Counter(example.task_type for example in by_preference)
    limit = task_type_limit(counts, max_percent)
    taken: Counter[str] = Counter()
    kept = []
    for example in by_preference:
        taken[example.task_type] += 1
        if example.task_type == GENERAL or taken[example.task_type] <= limit:
            kept.append(example)
    dropped[DropReason.TASK_TYPE_LIMIT] += len(by_preference) - len(kept)
    return kept


def task_type_limit(counts: Counter[str], max_percent: int) -> int:
    """The largest number per task type at which none exceeds `max_percent` of what then remains.

    A share that so few types cannot keep is raised to an equal one: a single type may fill the dataset.
    """
    classified = sum(1 for name in counts if name != GENERAL)
    percent = max(max_percent, -(-100 // max(1, classified)))
    limit = max(counts.values(), default=0)
    while True:
        total = sum(n if name == GENERAL else min(n, limit) for name, n in counts.items())
        allowed = total * percent // 100
        if allowed >= limit:
            return limit
        limit = allowed
