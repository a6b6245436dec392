"""Pairs for preference training: a right answer, and a wrong one that the agent gave to the same prompt.

The right side of a pair is an example as `choose` makes it. The wrong side is what the agent said in a run
that was marked: by a person (a correction, a low score), or by the agent's own reflection, within the
limits of `choose`; a person's good score stands against the agent's own doubts.

Only what stands at the same place of a run can be compared:

- The first move: a text, or the first call where there were calls. It may come from another run with the
  same prompt (equal normalised input, instructions and tools), if the right side is a first move for
  certain: an answer that was scored well, or a call.
- The last word, where a text was corrected after calls. The pair's prompt then goes on to the results of
  those calls, and the right side is the correction of that very run: anything else would teach the
  model to stop calling tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evolving_agent.contract.base import canonical_json, digest
from evolving_agent.curation.choose import (
    answering_calls,
    calls_it_wrong,
    corrected_target,
    offered_names,
    text_messages,
)
from evolving_agent.curation.examples import Example, Rejected, Step, Target, Trust
from evolving_agent.store.records import Episode, ReflectionRecord, ReflectionSource


def rejected_answer(
    episode: Episode, reflections: Sequence[ReflectionRecord], min_score: int, right: Target | None
) -> Rejected | None:
    """What the agent said wrong in this run; None where nothing was marked or nothing can be compared.

    `right` is the run's own right answer, if it has one; `reflections` and `min_score` as in
    `choose_example`.
    """
    if episode.arm == "shadow" or episode.client_tools or episode.answer_format is not None:
        return None  # a client's tools and formats are another prompt, and of each client its own
    newest_first = sorted(reflections, key=lambda record: (record.time, record.id), reverse=True)
    by_person = _marked_by_person(newest_first, min_score)
    if by_person is False or (by_person is None and not _marked_by_itself(newest_first, min_score)):
        return None
    said = _said(episode, right)
    if said is None or (right is not None and said[0].says_the_same_as(right)):
        return None
    target, after = said
    return Rejected(
        episode=episode.id, time=episode.time, by_person=by_person is True, target=target, after=after
    )


def without_right_answer(episode: Episode, rejected: Rejected) -> Example | None:
    """The prompt of a run from which only the wrong answer is of use; None where it is more than text."""
    messages = text_messages(episode.messages)
    if messages is None:
        return None
    return Example(
        episode=episode.id,
        reflection="",
        time=episode.time,
        trust=Trust.SELF_SCORE,
        task_type="",
        instructions=episode.instructions or episode.system,
        messages=messages,
        tools=tuple(episode.tools),
        target=Target(None),
        rejected=rejected,
    )


class WrongAnswers:
    """First moves that were marked wrong, by the prompt that they answered."""

    def __init__(self) -> None:
        self._by_prompt: dict[str, list[Rejected]] = {}

    def add(self, example: Example) -> None:
        """Takes the wrong side of an example, which is redacted by now, so that others can use it."""
        if example.rejected is not None and not example.rejected.after:
            self._by_prompt.setdefault(_prompt(example), []).append(example.rejected)

    def paired(self, example: Example) -> Example:
        """The example with its own run's wrong answer, or another run's; without any where there is none.

        Of several, one that a person marked counts before others, then the newest. Answers that differed in
        nothing but what was redacted are no pair.
        """
        own = example.rejected
        if own is not None and not own.target.says_the_same_as(example.target):
            return example
        if not _is_first_move(example):
            return replace(example, rejected=None)
        others = [
            other
            for other in self._by_prompt.get(_prompt(example), ())
            if not other.target.says_the_same_as(example.target)
        ]
        best = max(others, key=lambda other: (other.by_person, other.time, other.episode), default=None)
        return replace(example, rejected=best)


def _prompt(example: Example) -> str:
    offered = canonical_json([*example.tools, *example.client_tools])
    return digest([example.input, example.instructions, offered], length=32)


def _is_first_move(example: Example) -> bool:
    """Whether the right answer comes straight after the prompt, whatever the run did.

    Of a text that corrects another one this is not known: it may rest on results of tools.
    """
    scored = example.trust in (Trust.SELF_SCORE, Trust.FEEDBACK_SCORE)
    return scored or example.target.tool_name is not None


def _marked_by_person(newest_first: Sequence[ReflectionRecord], min_score: int) -> bool | None:
    """Whether people's feedback calls the answer wrong; None where it says nothing."""
    feedback = [record for record in newest_first if record.source is ReflectionSource.FEEDBACK]
    if any(corrected_target(record.correction) is not None for record in feedback):
        return True
    scores = [record.score for record in feedback if record.score is not None]
    return scores[0] < min_score if scores else None


def _marked_by_itself(newest_first: Sequence[ReflectionRecord], min_score: int) -> bool:
    """Whether the agent's newest judgement, or a correction that it stands by, calls the answer wrong."""
    own = [record for record in newest_first if record.source is not ReflectionSource.FEEDBACK]
    if any(corrected_target(record.correction) and calls_it_wrong(record, min_score) for record in own):
        return True
    judged = next((record for record in own if record.score is not None), None)
    return judged is not None and calls_it_wrong(judged, min_score)


def _said(episode: Episode, right: Target | None) -> tuple[Target, tuple[Step, ...]] | None:
    """What the agent said where `right` should have been said, and the run up to there."""
    calls = answering_calls(episode)
    alone = len(episode.agent_path) <= 1  # a specialist's words were said under other instructions
    speaks = alone and episode.error is None and bool(episode.answer.strip())
    if not calls:
        return (Target(episode.answer), ()) if speaks else None
    offered = offered_names(episode)
    if right is None or right.tool_name is not None:
        first = calls[0]
        return (Target(None, first.name, first.arguments), ()) if first.name in offered else None
    steps = tuple(Step(call.name, call.arguments, call.result or "") for call in calls)
    whole = all(call.name in offered and call.result is not None and call.error is None for call in calls)
    # Where the answer is a tool's result as it came, the model has not said it.
    if not whole or not speaks or episode.answer == calls[-1].result:
        return None
    return Target(episode.answer), steps
