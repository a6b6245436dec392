"""What happens during one run of an agent, as it happens: kept even where the run fails."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from evolving_agent.store.records import ToolCall


@dataclass(frozen=True)
class ClientCall:
    """The model's call of a tool that the client brought. `arguments` is the model's own text.

    `id` is the agent's, and nobody can guess it: it also finds what the run had done before, see
    `unfinished`.
    """

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex}")

    def in_message(self) -> dict[str, Any]:
        """As an entry of a chat message's `tool_calls`."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


@dataclass
class RunTrace:
    """Filled in during a run. `system` and `tools` are exactly what the first call of the model had."""

    prompt: str = ""  # the main agent's system text, set before the run begins
    system: str = ""
    instructions: str = ""  # the same without what memory added
    tools: list[dict[str, Any]] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    unknown_tools: set[str] = field(default_factory=set)  # names of tools that the model made up
    agent_path: list[str] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    last_text: str = ""  # the latest text of the model: the answer of a run that was cut short
    model_calls: int = 0
    recall: str | None = None  # "hit", "miss" or "failed"; None where the run had no memory
    client_calls: list[ClientCall] = field(default_factory=list)  # with these the run is the client's
    client_text: str = ""  # what the model said beside them
    call_ids: set[str] = field(default_factory=set)  # unique in a conversation, whichever model gave them

    def absorb(self, inner: RunTrace, agent: str) -> None:
        """Takes in what a specialist did that was asked one thing; its words stay its own."""
        self.tool_calls += [structs.replace(call, agent=agent) for call in inner.tool_calls]
        self.unknown_tools |= inner.unknown_tools
        self.input_tokens += inner.input_tokens
        self.output_tokens += inner.output_tokens
        self.model_calls += inner.model_calls


@dataclass(frozen=True)
class RunResult:
    """A finished run. `error` says how the agent went wrong where it did (no crash: the answer stands).

    With `client_calls` it is the client's turn, and `answer` what the model said beside the calls; `work` is
    then what the agent itself had done before and beside them, as chat messages: the calls are in the last
    one of the assistant. Empty where it had done nothing. `refused`: the answer is the model's refusal.
    """

    answer: str
    tool_calls: tuple[ToolCall, ...]
    agent_path: tuple[str, ...]
    input_tokens: int
    output_tokens: int
    system: str
    instructions: str
    tools: tuple[dict[str, Any], ...]
    error: str | None = None
    client_calls: tuple[ClientCall, ...] = ()
    work: tuple[dict[str, Any], ...] = ()
    refused: bool = False

    @classmethod
    def of(
        cls, trace: RunTrace, answer: str, error: str | None = None, *, refused: bool = False
    ) -> RunResult:
        return cls(
            answer=answer,
            tool_calls=tuple(trace.tool_calls),
            agent_path=tuple(trace.agent_path),
            input_tokens=trace.input_tokens,
            output_tokens=trace.output_tokens,
            system=trace.system,
            instructions=trace.instructions,
            tools=tuple(trace.tools),
            error=error,
            refused=refused,
        )


def replayed_result(replay: Sequence[ToolCall], name: str, arguments: dict[str, Any]) -> str | None:
    """What the same call returned in the recorded run; None where that run made no such call."""
    for call in replay:
        if call.name == name and call.arguments == arguments and call.result is not None:
            return call.result
    return None
