"""The tools that a client brings: offered to the model beside the agent's own, and executed by the client."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from agents import FunctionTool

from evolving_agent.contract.config import ModelAPI
from evolving_agent.runtime.errors import RefusedError
from evolving_agent.runtime.format_wire import checked_schema
from evolving_agent.runtime.tools.invocation import MAX_FUNCTIONS
from evolving_agent.runtime.wire import unsupported

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MODES = ("auto", "none", "required")


@dataclass(frozen=True)
class ClientTool:
    """A function of the client; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool

    def definition(self) -> dict[str, Any]:
        """In OpenAI's function shape."""
        function: dict[str, Any] = {"name": self.name, "description": self.description}
        function |= {"parameters": self.parameters} | ({"strict": True} if self.strict else {})
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ClientTools:
    """What one request offers: at least one tool, each name once.

    `choice` is "auto" (the model's own), "required" (one of them, whichever) or the name of one of them.
    """

    tools: tuple[ClientTool, ...]
    choice: str = "auto"
    parallel: bool | None = None

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.tools)

    @cached_property
    def definitions(self) -> list[dict[str, Any]]:
        return [tool.definition() for tool in self.tools]

    def as_function_tools(self) -> list[FunctionTool]:
        """For a call of the model; the SDK's loop never sees them, so nothing calls them here."""
        return [_function_tool(tool) for tool in self.tools]

    def settings(self, api: ModelAPI) -> dict[str, Any]:
        """The parameter by which each of the two APIs is told the choice; nothing for the model's own."""
        match self.choice:
            case "auto":
                return {}
            case "required":
                return {"tool_choice": "required"}
            case name if api is ModelAPI.RESPONSES:
                return {"tool_choice": {"type": "function", "name": name}}
            case name:
                return {"tool_choice": {"type": "function", "function": {"name": name}}}

    def refuse_names(self, taken: Collection[str]) -> None:
        """Raises RefusedError where a name is the agent's own already, or where there are too many tools."""
        if both := sorted(self.names.intersection(taken)):
            message = f"the agent itself has a tool or a hand-off of that name: {', '.join(both)}"
            raise RefusedError("invalid", 400, message, code="tool_name_taken", param="tools")
        if len(self.tools) + len(taken) > MAX_FUNCTIONS:
            message = (
                f"{len(self.tools)} tools beside the {len(taken)} of the agent are more than the "
                f"{MAX_FUNCTIONS} that a model takes"
            )
            raise RefusedError("invalid", 400, message, param="tools")


def of_chat(tools: Sequence[Any] | None, choice: Any, parallel: bool | None) -> ClientTools | None:
    """`tools`, `tool_choice` and `parallel_tool_calls` of Chat Completions. Raises RefusedError."""
    parsed: list[ClientTool] = []
    for index, tool in enumerate(tools or ()):
        where = f"tools[{index}]"
        match tool:
            case {"type": "function", "function": dict(function)}:
                parsed.append(_tool(function, f"{where}.function"))
            case {"type": "function"}:
                raise RefusedError("invalid", 400, f"{where} needs function", param=f"{where}.function")
            case _:
                raise _other_type(tool, where)
    match choice:
        case {"type": "function", "function": {"name": str(name)}}:
            return _offered(parsed, name, parallel, named=True)
        case {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(allowed)}}:
            names = [_nested(tool, "function", "name") for tool in allowed]
            return _offered(_allowed(parsed, names, mode), mode, parallel)
        case _:
            return _offered(parsed, choice, parallel)


def of_responses(tools: Sequence[Any] | None, choice: Any, parallel: bool | None) -> ClientTools | None:
    """The same of Responses. Raises RefusedError."""
    parsed: list[ClientTool] = []
    for index, tool in enumerate(tools or ()):
        where = f"tools[{index}]"
        match tool:
            case {"type": "function"}:
                parsed.append(_tool(tool, where))
            case _:
                raise _other_type(tool, where)
    match choice:
        case {"type": "function", "name": str(name)}:
            return _offered(parsed, name, parallel, named=True)
        case {"type": "allowed_tools", "mode": mode, "tools": list(allowed)}:
            names = [_nested(tool, "name") for tool in allowed]
            return _offered(_allowed(parsed, names, mode), mode, parallel)
        case _:
            return _offered(parsed, choice, parallel)


def _allowed(tools: list[ClientTool], names: list[Any], mode: Any) -> list[ClientTool]:
    """Those of the tools that this request may call; the client keeps the others for its prompt cache."""
    if mode not in ("auto", "required"):
        message = "tool_choice of type allowed_tools needs a mode, auto or required"
        raise RefusedError("invalid", 400, message, param="tool_choice")
    known = {tool.name for tool in tools}
    if unknown := [name for name in names if name not in known]:
        message = f"tool_choice allows {json.dumps(unknown[0])}, which is not in tools"
        raise RefusedError("invalid", 400, message, param="tool_choice")
    return [tool for tool in tools if tool.name in names]


def _nested(document: Any, *keys: str) -> Any:
    """What lies under the keys, one within the other; None where there is nothing."""
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _offered(
    tools: list[ClientTool], choice: Any, parallel: bool | None, *, named: bool = False
) -> ClientTools | None:
    """None where the model is not to call a tool of the client."""
    if len({tool.name for tool in tools}) < len(tools):
        raise RefusedError("invalid", 400, "tools holds two functions of one name", param="tools")
    if named:
        if not any(tool.name == choice for tool in tools):
            message = f"tool_choice names {choice!r}, which is not in tools"
            raise RefusedError("invalid", 400, message, param="tool_choice")
    elif choice is not None and choice not in _MODES:
        message = "tool_choice must be auto, none, required, a function of tools or allowed_tools"
        raise unsupported("tool_choice", message)
    elif choice == "required" and not tools:
        message = "tool_choice 'required' needs at least one tool in tools"
        raise RefusedError("invalid", 400, message, param="tool_choice")
    if not tools or (choice == "none" and not named):
        return None
    return ClientTools(tuple(tools), "auto" if choice is None else choice, parallel)


def _tool(function: dict[str, Any], where: str) -> ClientTool:
    name, strict = function.get("name"), function.get("strict")
    description = function.get("description")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        message = f"{where}.name must be 1 to 64 letters, digits, _ or -"
        raise RefusedError("invalid", 400, message, param=f"{where}.name")
    if description is not None and not isinstance(description, str):
        message = f"{where}.description must be a string"
        raise RefusedError("invalid", 400, message, param=f"{where}.description")
    if strict is not None and not isinstance(strict, bool):
        raise RefusedError("invalid", 400, f"{where}.strict must be true or false", param=f"{where}.strict")
    parameters = function.get("parameters")
    schema = {} if parameters is None else checked_schema(parameters, f"{where}.parameters")
    # some model APIs insist on the type and on properties
    return ClientTool(name, description or "", {"type": "object", "properties": {}, **schema}, strict is True)


def _other_type(tool: Any, where: str) -> RefusedError:
    kind = tool.get("type") if isinstance(tool, dict) else tool
    message = f"{where} is of type {json.dumps(kind, default=str)[:80]}; this agent takes functions only"
    return unsupported("tools", message)


def _function_tool(tool: ClientTool) -> FunctionTool:
    async def invoke(_context: object, _arguments: str) -> str:
        raise AssertionError(f"{tool.name} is the client's to call")

    made = FunctionTool(
        name=tool.name,
        description=tool.description,
        params_json_schema=tool.parameters,
        on_invoke_tool=invoke,
        strict_json_schema=False,
    )
    made.strict_json_schema = tool.strict  # not at once: the SDK would rewrite the client's schema
    return made
