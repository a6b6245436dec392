"""Shows a person where a long run stands: step, bar or counter, elapsed time."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

BAR_WIDTH = 24
REFRESH_SECONDS = 1.0
PLAIN_SECONDS = 15.0  # without a terminal: one line this often


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:d}:{rest:02d}"


class Step:
    """One step of the demo; `note` and `count` may be called from the step's own thread at any time."""

    def __init__(self, number: int, total: int, name: str) -> None:
        self.title = f"[{number}/{total}] {name}"
        self.seconds = 0.0
        self._started = time.monotonic()
        self._detail = ""
        self._ended = threading.Event()
        self._terminal = sys.stdout.isatty()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def note(self, text: str) -> None:
        self._detail = text

    def count(self, done: int, total: int, text: str = "") -> None:
        filled = BAR_WIDTH * done // max(total, 1)
        self._detail = f"{'█' * filled}{'░' * (BAR_WIDTH - filled)} {done}/{total} {text}".rstrip()

    def __enter__(self) -> Step:
        if not self._terminal:
            print(f"{self.title} …", flush=True)
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._ticker.join()
        self.seconds = time.monotonic() - self._started
        mark = "✗" if error else "✓"
        line = f"{mark} {self.title}  {clock(self.seconds)}  {self._detail}".rstrip()
        print(f"\r\033[K{line}" if self._terminal else line, flush=True)

    def _tick(self) -> None:
        pause = REFRESH_SECONDS if self._terminal else PLAIN_SECONDS
        while not self._ended.wait(pause):
            line = f"{self.title}  {clock(time.monotonic() - self._started)}  {self._detail}"
            print(f"\r\033[K{line[:160]}" if self._terminal else f"  {line}", end="", flush=True)
            if not self._terminal:
                print(flush=True)


class Progress:
    """Numbers the steps and keeps their durations, in seconds."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, key: str, name: str) -> Iterator[Step]:
        with Step(len(self.seconds) + 1, self.total, name) as step:
            yield step
        self.seconds[key] = round(step.seconds, 1)
