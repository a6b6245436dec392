"""The Chat Completions API on the wire."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from evolving_agent.runtime.asked import Asked
from evolving_agent.runtime.client_tools import of_chat
from evolving_agent.runtime.errors import RequestError
from evolving_agent.runtime.format_wire import of_response_format
from evolving_agent.runtime.question import Question
from evolving_agent.runtime.sampling import Sampling
from evolving_agent.runtime.trace import RunResult
from evolving_agent.runtime.wire import (
    AnswerHead,
    details,
    event,
    unsupported,
    validated,
)

DONE = b"data: [DONE]\n\n"


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """What is understood of a chat request. The agent's model and prompt are the agent's own, and so are the
    tools that it executes; those of the client are offered beside them.

    `model` may be anything; unknown fields are ignored, as other servers do.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    messages: list[dict[str, Any]]
    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=1, ge=1, le=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    metadata: dict[str, str] | None = None

    @classmethod
    def parse(cls, body: dict[str, Any]) -> ChatRequest:
        """Raises RefusedError."""
        parsed = validated(cls, body)
        if parsed.functions:  # ignored, the client would wait for calls that never come
            raise unsupported("functions", "functions is no longer known; send them as tools")
        return parsed

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def _sampling(self) -> Sampling:
        return Sampling(
            self.temperature,
            self.top_p,
            self.max_completion_tokens or self.max_tokens,
            self.frequency_penalty,
            self.presence_penalty,
            self.seed,
            self.stop,
        )

    def question(self, session: str | None, *, dry_run: bool) -> Question:
        """`session` is what the header says; it comes before the body's `metadata.session_id`.

        Raises RefusedError.
        """
        return Question(
            messages=self.messages,
            asked=Asked(
                self._sampling,
                of_response_format(self.response_format),
                of_chat(self.tools, self.tool_choice, self.parallel_tool_calls),
            ),
            session=session or (self.metadata or {}).get("session_id") or None,
            dry_run=dry_run,
        )


def completion(head: AnswerHead, result: RunResult) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": result.answer, "refusal": None}
    if result.refused:
        message |= {"content": None, "refusal": result.answer}
    if result.client_calls:
        calls = [call.in_message() for call in result.client_calls]
        message |= {"content": result.answer or None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(result)}
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [choice],
        "usage": usage(result),
        "evolving_agents": details(head, result),
    }


def finish_reason(result: RunResult) -> str:
    return "tool_calls" if result.client_calls else "stop"


def usage(result: RunResult) -> dict[str, int]:
    """Tokens of all calls of the model in the run."""
    return {
        "prompt_tokens": result.input_tokens,
        "completion_tokens": result.output_tokens,
        "total_tokens": result.input_tokens + result.output_tokens,
    }


class ChatStream:
    """An answer as `chat.completion.chunk` events."""

    def __init__(self, head: AnswerHead, *, with_usage: bool) -> None:
        self._head = head
        self._with_usage = with_usage

    def opening(self) -> bytes:
        return event(self._chunk({"role": "assistant", "content": ""}))

    def piece(self, text: str) -> bytes:
        return event(self._chunk({"content": text}))

    def ending(self, result: RunResult) -> bytes:
        last = event(self._chunk({"refusal": result.answer})) if result.refused else b""
        for index, call in enumerate(result.client_calls):
            begun = call.in_message() | {"function": {"name": call.name, "arguments": ""}}
            last += event(self._chunk({"tool_calls": [{"index": index, **begun}]}))
            said = {"index": index, "function": {"arguments": call.arguments}}
            last += event(self._chunk({"tool_calls": [said]}))
        end = self._chunk({}, finish_reason(result)) | {"evolving_agents": details(self._head, result)}
        last += event(end)
        if self._with_usage:
            last += event(self._chunk({}) | {"choices": [], "usage": usage(result)})
        return last + DONE

    def failure(self, error: RequestError) -> bytes:
        return event(error.body)

    def kept(self, _: RunResult) -> None:
        return None

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {
            "id": self._head.id,
            "object": "chat.completion.chunk",
            "created": self._head.created,
            "model": self._head.model,
            "choices": [choice],
        }
