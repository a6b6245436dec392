"""An example: the conversation that an agent saw, and the answer that it should learn."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from evolving_agent.contract.base import canonical_json, digest
from evolving_agent.curation.cases import input_text

_SYSTEM_ROLES = {"system", "developer"}


class Trust(IntEnum):
    """Where a target comes from; of two that contradict each other the higher one is kept."""

    SELF_SCORE = 1  # the agent's answer, which it scored well itself
    SELF_CORRECTION = 2  # the agent's own correction of an answer that it calls wrong
    FEEDBACK_SCORE = 3  # the agent's answer, which a person scored well
    FEEDBACK_CORRECTION = 4  # a person's correction


@dataclass(frozen=True)
class Target:
    """What the assistant should have said: a text, or one tool call with a text or without."""

    content: str | None
    tool_name: str | None = None
    tool_arguments: dict[str, Any] | None = None

    def message(self) -> dict[str, Any]:
        """The assistant's message that says it."""
        assistant: dict[str, Any] = {"role": "assistant"}
        if self.content is not None:
            assistant["content"] = self.content
        if self.tool_name is not None:
            function = {"name": self.tool_name, "arguments": canonical_json(self.tool_arguments or {})}
            call_id = f"call_{digest(function, length=12)}"
            assistant["tool_calls"] = [{"id": call_id, "type": "function", "function": function}]
        return assistant

    def says_the_same_as(self, other: Target) -> bool:
        """Whether a client could not tell the two apart."""
        return (
            (self.content or "").strip() == (other.content or "").strip()
            and self.tool_name == other.tool_name
            and (self.tool_arguments or {}) == (other.tool_arguments or {})
        )


@dataclass(frozen=True)
class Step:
    """One call of a tool in the middle of a run, and its result."""

    name: str
    arguments: dict[str, Any]
    result: str

    def messages(self, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The assistant's call and the tool's answer; `number` tells equal calls of one run apart."""
        function = {"name": self.name, "arguments": canonical_json(self.arguments)}
        call_id = f"call_{digest([number, function], length=12)}"
        call = {"id": call_id, "type": "function", "function": function}
        return (
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "content": self.result},
        )


@dataclass(frozen=True)
class Rejected:
    """What the agent said and should not have, to the prompt of an example."""

    episode: str
    time: str
    by_person: bool  # who marked it: a person, or the agent's own reflection
    target: Target
    after: tuple[Step, ...] = ()  # the run before it, where the last word was wrong and not the first move


@dataclass(frozen=True)
class Example:
    """One line of a dataset, before it is written, and where it comes from."""

    episode: str
    reflection: str
    time: str
    trust: Trust
    task_type: str
    instructions: str  # the client's own system messages included, as the agent had them
    messages: tuple[dict[str, Any], ...]  # the conversation as received, texts only
    tools: tuple[dict[str, Any], ...]  # OpenAI's function shape
    target: Target
    client_tools: tuple[dict[str, Any], ...] = ()  # the same, of the client
    rejected: Rejected | None = None  # the other side of a pair; always None in a supervised dataset

    @property
    def input(self) -> str:
        """The normalised input, see `cases.input_text`."""
        return input_text(self.messages)

    @property
    def input_digest(self) -> str:
        return digest(self.input, length=16)

    def training_line(self) -> dict[str, Any]:
        """The example in OpenAI's chat fine-tuning format: the target is the last message."""
        return self._asked(self.target.message())

    def preference_line(self, rejected: Rejected) -> dict[str, Any]:
        """The pair in OpenAI's format for preference fine-tuning."""
        run = (message for number, step in enumerate(rejected.after) for message in step.messages(number))
        return {
            "input": self._asked(*run),
            "preferred_output": [self.target.message()],
            "non_preferred_output": [rejected.target.message()],
        }

    def _asked(self, *then: dict[str, Any]) -> dict[str, Any]:
        """What the agent was asked, and the messages that followed."""
        system = {"role": "system", "content": self.instructions}
        turns = [message for message in self.messages if message["role"] not in _SYSTEM_ROLES]
        line: dict[str, Any] = {"messages": [system, *turns, *then]}
        if self.tools or self.client_tools:
            line["tools"] = [*self.tools, *self.client_tools]
        return line

    def held_out_line(self) -> dict[str, Any]:
        """The same with the fields of a suite's case, so that it can be asked and graded."""
        if self.target.tool_name is not None:
            arguments = self.target.tool_arguments or {}
            expected: dict[str, Any] = {"tool": {"name": self.target.tool_name, "arguments": arguments}}
        else:
            expected = {"answer": self.target.content}
        case: dict[str, Any] = {"id": self.input_digest, "expected": expected, "taskType": self.task_type}
        if len(self.messages) == 1:
            case["input"] = self.messages[0]["content"]
        else:
            case["messages"] = list(self.messages)
        return self.training_line() | {"case": case}
