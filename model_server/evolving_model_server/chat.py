"""From a chat request to the model's answer: prompt, generation, stop strings, calls of tools."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from evolving_agent.contract import chatml
from evolving_model_server.inference import Finish, Generation, InferenceQueue, Start, Text
from evolving_model_server.protocol import ApiError, ChatRequest, Function


@dataclass(frozen=True)
class Delta:
    """Text of the answer that is certain."""

    text: str


@dataclass(frozen=True)
class Completed:
    answer: chatml.Answer
    reason: Literal["stop", "length", "tool_calls"]
    prompt_tokens: int
    completion_tokens: int


class StopScanner:
    """Finds the first stop string in text that comes in pieces.

    Text that may be the beginning of a stop string is held back until that is decided.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Takes the next piece, gives what certainly stands before any stop string."""
        self._held += text
        starts = [start for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if starts:
            self.found = True
            released, self._held = self._held[: min(starts)], ""
            return released
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released

    def finish(self) -> str:
        """What was held back and turned out to begin no stop string."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)


def generation_of(request: ChatRequest, adapter: Path | None) -> Generation:
    """The generation that answers a request. Raises ApiError for messages that have no form as text."""
    messages = [message.model_dump(exclude_none=True) for message in request.messages]
    try:
        prompt = chatml.prompt_text(messages, request.offered_tools)
    except ValueError as error:
        raise ApiError(400, str(error), param="messages", code="invalid_value") from error
    return Generation(
        prompt=prompt,
        adapter=adapter,
        max_tokens=request.token_limit,
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        schema=request.answer_schema,
    )


async def answer(
    request: ChatRequest, adapter: Path | None, queue: InferenceQueue
) -> AsyncGenerator[Delta | Completed]:
    """The answer to a request: its text as it is made, then the whole.

    Raises ApiError, and what the queue raises.
    """
    generation = generation_of(request, adapter)
    demanded = request.demanded_tools
    if demanded:
        yield await _demanded_call(demanded, generation, queue)
        return
    reader = chatml.AnswerReader([tool["function"]["name"] for tool in request.offered_tools])
    stops = StopScanner(request.stops)
    prompt_tokens, tokens = 0, 0
    reason: Literal["stop", "length", "tool_calls"] = "stop"
    async with aclosing(queue.generate(generation)) as pieces:
        async for piece in pieces:
            match piece:
                case Start():
                    prompt_tokens = piece.prompt_tokens
                case Text():
                    tokens += 1
                    text = reader.feed(stops.feed(piece.text))
                    if text:
                        yield Delta(text)
                    if stops.found:
                        break
                case Finish():
                    reason = piece.reason
    rest = reader.feed(stops.finish()) + reader.finish()
    if rest:
        yield Delta(rest)
    said = reader.answer
    yield Completed(said, "tool_calls" if said.tool_calls else reason, prompt_tokens, tokens)


async def _demanded_call(
    demanded: list[Function], generation: Generation, queue: InferenceQueue
) -> Completed:
    """A call of one of these tools, whatever the model would rather do.

    The beginning of the call is put into its mouth. It chooses among the names, then writes arguments
    that the tool's schema allows.
    """
    opening = f"{generation.prompt}{chatml.CALL}"
    names = tuple(f" {function.name}" for function in demanded)
    spent = 0
    chosen = names[0]
    if len(names) > 1:
        choice = await queue.whole(replace(generation, prompt=opening, choices=names))
        chosen, spent = choice.text, choice.completion_tokens
        if chosen not in names:
            raise ApiError(400, "max_tokens is too small for the name of a tool", param="max_tokens")
    function = demanded[names.index(chosen)]
    schema = function.parameters or {"type": "object", "properties": {}}
    written = await queue.whole(replace(generation, prompt=f"{opening}{chosen} ", schema=schema))
    said = chatml.parse_answer(f"{chatml.CALL}{chosen} {written.text}", [function.name])
    # Arguments that the token limit cut off are no call; the text shows the client what there is of it.
    reason: Literal["length", "tool_calls"] = "tool_calls" if said.tool_calls else "length"
    return Completed(said, reason, written.prompt_tokens, spent + written.completion_tokens)
