"""Chat messages and tools as the prompt text of the embedded model, and its text back as an answer.

The trainer and the model server both read and write prompts through this module alone, so that a model is
asked in exactly the words that it was trained on. Turns are ChatML, which the embedded model was made
with. Tools are one short line each and a call is one line as well, because a small model on a CPU pays
for every token:

    <|im_start|>system
    Send each request to the right team.

    Tools: to use one, answer with a line <tool_call> NAME {"ARGUMENT": VALUE}
    route_request(team: "cards"|"loans"): Hands the request over.<|im_end|>
    <|im_start|>user
    My card is bent.<|im_end|>
    <|im_start|>assistant
    <tool_call> route_request {"team": "cards"}<|im_end|>

Messages and tools have the shapes of OpenAI's chat API.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"  # ends the model's answer: generation stops here, and training ends with it
CALL = "<tool_call>"
_TOOLS_INTRODUCTION = f'Tools: to use one, answer with a line {CALL} NAME {{"ARGUMENT": VALUE}}'


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the model said: text, calls of tools, or both. No text is None, never the empty string."""

    content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


def prompt_text(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """The prompt up to the point where the model's answer begins.

    Raises ValueError, naming the message, for a message that has no form as text (an image, a tool call
    whose arguments are no JSON object).
    """
    turns = []
    for index, message in enumerate(messages):
        try:
            turns.append(_turn(message))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"messages[{index}]: {_reason(error)}") from error
    if tools:
        offered = "\n".join([_TOOLS_INTRODUCTION, *(_tool_line(tool["function"]) for tool in tools)])
        if turns and turns[0][0] == "system":
            turns[0] = ("system", f"{turns[0][1]}\n\n{offered}" if turns[0][1] else offered)
        else:
            turns.insert(0, ("system", offered))
    rendered = "".join(f"{TURN_START}{role}\n{text}{TURN_END}\n" for role, text in turns)
    return f"{rendered}{TURN_START}assistant\n"


def answer_text(answer: Answer) -> str:
    """The text by which the model gives this answer, without the mark that ends the turn."""
    lines = [f"{CALL} {call.name} {_json(call.arguments)}" for call in answer.tool_calls]
    return "\n".join([answer.content, *lines] if answer.content else lines)


def answer_of(message: Mapping[str, Any]) -> Answer:
    """The answer that an assistant message of the chat API holds. Raises ValueError where it holds none."""
    calls = tuple(_call_of(call["function"]) for call in message.get("tool_calls") or ())
    content = _content_text(message.get("content"))
    if not content and not calls:
        raise ValueError("an assistant message holds neither content nor a tool call")
    return Answer(content or None, calls)


def parse_answer(text: str, offered: Collection[str]) -> Answer:
    """What the model's text means where the tools named in `offered` could be called."""
    reader = AnswerReader(offered)
    reader.feed(text)
    reader.finish()
    return reader.answer


@dataclass
class AnswerReader:
    """Reads an answer while it is being generated.

    A line that begins with the mark of a call is held back until it is complete; all other text is
    passed on at once. A line that calls no tool on offer, or whose arguments are no JSON object, is text.
    """

    offered: Collection[str]
    _line: str = ""  # the part of the current line that was not passed on
    _passing: bool = False  # whether the current line is known to be text
    _content: list[str] = field(default_factory=list)
    _calls: list[ToolCall] = field(default_factory=list)

    def feed(self, text: str) -> str:
        """Takes the next piece of the model's text, gives the part that is certain to be content."""
        released = []
        for piece in text.splitlines(keepends=True) if self.offered else [text]:
            self._line += piece
            ended = self._line.endswith("\n")
            if ended and not self._passing:
                released.append(self._settle())
            elif not self.offered or self._passing or not _may_become_call(self._line):
                released.append(self._line)
                self._line = ""
                self._passing = not ended
        content = "".join(released)
        self._content.append(content)
        return content

    def finish(self) -> str:
        """Ends the answer, gives what `feed` had to hold back and turned out to be content."""
        rest = self._settle()
        self._content.append(rest)
        return rest

    @property
    def answer(self) -> Answer:
        """The whole answer, once it is finished."""
        return Answer("".join(self._content).strip() or None, tuple(self._calls))

    def _settle(self) -> str:
        """Ends a held line: a call is kept and leaves no text, anything else is text."""
        line, self._line = self._line, ""
        call = _parse_call(line, self.offered)
        if call is None:
            return line
        self._calls.append(call)
        return ""


def _may_become_call(line: str) -> bool:
    start = line.lstrip()
    return start.startswith(CALL) or CALL.startswith(start)


def _parse_call(line: str, offered: Collection[str]) -> ToolCall | None:
    if not line.lstrip().startswith(CALL):
        return None
    name, _, arguments = line.strip().removeprefix(CALL).strip().partition(" ")
    if name not in offered:
        return None
    try:
        return ToolCall(name, _object(arguments))
    except ValueError:
        return None


def _turn(message: Mapping[str, Any]) -> tuple[str, str]:
    """Role and text of one message."""
    role = message["role"]
    if role == "assistant":
        return role, _neutral(answer_text(answer_of(message)))
    return ("system" if role == "developer" else role), _neutral(_content_text(message.get("content")))


def _content_text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = []
    for part in content:
        if part["type"] not in ("text", "input_text", "output_text"):
            raise ValueError(f"content of type {part['type']!r} is not supported, only text")
        parts.append(part["text"])
    return "".join(parts)


def _neutral(text: str) -> str:
    """Text in which no mark of a turn is left, so that nobody can end a turn by what they say."""
    return text.replace("<|", "< |")


def _call_of(function: Mapping[str, Any]) -> ToolCall:
    arguments = function["arguments"]
    return ToolCall(function["name"], _object(arguments) if isinstance(arguments, str) else dict(arguments))


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"arguments of a tool call must be a JSON object, not {text!r}")
    return value


def _tool_line(function: Mapping[str, Any]) -> str:
    fields = _fields_text(function.get("parameters") or {})
    description = " ".join((function.get("description") or "").split())
    return _neutral(f"{function['name']}({fields})" + (f": {description}" if description else ""))


def _fields_text(schema: Mapping[str, Any]) -> str:
    required = schema.get("required") or ()
    return ", ".join(
        f"{name}{'' if name in required else '?'}: {_type_text(field_schema)}"
        for name, field_schema in (schema.get("properties") or {}).items()
    )


def _type_text(schema: Mapping[str, Any] | bool) -> str:
    """A JSON schema as a short type: `"a"|"b"`, `[string]`, `{name: string, age?: integer}`."""
    schema = {} if isinstance(schema, bool) else schema  # true takes everything
    if "enum" in schema:
        return "|".join(_json(value) for value in schema["enum"])
    for alternatives in (schema.get("anyOf"), schema.get("oneOf")):
        if alternatives:
            return "|".join(_type_text(alternative) for alternative in alternatives)
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return "|".join(kind)
    if kind == "array":
        return f"[{_type_text(schema.get('items') or {})}]"
    if kind == "object" and schema.get("properties"):
        return f"{{{_fields_text(schema)}}}"
    return str(kind)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _reason(error: Exception) -> str:
    return f"lacks the field {error}" if isinstance(error, KeyError) else str(error)
