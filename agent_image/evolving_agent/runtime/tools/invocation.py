"""One way to call any tool: arguments checked, time and size bounded, writes stubbed in a dry run, traced."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from agents import Agent, FunctionTool
from agents.tool_context import ToolContext

from evolving_agent.contract.base import canonical_json, digest
from evolving_agent.contract.tools import ToolEffect
from evolving_agent.memory.graph import Memory
from evolving_agent.runtime.trace import RunTrace, replayed_result
from evolving_agent.runtime.tracing import tool_span
from evolving_agent.store.records import ToolCall

MAX_FUNCTIONS = 128  # that model APIs take with one request
DEFAULT_MAX_RESULT_BYTES = 16_384
MAX_ERROR_CHARS = 1000
STUB_RESULT = "ok (dry run: not executed)"

logger = logging.getLogger(__name__)


class ToolError(Exception):
    """A tool could not do what it was asked to; the model is told the message."""


@dataclass(frozen=True)
class RunScope:
    """What the tools of one run may touch.

    `record_reflection` takes a reflection's fields as the model gave them; None where nothing may be
    recorded. `replay` holds the calls of the live run that a shadow run repeats. `request_key` is what the
    client calls the request, the same when it asks again; without one, each request is another.
    `ask_specialist` puts a question to a specialist, within the same run; None for specialists themselves.
    """

    trace: RunTrace
    memory: Memory | None = None
    dry_run: bool = False
    replay: tuple[ToolCall, ...] = ()
    record_reflection: Callable[[dict[str, Any]], Awaitable[None]] | None = None
    episode: str = ""
    request_key: str = ""
    ask_specialist: Callable[[Agent[RunScope], str], Awaitable[str]] | None = None
    _equal_calls: Counter[str] = field(default_factory=Counter, repr=False)

    def idempotency_key(self, name: str, arguments: dict[str, Any]) -> str:
        """32 hex digits for the next execution of this call, the same if the whole request comes again.

        A call that a run makes twice on purpose has two keys.
        """
        call = f"{name} {canonical_json(arguments)}"
        self._equal_calls[call] += 1
        return digest([self.request_key or self.episode, call, self._equal_calls[call]], length=32)


@dataclass(frozen=True)
class ToolDefinition:
    """A function that a model can call, whatever is behind it.

    `call` raises ToolError; `parameters` is a JSON schema. A result beyond `max_result_bytes` (of its
    UTF-8 form) is cut.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    effect: ToolEffect
    timeout_seconds: float
    call: Callable[[dict[str, Any], RunScope], Awaitable[str]] = field(repr=False)
    max_result_bytes: int = DEFAULT_MAX_RESULT_BYTES

    def as_function_tool(self, agent: str = "") -> FunctionTool:
        """For the SDK's loop; `agent` is the specialist that has the tool, "" for the main agent."""

        async def invoke(context: ToolContext[RunScope], raw_arguments: str) -> str:
            return await self._invoke(context.context, raw_arguments, agent)

        return FunctionTool(
            name=self.name,
            description=self.description,
            params_json_schema={"properties": {}, **self.parameters},  # some model APIs insist on them
            on_invoke_tool=invoke,
            # strict mode rewrites schemas: optional arguments would become required ones
            strict_json_schema=False,
        )

    async def _invoke(self, scope: RunScope, raw_arguments: str, agent: str) -> str:
        """Never raises for what the model or the tool did wrong: the result says it instead."""
        arguments, problem = self._parse(raw_arguments)
        result: str | None = None
        stubbed = cut = False
        if problem is None:
            stubbed = scope.dry_run and self.effect is ToolEffect.WRITE
            if stubbed:
                result = replayed_result(scope.replay, self.name, arguments) or STUB_RESULT
            else:
                with tool_span(self.name) as span:
                    result, problem = await self._call(arguments, scope)
                    if problem is not None:
                        span.failed("tool_error")
        if result is not None:
            result, cut = _bounded(result, self.max_result_bytes)
        scope.trace.tool_calls.append(
            ToolCall(
                name=self.name,
                arguments=arguments,
                result=result,
                error=problem,
                stubbed=stubbed,
                cut=cut,
                agent=agent,
            )
        )
        return result if result is not None else f"Error: {problem}"

    async def _call(self, arguments: dict[str, Any], scope: RunScope) -> tuple[str | None, str | None]:
        try:
            async with asyncio.timeout(self.timeout_seconds) as limit:
                return await self.call(arguments, scope), None
        except ToolError as error:
            return None, str(error)[:MAX_ERROR_CHARS]
        except TimeoutError as error:
            if limit.expired():
                return None, f"{self.name} did not answer within {self.timeout_seconds:g} s"
            return None, f"{self.name} failed: {error!r}"[:MAX_ERROR_CHARS]
        except Exception as error:  # whatever breaks in a tool breaks this call, not the request
            # the place only: what the error says may be what a user said
            logger.error("the tool %s failed with %s at %s", self.name, type(error).__name__, place_of(error))
            return None, f"{self.name} failed: {error!r}"[:MAX_ERROR_CHARS]

    def _parse(self, raw: str) -> tuple[dict[str, Any], str | None]:
        """The arguments, and what is wrong with them."""
        try:
            arguments = json.loads(raw) if raw.strip() else {}
        except (json.JSONDecodeError, RecursionError):
            return {}, f"the arguments of {self.name} are not JSON: {raw[:200]}"
        if not isinstance(arguments, dict):
            return {}, f"the arguments of {self.name} must be a JSON object"
        missing = [name for name in self.parameters.get("required", []) if name not in arguments]
        if missing:
            return arguments, f"{self.name} needs {', '.join(missing)}"
        return arguments, None


def place_of(error: BaseException) -> str:
    """File and line where an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"


def _bounded(text: str, limit: int) -> tuple[str, bool]:
    """The text, cut to `limit` bytes with a note where it is longer, and whether it was."""
    encoded = text.encode(errors="replace")  # what no UTF-8 can hold could not be logged either
    if len(encoded) <= limit:
        return encoded.decode(), False
    return f"{encoded[:limit].decode(errors='ignore')}\n… (cut: only the first {limit} bytes are shown)", True
