"""No write without the Lease: a process that slept past its end finds out before it writes, not after."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from evolving_operator.cluster.errors import Unanswered
from evolving_operator.cluster.gateway import Gateway, Raw
from evolving_operator.cluster.kinds import Kind
from evolving_operator.core.plan import Manifest, ObjectRef
from evolving_operator.shell.leader import Leadership, LeadershipLostError

_Answer = TypeVar("_Answer")

# The API server gives up a request after this time.
_LONGEST_WRITE_SECONDS = 60.0


class Fence:
    """A `Gateway` whose writes raise LeadershipLostError once the Lease may be another's.

    The loop that renews the Lease would notice too, but perhaps a moment later than a worker that wakes up
    from the same sleep with a decision in its hand.

    A write that is cut off, by us, on its way or by who was to answer it, may take effect later, beside the
    next leader's: `is_clean` tells whether the Lease can be given back, or has to run out.
    """

    def __init__(
        self, gateway: Gateway, leadership: Leadership, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._gateway = gateway
        self._leadership = leadership
        self._is_closed = False
        self._under_way = 0
        self._idle = asyncio.Event()
        self._cut_off_at = -math.inf

    @property
    def is_clean(self) -> bool:
        return self._clock() - self._cut_off_at > _LONGEST_WRITE_SECONDS

    async def close(self, seconds: float) -> None:
        """Let no write begin any more, and wait for those that have: so long at most."""
        self._is_closed = True
        self._idle.clear()
        if self._under_way:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()

    async def apply(self, manifest: Manifest) -> Raw:
        return await self._write(lambda: self._gateway.apply(manifest))

    async def apply_new(self, manifest: Manifest) -> Raw:
        return await self._write(lambda: self._gateway.apply_new(manifest))

    async def find(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        return await self._gateway.find(kind, namespace, name)

    async def overwrite(self, manifest: Manifest) -> Raw:
        return await self._write(lambda: self._gateway.overwrite(manifest))

    async def apply_status(self, manifest: Manifest) -> Raw:
        return await self._write(lambda: self._gateway.apply_status(manifest))

    async def create(self, manifest: Manifest) -> Raw:
        return await self._write(lambda: self._gateway.create(manifest))

    async def delete(self, ref: ObjectRef) -> Raw | None:
        return await self._write(lambda: self._gateway.delete(ref))

    async def replace(self, manifest: Manifest) -> Raw:
        return await self._write(lambda: self._gateway.replace(manifest))

    async def read(self, kind: Kind, namespace: str, name: str) -> Raw:
        return await self._gateway.read(kind, namespace, name)

    async def _write(self, send: Callable[[], Awaitable[_Answer]]) -> _Answer:
        self._leadership.check()
        if self._is_closed:
            raise LeadershipLostError("this process is about to give the Lease back")
        self._under_way += 1
        try:
            return await send()
        except (asyncio.CancelledError, Unanswered):
            self._cut_off_at = self._clock()
            raise
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
