"""Runs blocking functions beside the event loop, in threads that nobody has to wait for at the end."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

MAX_THREADS = 32


class BusyError(Exception):
    """All threads are taken, some perhaps by functions that were given up and still run."""


class DaemonThreads:
    """A thread for each call: one that hangs is given up, and keeps neither others nor the pod's end waiting.

    An executor's threads would be joined when the process ends.
    """

    def __init__(self, limit: int = MAX_THREADS) -> None:
        self._limit = limit
        self._running = 0

    async def run(self, work: Callable[[], T], name: str) -> T:
        """What `work` returns or raises. Raises BusyError. Cancelled, it leaves the thread to itself."""
        if self._running >= self._limit:
            raise BusyError(f"{self._limit} calls of Python functions still run")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def finish(result: T | None, error: BaseException | None) -> None:
            self._running -= 1
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type] # a result unless there is an error

        def body() -> None:
            result: T | None = None
            problem: Exception | None = None
            try:
                result = context.run(work)
            except StopIteration as error:  # a future does not take it
                problem = RuntimeError(f"it raised {error!r}")
            except BaseException as error:  # SystemExit included: it must not end the thread in silence
                problem = error if isinstance(error, Exception) else RuntimeError(f"it raised {error!r}")
            try:
                loop.call_soon_threadsafe(finish, result, problem)
            except RuntimeError:  # the loop is closed: nobody is interested any more
                return

        self._running += 1
        threading.Thread(target=body, name=f"tool-{name}", daemon=True).start()
        return await future
