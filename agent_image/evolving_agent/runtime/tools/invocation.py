"""One way to call any tool: arguments checked, time and size bounded, writes stubbed in a dry run, traced."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from agents import FunctionTool
from agents.tool_context import ToolContext

from evolving_agent.contract.config import ToolEffect
from evolving_agent.memory.graph import Memory
from evolving_agent.runtime.trace import RunTrace, replayed_result
from evolving_agent.store.records import ToolCall

MAX_RESULT_CHARS = 16_384
STUB_RESULT = "ok (dry run: not executed)"


class ToolError(Exception):
    """A tool could not do what it was asked to; the model is told the message."""


@dataclass(frozen=True)
class RunScope:
    """What the tools of one run may touch.

    `record_reflection` takes a reflection's fields as the model gave them; None where nothing may be
    recorded. `replay` holds the calls of the live run that a shadow run repeats.
    """

    trace: RunTrace
    memory: Memory | None = None
    dry_run: bool = False
    replay: tuple[ToolCall, ...] = ()
    record_reflection: Callable[[dict[str, Any]], Awaitable[None]] | None = None
    episode: str = ""


@dataclass(frozen=True)
class ToolDefinition:
    """A tool, whatever is behind it. `call` raises ToolError; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any]
    effect: ToolEffect
    timeout_seconds: float
    call: Callable[[dict[str, Any], RunScope], Awaitable[str]] = field(repr=False)

    def as_function_tool(self) -> FunctionTool:
        return FunctionTool(
            name=self.name,
            description=self.description,
            params_json_schema=self.parameters,
            on_invoke_tool=self._invoke,
            # strict mode rewrites schemas: optional arguments would become required ones
            strict_json_schema=False,
        )

    async def _invoke(self, context: ToolContext[RunScope], raw_arguments: str) -> str:
        """Never raises for what the model or the tool did wrong: the result says it instead."""
        scope = context.context
        arguments, problem = self._parse(raw_arguments)
        result: str | None = None
        stubbed = False
        if problem is None:
            stubbed = scope.dry_run and self.effect is ToolEffect.WRITE
            if stubbed:
                result = replayed_result(scope.replay, self.name, arguments) or STUB_RESULT
            else:
                result, problem = await self._call(arguments, scope)
        scope.trace.tool_calls.append(
            ToolCall(name=self.name, arguments=arguments, result=result, error=problem, stubbed=stubbed)
        )
        return result if result is not None else f"Error: {problem}"

    async def _call(self, arguments: dict[str, Any], scope: RunScope) -> tuple[str | None, str | None]:
        try:
            async with asyncio.timeout(self.timeout_seconds):
                result = await self.call(arguments, scope)
        except ToolError as error:
            return None, str(error)
        except TimeoutError:
            return None, f"{self.name} did not answer within {self.timeout_seconds:g} s"
        if len(result) > MAX_RESULT_CHARS:
            result = f"{result[:MAX_RESULT_CHARS]}\n… ({len(result) - MAX_RESULT_CHARS} characters left out)"
        return result, None

    def _parse(self, raw: str) -> tuple[dict[str, Any], str | None]:
        """The arguments, and what is wrong with them."""
        try:
            arguments = json.loads(raw) if raw.strip() else {}
        except json.JSONDecodeError:
            return {}, f"the arguments of {self.name} are not JSON: {raw[:200]}"
        if not isinstance(arguments, dict):
            return {}, f"the arguments of {self.name} must be a JSON object"
        missing = [name for name in self.parameters.get("required", []) if name not in arguments]
        if missing:
            return arguments, f"{self.name} needs {', '.join(missing)}"
        return arguments, None
