"""A model that a test can really teach: it answers as the training example nearest to the request."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UNTAUGHT_ANSWER = "I am not sure what to do about that. Could you tell me more?"
_WORD = re.compile(r"\w+")


class TrainingFileError(ValueError):
    """The uploaded file is no fine-tuning file; the message names the line."""


@dataclass(frozen=True)
class Answer:
    """What the model says: a text, tool calls (name, arguments as JSON text), or both."""

    content: str | None
    tool_calls: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Lesson:
    words: frozenset[str]
    answer: Answer


def words_of(text: str) -> frozenset[str]:
    return frozenset(word.casefold() for word in _WORD.findall(text))


def asked_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The last user message's text."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content") or ""
            if isinstance(content, list):
                return " ".join(str(part.get("text", "")) for part in content)
            return str(content)
    return ""


class TaughtModel:
    """Made of a fine-tuning file; with no lesson it is the base model, which knows nothing."""

    def __init__(self, lessons: Sequence[_Lesson] = ()) -> None:
        self._lessons = tuple(lessons)
        answers: dict[str, set[Answer]] = {}
        for lesson in lessons:
            for word in lesson.words:
                answers.setdefault(word, set()).add(lesson.answer)
        different = len({lesson.answer for lesson in lessons})
        # A word that goes with every answer ("please") tells nothing about which one is right.
        self._weights = {word: max(0.01, different / len(given) - 1) for word, given in answers.items()}

    @classmethod
    def from_file(cls, content: bytes, least: int = 10) -> TaughtModel:
        """Learns chat fine-tuning lines. Raises TrainingFileError: a bad line, or fewer than `least`."""
        lessons = []
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                messages = json.loads(line)["messages"]
                target = messages[-1]
                if target["role"] != "assistant":
                    raise TrainingFileError(f"line {number}: the last message must be from the assistant")
                calls = tuple(
                    (call["function"]["name"], call["function"]["arguments"])
                    for call in target.get("tool_calls", ())
                )
                for _, arguments in calls:
                    json.loads(arguments)
            except TrainingFileError:
                raise
            except (ValueError, KeyError, TypeError, IndexError) as problem:
                raise TrainingFileError(f"line {number}: {problem!r}") from problem
            lessons.append(_Lesson(words_of(asked_text(messages)), Answer(target.get("content"), calls)))
        if len(lessons) < least:
            raise TrainingFileError(f"{len(lessons)} examples; at least {least} are needed")
        return cls(lessons)

    def answer(self, messages: Sequence[Mapping[str, Any]], offered_tools: frozenset[str]) -> Answer:
        """Answers a request; after a tool's result, with that result in words."""
        if messages and messages[-1].get("role") == "tool":
            return Answer(f"Done: {messages[-1].get('content')}")
        asked = words_of(asked_text(messages))
        nearest = max(self._lessons, key=lambda lesson: self._overlap(asked, lesson.words), default=None)
        if nearest is None or not asked & nearest.words:
            return Answer(UNTAUGHT_ANSWER)
        if any(name not in offered_tools for name, _ in nearest.answer.tool_calls):
            return Answer(nearest.answer.content or UNTAUGHT_ANSWER)
        return nearest.answer

    def _overlap(self, left: frozenset[str], right: frozenset[str]) -> float:
        """Share of the words that both have, by weight."""
        return self._weight(left & right) / (self._weight(left | right) or 1.0)

    def _weight(self, words: frozenset[str]) -> float:
        return sum(self._weights.get(word, 0.0) for word in words)
