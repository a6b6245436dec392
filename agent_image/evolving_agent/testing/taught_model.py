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


def _supervised_lesson(line: Any) -> _Lesson:
    if "messages" not in line:
        raise TrainingFileError("a chat fine-tuning example needs 'messages'")
    messages = line["messages"]
    return _Lesson(words_of(asked_text(messages)), _answer_of(messages[-1], "the last message"))


def _preference_lesson(line: Any) -> _Lesson:
    """What is preferred; the other output must be one as well, and another one."""
    if unknown := line.keys() - {"input", "preferred_output", "non_preferred_output"}:
        raise TrainingFileError(f"a preference example has no {sorted(unknown)[0]!r}")
    if missing := {"input", "preferred_output", "non_preferred_output"} - line.keys():
        raise TrainingFileError(f"a preference example needs {sorted(missing)[0]!r}")
    asked = line["input"]
    if unknown := asked.keys() - {"messages", "tools", "parallel_tool_calls"}:
        raise TrainingFileError(f"'input' has no {sorted(unknown)[0]!r}")
    if asked["messages"][-1]["role"] == "assistant":
        raise TrainingFileError("'input.messages' must end before the assistant's answer")
    answers = []
    for side in ("preferred_output", "non_preferred_output"):
        if len(line[side]) != 1:
            raise TrainingFileError(f"{side!r} must hold exactly one message")
        answers.append(_answer_of(line[side][0], repr(side)))
    if answers[0] == answers[1]:
        raise TrainingFileError("the two outputs are the same")
    return _Lesson(words_of(asked_text(asked["messages"])), answers[0])


def _answer_of(message: Mapping[str, Any], where: str) -> Answer:
    if message["role"] != "assistant":
        raise TrainingFileError(f"{where} must be from the assistant")
    calls = tuple(
        (call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())
    )
    for _, arguments in calls:
        json.loads(arguments)
    if not calls and not message.get("content"):
        raise TrainingFileError(f"{where} says nothing")
    return Answer(message.get("content"), calls)


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
    def from_file(cls, content: bytes, method: str = "supervised", least: int = 10) -> TaughtModel:
        """Learns the lines of a fine-tuning file for that method: "supervised" or "dpo".

        Raises TrainingFileError: a bad line, one of the other method's format, or fewer than `least`.
        """
        read = _preference_lesson if method == "dpo" else _supervised_lesson
        lessons = []
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                lessons.append(read(json.loads(line)))
            except TrainingFileError as problem:
                raise TrainingFileError(f"line {number}: {problem}") from problem
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as problem:
                raise TrainingFileError(f"line {number}: {problem!r}") from problem
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
