"""How many requests a pod takes on: so many at once, some more that wait, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

RETRY_AFTER_SECONDS = 1.0


class BusyError(Exception):
    """As many requests wait as may."""


class Admission:
    """A request takes a `place`, and in it waits for its `turn`; first come, first served."""

    def __init__(self, concurrent: int, waiting: int) -> None:
        self._places = concurrent + waiting
        self._taken = 0
        self._turns = asyncio.Semaphore(concurrent)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Raises BusyError."""
        if self._taken >= self._places:
            raise BusyError
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._turns:
            yield
