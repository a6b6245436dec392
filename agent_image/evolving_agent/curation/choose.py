"""Chooses what an episode teaches: an example, or a reason why it teaches nothing.

In the order of trust:

1. the newest correction by a person's feedback;
2. the answer itself, where the newest score by feedback reaches the threshold;
3. the newest correction by the agent's own reflection;
4. the answer itself, where the newest score by reflection reaches the threshold.

What a user writes can talk an agent into "correcting" a right answer, and a dataset into learning it.
So the agent's own corrections have limits: the same reflection must call the answer wrong (outcome
"failure", or a score below the threshold), a person's good score stands against it, and, as any target,
it must be a call that the agent could have made: a tool on offer, with arguments that fit its schema.

A run that ended in calls of the client's tools has no answer: only a person's correction makes it teach.
The client's next request is an episode of its own, whose messages hold the calls and their results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from evolving_agent.curation.drops import DropReason
from evolving_agent.curation.examples import Example, Target, Trust
from evolving_agent.store.records import Correction, Episode, ReflectionRecord, ReflectionSource, ToolCall

GENERAL = "general"  # the task type of what nobody has classified
# Calls by which an agent keeps its own books; they are no answer to anybody.
_BOOKKEEPING_TOOLS = {"record_reflection", "remember", "recall"}
_KEPT_MESSAGE_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name")


def choose_example(
    episode: Episode, reflections: Sequence[ReflectionRecord], min_score: int
) -> Example | DropReason:
    """The example of one episode. `reflections` are its own, in any order; `min_score` is in percent."""
    if episode.arm == "shadow":
        return DropReason.SHADOW_ARM
    newest_first = sorted(reflections, key=lambda record: (record.time, record.id), reverse=True)
    chosen = _choose_target(episode, newest_first, min_score)
    if isinstance(chosen, DropReason):
        return DropReason.CLIENTS_TURN if episode.client_calls else chosen
    trust, source, target = chosen
    if (reason := _unteachable(episode, trust, target)) is not None:
        return reason
    messages = text_messages(episode.messages)
    if messages is None:
        return DropReason.UNSUPPORTED_CONTENT
    return Example(
        episode=episode.id,
        reflection=source.id,
        time=episode.time,
        trust=trust,
        task_type=next((r.task_type for r in newest_first if r.task_type not in ("", GENERAL)), GENERAL),
        instructions=episode.instructions or episode.system,
        messages=messages,
        tools=tuple(episode.tools),
        client_tools=tuple(episode.client_tools),
        target=target,
    )


def _choose_target(
    episode: Episode, newest_first: Sequence[ReflectionRecord], min_score: int
) -> tuple[Trust, ReflectionRecord, Target] | DropReason:
    feedback = [r for r in newest_first if r.source is ReflectionSource.FEEDBACK]
    own = [r for r in newest_first if r.source is not ReflectionSource.FEEDBACK]

    for record in feedback:
        if (target := corrected_target(record.correction)) is not None:
            return Trust.FEEDBACK_CORRECTION, record, target

    scored = next((r for r in feedback if r.score is not None), None)
    if scored is not None and _score(scored) >= min_score:
        return _answer(episode, Trust.FEEDBACK_SCORE, scored)

    for record in own:
        target = corrected_target(record.correction)
        if target is not None and calls_it_wrong(record, min_score):
            return Trust.SELF_CORRECTION, record, target

    if scored is None:
        scored = next((r for r in own if r.score is not None), None)
        if scored is not None and _score(scored) >= min_score and scored.outcome != "failure":
            return _answer(episode, Trust.SELF_SCORE, scored)

    return _why_nothing(episode, scored)


def _why_nothing(episode: Episode, scored: ReflectionRecord | None) -> DropReason:
    if episode.error is not None:
        return DropReason.FAILED
    return DropReason.NO_SIGNAL if scored is None else DropReason.LOW_SCORE


def _unteachable(episode: Episode, trust: Trust, target: Target) -> DropReason | None:
    if episode.client_calls and trust is not Trust.FEEDBACK_CORRECTION:
        return DropReason.CLIENTS_TURN
    if not _could_have_been_said(target, [*episode.tools, *episode.client_tools]):
        return DropReason.INVALID_TARGET
    if episode.answer_format is not None and target.tool_name is None:
        return DropReason.ANSWER_FORMAT  # a line cannot say that JSON was asked for: it would teach JSON
    return None


def calls_it_wrong(record: ReflectionRecord, min_score: int) -> bool:
    """Whether a reflection says that the answer was not right."""
    return record.outcome == "failure" or (record.score is not None and _score(record) < min_score)


def answering_calls(episode: Episode) -> list[ToolCall]:
    """The main agent's calls, bookkeeping apart: a specialist's were made under other instructions."""
    return [call for call in episode.tool_calls if call.name not in _BOOKKEEPING_TOOLS and not call.agent]


def offered_names(episode: Episode) -> set[Any]:
    """Names of the tools that the main agent could call."""
    return {_function(tool).get("name") for tool in episode.tools}


def _score(record: ReflectionRecord) -> int:
    return -1 if record.score is None else record.score


def corrected_target(correction: Correction | None) -> Target | None:
    """The correction as a target; None where it holds nothing to say."""
    if correction is None or (correction.answer is None and correction.tool_name is None):
        return None
    return Target(correction.answer, correction.tool_name, correction.tool_arguments)


def _answer(
    episode: Episode, trust: Trust, source: ReflectionRecord
) -> tuple[Trust, ReflectionRecord, Target] | DropReason:
    """The agent's own answer as the target.

    Where it called tools, that is its first call: the later ones, and the words at the end, rest on
    results that a line with one target does not show.
    """
    if episode.error is not None:
        return DropReason.FAILED
    calls = answering_calls(episode)
    if calls and calls[0].name in offered_names(episode):
        if calls[0].error is not None:
            return DropReason.FAILED
        return trust, source, Target(None, calls[0].name, calls[0].arguments)
    if len(episode.agent_path) > 1:
        return DropReason.HANDED_OFF
    if calls:  # of a tool that the agent made up
        return DropReason.INVALID_TARGET
    return trust, source, Target(episode.answer)


def _could_have_been_said(target: Target, tools: Sequence[Mapping[str, Any]]) -> bool:
    if target.tool_name is None:
        return bool(target.content and target.content.strip())
    schema = next(
        (
            _function(tool).get("parameters") or {}
            for tool in tools
            if _function(tool).get("name") == target.tool_name
        ),
        None,
    )
    return schema is not None and _fits(target.tool_arguments or {}, schema)


def _fits(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Whether arguments have what the schema requires, nothing that it does not know, and only its values."""
    properties = schema.get("properties") or {}
    if any(name not in arguments for name in schema.get("required") or ()):
        return False
    if properties and any(name not in properties for name in arguments):
        return False
    return all(
        value in properties[name]["enum"]
        for name, value in arguments.items()
        if isinstance(properties.get(name), dict) and "enum" in properties[name]
    )


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function")
    return function if isinstance(function, Mapping) else {}


