"""An engine that says what a test wrote for it, one character at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from evolving_model_server.inference import (
    Finish,
    Generation,
    Piece,
    PromptTooLongError,
    Start,
    Text,
    UnusableAdapterError,
)


class ScriptedEngine:
    """`says` maps a generation to its text. While `gate` is closed, nothing is said.

    Counts a character as a token; an adapter whose file holds "broken" cannot be loaded.
    """

    def __init__(self, says: Callable[[Generation], str], context: int = 10_000) -> None:
        self._says = says
        self._context = context
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[Generation] = []
        self.said: list[str] = []  # the characters that were made, whoever still listened
        self.loaded: set[Path] = set()
        self.threads: set[int] = set()

    def generate(self, generation: Generation) -> Iterator[Piece]:
        self.threads.add(threading.get_ident())
        self.asked.append(generation)
        if len(generation.prompt) >= self._context:
            raise PromptTooLongError(len(generation.prompt), self._context)
        if generation.adapter is not None:
            self.load(generation.adapter)
        yield Start(len(generation.prompt))
        text = self._says(generation)
        for character in text[: generation.max_tokens]:
            self.gate.wait(timeout=10)
            self.said.append(character)
            yield Text(character)
        yield Finish("stop" if len(text) <= generation.max_tokens else "length")

    def load(self, adapter: Path) -> None:
        self.threads.add(threading.get_ident())
        if adapter.read_text() == "broken":
            raise UnusableAdapterError(f"cannot load {adapter}")
        self.loaded.add(adapter)

    def unload(self, adapter: Path) -> bool:
        if adapter not in self.loaded:
            return False
        self.loaded.remove(adapter)
        return True
