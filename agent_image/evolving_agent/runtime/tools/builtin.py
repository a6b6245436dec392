"""The tools that the agent image brings along."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cache
from typing import Any

from evolving_agent.contract.tools import BuiltinName, BuiltinTool, ToolEffect
from evolving_agent.memory.errors import MemoryUnavailableError
from evolving_agent.memory.graph import Memory
from evolving_agent.runtime.tools.invocation import RunScope, ToolDefinition, ToolError

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}


@cache
def builtin_tool(tool: BuiltinTool) -> ToolDefinition:
    return replace(
        _DEFINITIONS[tool.name],
        timeout_seconds=tool.timeout_seconds,
        max_result_bytes=tool.max_result_bytes,
    )


async def _record_reflection(arguments: dict[str, Any], scope: RunScope) -> str:
    if scope.record_reflection is None:
        raise ToolError("reflections are not recorded here")
    await scope.record_reflection(arguments)
    return "recorded"


async def _remember(arguments: dict[str, Any], scope: RunScope) -> str:
    subject, predicate, value = (str(arguments[key]) for key in ("subject", "predicate", "object"))
    memory = _memory_of(scope)

    try:
        await memory.assert_fact(subject, predicate, value, source=scope.episode)
    except MemoryUnavailableError as error:
        raise ToolError(str(error)) from error
    return "remembered"


async def _recall(arguments: dict[str, Any], scope: RunScope) -> str:
    memory = _memory_of(scope)
    try:
        known = await memory.recall(str(arguments["query"]))
    except MemoryUnavailableError as error:
        raise ToolError(str(error)) from error
    return "\n".join(event.text for event in known) or "nothing is remembered about this"


def _memory_of(scope: RunScope) -> Memory:
    if scope.memory is None:
        raise ToolError("this agent has no memory")
    return scope.memory


def _schema(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _definition(
    name: BuiltinName,
    description: str,
    parameters: dict[str, Any],
    effect: ToolEffect,
    call: Callable[[dict[str, Any], RunScope], Awaitable[str]],
) -> ToolDefinition:
    return ToolDefinition(name.value, description, parameters, effect, 0, call)  # the spec sets the time


_DEFINITIONS = {
    BuiltinName.RECORD_REFLECTION: _definition(
        BuiltinName.RECORD_REFLECTION,
        "Record what went wrong or right in this conversation, and what to do better.",
        _schema(
            ["lesson"],
            outcome={"type": "string", "enum": ["success", "failure", "unknown"]},
            score={"type": "integer", "minimum": 0, "maximum": 100},
            mistakes=_TEXTS,
            uncertainties=_TEXTS,
            missing_context=_TEXTS,
            corrected_answer=_TEXT,
            lesson=_TEXT,
        ),
        ToolEffect.WRITE,
        _record_reflection,
    ),
    BuiltinName.REMEMBER: _definition(
        BuiltinName.REMEMBER,
        "Remember a fact. It replaces what was known under the same subject and predicate.",
        _schema(["subject", "predicate", "object"], subject=_TEXT, predicate=_TEXT, object=_TEXT),
        ToolEffect.WRITE,
        _remember,
    ),
    BuiltinName.RECALL: _definition(
        BuiltinName.RECALL,
        "Look up what is remembered about something.",
        _schema(["query"], query=_TEXT),
        ToolEffect.READ,
        _recall,
    ),
}