def text_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...] | None:
    """The conversation with texts for contents; None where it holds what a line cannot.

    That is anything but text, a call whose arguments are no JSON object, an assistant that said nothing, and
    no user's word. One such line would end a whole training.
    """
    kept = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            if any(not isinstance(part, Mapping) or part.get("type") != "text" for part in content):
                return None
            content = "".join(str(part.get("text", "")) for part in content)
        if content is not None and not isinstance(content, str):
            return None
        if not isinstance(message.get("role"), str):
            return None
        slim = {key: message[key] for key in _KEPT_MESSAGE_KEYS if key in message} | {"content": content}
        if message["role"] == "assistant":
            calls = _calls(slim.pop("tool_calls", None))
            if calls is None or not (calls or content):
                return None
            slim |= {"tool_calls": calls} if calls else {}
        kept.append(slim)
    return tuple(kept) if any(message.get("role") == "user" for message in kept) else None


def _calls(calls: Any) -> list[dict[str, Any]] | None:
    """As the format has them, without what else a client sent; None where one is no call."""
    whole: list[dict[str, Any]] = []
    for call in calls or ():
        match call:
            case {"id": str(call_id), "function": {"name": str(name), "arguments": str(given)}}:
                function = {"name": name, "arguments": given}
            case _:
                return None
        try:
            if not isinstance(json.loads(given), dict):
                return None
        except (ValueError, RecursionError):
            return None
        whole.append({"id": call_id, "type": "function", "function": function})
    return whole
