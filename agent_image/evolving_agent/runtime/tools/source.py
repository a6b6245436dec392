"""Functions that must be found out before they can be offered: of a server, a document, or a module."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from evolving_agent.runtime.tools.invocation import ToolDefinition

LOAD_SECONDS = 45.0
PATIENCE_SECONDS = 2.0  # that a request waits for a source which failed before
FIRST_PAUSE_SECONDS = 5.0  # between two attempts, doubled each time
LONGEST_PAUSE_SECONDS = 120.0

logger = logging.getLogger(__name__)


class SourceError(Exception):
    """A source cannot be used; the message says what somebody must do. `permanent`: not tried again."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class Source:
    """Loads its functions once; while it cannot, the agent serves without them, and it is tried again.

    The first attempt is waited for, later ones for a moment only. `observe` is told of each change
    between usable and not.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Awaitable[list[ToolDefinition]]],
        observe: Callable[[bool], None],
    ) -> None:
        self._name = name
        self._load = load
        self._observe = observe
        self.loaded: list[ToolDefinition] | None = None
        self.problem = ""
        self._attempt: asyncio.Task[None] | None = None
        self._failures = 0
        self._retry_at = 0.0

    async def load(self) -> None:
        """Returns when the functions are `loaded`, or cannot be had for now."""
        if self.loaded is not None:
            return
        if self._attempt is None and time.monotonic() >= self._retry_at:
            self._attempt = asyncio.create_task(self._try())
        if self._attempt is not None:
            patience = PATIENCE_SECONDS if self._failures else None
            await asyncio.wait((self._attempt,), timeout=patience)

    async def close(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.gather(self._attempt, return_exceptions=True)

    async def _try(self) -> None:
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                self.loaded = await self._load()
        except Exception as error:  # clients and modules raise whatever they like
            self._failures += 1
            permanent = isinstance(error, SourceError) and error.permanent
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1))
            self._retry_at = float("inf") if permanent else time.monotonic() + pause
            said = str(error) if isinstance(error, SourceError) else repr(error)
            again = "until the pod restarts" if permanent else f"trying again after {pause:g} s"
            self.problem = f"serving without the tools of {self._name}: {said}"
            logger.error("%s (%s)", self.problem, again)
            self._observe(False)
        else:
            self._failures = 0
            self.problem = ""
            self._observe(True)
        finally:
            self._attempt = None
