"""Long steps, told as they go: name, elapsed seconds, and a counter where the step can count."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tools import cache
from tools.errors import ToolError

QUIET_INTERVAL_SECONDS = 30.0
BAR_CELLS = 20


@dataclass
class Step:
    """One named step. On a terminal it redraws its line; elsewhere it prints seldom, and when it ends."""

    name: str
    total: int | None = None
    done: int = 0
    detail: str = ""
    started: float = field(default_factory=time.monotonic)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        outcome = "done" if kind is None else "FAILED"
        self._print(f"{self.name}: {outcome} in {self.elapsed:.1f} s", final=True)

    @property
    def elapsed(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self.started

    def _line(self) -> str:
        parts = [f"{self.name}: {self.elapsed:.0f} s"]
        if self.total:
            filled = min(BAR_CELLS, BAR_CELLS * self.done // self.total)
            parts.append(f"[{'#' * filled}{'.' * (BAR_CELLS - filled)}] {self.done}/{self.total}")
        if self.detail:
            parts.append(self.detail)
        return "  ".join(parts)

    def _tell(self) -> None:
        interval = 0.5 if sys.stderr.isatty() else QUIET_INTERVAL_SECONDS
        while not self._stop.wait(interval):
            self._print(self._line(), final=False)

    def _print(self, text: str, *, final: bool) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text[:150]}{chr(10) if final else ''}")
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


@contextmanager
def step(name: str, total: int | None = None) -> Iterator[Step]:
    """A step for work that runs no command of its own."""
    with Step(name, total) as running:
        yield running


def run(
    name: str,
    command: Sequence[str | Path],
    *,
    todo: str,
    total: int | None = None,
    counts: Callable[[str], bool] | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: str | None = None,
) -> None:
    """Run `command` as the step `name`; its whole output goes to a log file.

    `counts` says of an output line whether it finishes one of `total` units.
    Raises ToolError, with the last lines and the log's path, when the command fails.
    """
    log_path = cache.log_file(log or name.split(" ", maxsplit=1)[0])
    last: list[str] = []
    with log_path.open("a", encoding="utf-8") as record, Step(name, total) as running:
        record.write(f"\n== {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(map(str, command))}\n")
        record.flush()
        with subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            cwd=cwd,
            env=env,
        ) as process:
            assert process.stdout is not None  # PIPE above
            for line in process.stdout:
                record.write(line)
                record.flush()
                last = [*last, line.rstrip()][-8:]
                running.detail = line.strip()[:70]
                if counts and counts(line):
                    running.done += 1
        if process.returncode:
            tail = "\n    ".join(last)
            raise ToolError(
                f"{name}: `{command[0]}` ended with status {process.returncode}, with:\n    {tail}\n"
                f"  full log: {log_path}",
                todo,
            )
