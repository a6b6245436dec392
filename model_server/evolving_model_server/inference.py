"""What the server asks of a model, and the queue in front of it.

A CPU answers one request at a time: two at once would each take twice as long. So generations run one
after another in a single thread, first come first served, and when too many wait the next is refused.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Generation:
    """One continuation of a prompt.

    `adapter` is an adapter's file, None for the base model. `choices` (exactly one of these texts) and
    `schema` (a JSON document of that JSON schema) bind what may be generated; at most one is given.
    """

    prompt: str
    adapter: Path | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    choices: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class Start:
    """The first piece: the prompt was read."""

    prompt_tokens: int


@dataclass(frozen=True)
class Text:
    """The text of one token; empty where a character is not complete yet."""

    text: str


@dataclass(frozen=True)
class Finish:
    """The last piece. `length`: the token limit or the end of the context was reached."""

    reason: Literal["stop", "length"]


Piece = Start | Text | Finish


@dataclass(frozen=True)
class Whole:
    """All of a generation."""

    text: str
    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


class PromptTooLongError(ValueError):
    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"the prompt has {tokens} tokens, and this server's context holds {limit}")


class UnusableAdapterError(ValueError):
    """The model cannot load this adapter (another architecture, a broken file)."""


class UnusableSchemaError(ValueError):
    """A JSON schema that cannot bind a generation."""


class Engine(Protocol):
    """A model in memory. Not thread-safe: the queue calls it from one thread only."""

    def generate(self, generation: Generation) -> Iterator[Piece]:
        """Pieces as they are made; closing the iterator stops the generation.

        Raises PromptTooLongError, UnusableAdapterError, UnusableSchemaError.
        """

    def load(self, adapter: Path) -> None:
        """Loads an adapter ahead of its first use. Raises UnusableAdapterError."""

    def unload(self, adapter: Path) -> bool:
        """Frees an adapter's memory; False where it was not loaded."""


class BusyError(Exception):
    """More generations wait than the queue admits."""


class InferenceQueue:
    def __init__(self, engine: Engine, limit: int) -> None:
        self._engine = engine
        self._limit = limit
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self.pending = 0  # generations that run or wait

    async def generate(self, generation: Generation) -> AsyncGenerator[Piece]:
        """The pieces of a generation. Leaving the iterator early takes it out of the queue, or stops it.

        Raises BusyError before the first piece, and what the engine raises.
        """
        if self.pending >= self._limit:
            raise BusyError(f"{self.pending} requests are waiting for the model")
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        given_up = threading.Event()

        def put(item: Piece | Exception | None) -> None:
            if not given_up.is_set():  # else nobody listens, and the loop may be closed
                loop.call_soon_threadsafe(pieces.put_nowait, item)

        def work() -> None:
            try:
                for piece in self._engine.generate(generation):
                    put(piece)
                    if given_up.is_set():
                        return
            except Exception as error:  # crosses to the request's task, which knows what to answer
                put(error)
            finally:
                put(None)

        self.pending += 1
        job = self._thread.submit(work)
        try:
            while (item := await pieces.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            given_up.set()
            job.cancel()  # has an effect on a job that waits
            self.pending -= 1

    async def whole(self, generation: Generation) -> Whole:
        """A generation once it is finished."""
        texts: list[str] = []
        prompt_tokens = 0
        async with aclosing(self.generate(generation)) as pieces:
            async for piece in pieces:
                match piece:
                    case Start():
                        prompt_tokens = piece.prompt_tokens
                    case Text():
                        texts.append(piece.text)
                    case Finish():
                        return Whole("".join(texts), piece.reason, prompt_tokens, len(texts))
        raise RuntimeError("the engine ended a generation without a Finish")

    async def run(self, work: Callable[[Engine], Result]) -> Result:
        """Does other work with the engine, between two generations."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._engine)

    def close(self) -> None:
        """Waits for what runs; nothing that waits is begun."""
        self._thread.shutdown(cancel_futures=True)
