"""Self-reflection: the agent names its mistakes, after a run or during it, and what would have been right."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolving_agent.store.records import (
    Correction,
    Episode,
    ReflectionRecord,
    ReflectionSource,
    ToolCall,
    utc_now,
)

MAX_QUOTED_CHARS = 4_000  # of each part of the episode that the model is shown
OUTCOMES = ("success", "failure", "unknown")

_INSTRUCTIONS = """You review what an AI agent did. Answer with one JSON object and nothing else:
{"task_type": "one or two words", "outcome": "success" | "failure" | "unknown", "score": 0 to 100,
"mistakes": ["..."], "uncertainties": ["..."], "missing_context": ["..."],
"corrected_answer": "the full right answer, or null if the agent's was right",
"lesson": "one sentence on what to do better next time, or empty"}"""


_TEXTS = {"type": "array", "items": {"type": "string"}}
# What servers that can are asked to keep to; what others say is read as far as it goes.
REFLECTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "task_type": {"type": "string"},
        "outcome": {"type": "string", "enum": list(OUTCOMES)},
        "score": {"type": "integer"},
        "mistakes": _TEXTS,
        "uncertainties": _TEXTS,
        "missing_context": _TEXTS,
        "corrected_answer": {"type": ["string", "null"]},
        "lesson": {"type": "string"},
    },
    "additionalProperties": False,
}
REFLECTION_SCHEMA["required"] = list(REFLECTION_SCHEMA["properties"])


@dataclass(frozen=True)
class ReflectionFields:
    """What a model says in a reflection, checked."""

    task_type: str = "general"
    outcome: str = "unknown"
    score: int | None = None
    mistakes: tuple[str, ...] = ()
    uncertainties: tuple[str, ...] = ()
    missing_context: tuple[str, ...] = ()
    corrected_answer: str = ""
    lesson: str = ""


@dataclass(frozen=True)
class Reflected:
    """The run that a reflection is about, finished or not."""

    episode: str
    agent: str
    revision: str
    query: str
    tool_trace: Sequence[ToolCall]
    answer: str = ""

    @classmethod
    def of(cls, episode: Episode) -> Reflected:
        return cls(
            episode.id, episode.agent, episode.revision, query_of(episode), episode.tool_calls, episode.answer
        )


def query_of(episode: Episode) -> str:
    """The latest text of the user."""
    for message in reversed(episode.messages):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            return "\n".join(str(part["text"]) for part in content or [] if "text" in part)
    return ""


def reflection_messages(episode: Episode) -> list[dict[str, str]]:
    """The prompt of the call after a run."""
    calls = _client_calls(episode.messages) + [
        {"name": call.name, "arguments": call.arguments, "result": call.result or call.error}
        for call in episode.tool_calls
    ]
    account = (
        f"Instructions of the agent:\n{_quoted(episode.system)}\n\nRequest:\n{_quoted(query_of(episode))}\n\n"
        f"Tool calls:\n{_quoted(json.dumps(calls, ensure_ascii=False)) if calls else 'none'}\n\n"
        f"Answer:\n{_quoted(episode.answer)}"
    )
    return [{"role": "system", "content": _INSTRUCTIONS}, {"role": "user", "content": account}]


def _client_calls(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls that were made since the user's latest word, with what came out: the answer rests on them too."""
    calls: dict[str, dict[str, Any]] = {}
    for message in messages:
        match message:
            case {"role": "user"}:
                calls.clear()
            case {"role": "assistant", "tool_calls": [*made]}:
                for call in made:
                    function = call["function"]
                    calls[call["id"]] = {"name": function["name"], "arguments": function["arguments"]}
            case {"role": "tool", "tool_call_id": str(call_id), "content": content} if call_id in calls:
                calls[call_id]["result"] = content
    return list(calls.values())


def parse_reflection(text: str) -> ReflectionFields | None:
    """The first JSON object in `text` that says anything of a reflection; None where there is none.

    Models wrap it in prose or code fences, write scores as text, and one string where a list belongs.
    """
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            found, _ = decoder.raw_decode(text, start)
        except json.JSONDecodeError:
            found = None
        if isinstance(found, dict) and (fields := reflection_fields(found)):
            return fields
        start = text.find("{", start + 1)
    return None


def reflection_fields(said: dict[str, Any]) -> ReflectionFields | None:
    """The fields of a reflection, each coerced or left out; None where there is no score and no text."""
    fields = ReflectionFields(
        task_type=_text(said.get("task_type"))[:64].lower() or "general",
        outcome=outcome if (outcome := _text(said.get("outcome")).lower()) in OUTCOMES else "unknown",
        score=_score(said.get("score")),
        mistakes=_texts(said.get("mistakes")),
        uncertainties=_texts(said.get("uncertainties")),
        missing_context=_texts(said.get("missing_context")),
        corrected_answer=_text(said.get("corrected_answer")),
        lesson=_text(said.get("lesson")),
    )
    says_something = (
        fields.score is not None
        or fields.mistakes
        or fields.uncertainties
        or fields.missing_context
        or fields.corrected_answer
        or fields.lesson
    )
    return fields if says_something else None


def reflection_record(
    about: Reflected, source: ReflectionSource, fields: ReflectionFields | None, unparsed: str | None = None
) -> ReflectionRecord:
    """A record of what the model said; without `fields`, of the fact that it was no reflection."""
    said = fields or ReflectionFields()
    corrected = said.corrected_answer if said.corrected_answer != about.answer else ""
    return ReflectionRecord(
        id=new_reflection_id(),
        episode=about.episode,
        time=utc_now(),
        agent=about.agent,
        revision=about.revision,
        source=source,
        query=about.query,
        task_type=said.task_type,
        outcome=said.outcome,
        score=said.score,
        tool_trace=list(about.tool_trace),
        answer=about.answer,
        mistakes=list(said.mistakes),
        uncertainties=list(said.uncertainties),
        missing_context=list(said.missing_context),
        correction=Correction(answer=corrected) if corrected else None,
        lesson=said.lesson,
        unparsed=unparsed,
    )


def new_reflection_id() -> str:
    return f"refl-{uuid.uuid4().hex}"


def _quoted(text: str) -> str:
    return text if len(text) <= MAX_QUOTED_CHARS else text[:MAX_QUOTED_CHARS] + " […]"


def _text(value: Any) -> str:
    if isinstance(value, str):
        text = value.strip()
        return "" if text.lower() in ("null", "none", "n/a") else text
    return "" if value is None or isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(text for text in map(_text, values) if text)


def _score(value: Any) -> int | None:
    """0 to 100, also from "85", "85%" and "85/100"; None for anything else."""
    if isinstance(value, str):
        value = value.strip().removesuffix("%").removesuffix("/100").strip()
    if isinstance(value, bool):
        return None
    try:
        score = round(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return score if 0 <= score <= 100 else None
