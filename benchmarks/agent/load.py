"""A closed loop of requests: so many users at a time, each of whom asks again once answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

ANSWER = " ".join(f"word{number}" for number in range(20))  # streamed as 20 pieces
INSTRUCTIONS = "You are a support agent."
MODEL = "tiny"


@dataclass(frozen=True)
class Load:
    requests: int
    concurrency: int
    stream: bool
    model_ms: int  # that the model takes for each answer

    @property
    def question(self) -> str:
        """Tells the model server how long to take."""
        return f"Where is my order? Answer after {self.model_ms} ms."


@dataclass
class Samples:
    """Seconds of each right answer, from the request's start; `first`: to its first piece, where streamed."""

    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    elapsed: float = 0.0  # of the whole load


@dataclass(frozen=True)
class Answer:
    text: str
    first_piece: float | None = None  # time.perf_counter() at its arrival


Ask = Callable[[Load], Awaitable[Answer]]


async def drive(load: Load, ask: Ask) -> Samples:
    """Asks until all requests of the load are done. A wrong answer and an exception are errors."""
    samples = Samples()
    left = iter(range(load.requests))

    async def user(number: int) -> None:
        # spread over one answer: users who begin as one would stay in step, and queue behind each other
        await asyncio.sleep(load.model_ms / 1000 * number / load.concurrency)
        for _ in left:
            started = time.perf_counter()
            try:
                answer = await ask(load)
            except Exception as error:  # whatever it is, it is counted and shown
                samples.errors.append(repr(error))
                continue
            if answer.text != ANSWER:
                samples.errors.append(f"wrong answer {answer.text!r}")
                continue
            samples.seconds.append(time.perf_counter() - started)
            if answer.first_piece is not None:
                samples.first.append(answer.first_piece - started)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as users:
        for number in range(load.concurrency):
            users.create_task(user(number))
    samples.elapsed = time.perf_counter() - began
    return samples
