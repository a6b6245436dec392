"""Which agents are to be looked at, and when: each key once, by one worker at a time.

What has changed comes before what is only looked at because a process begins: with thousands of agents, an
edit would wait for all of them.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_FIRST_BACKOFF = 0.05
# However long an outage lasts: half a minute after its end, everything has been tried again.
_LAST_BACKOFF = 20.0
_LONGEST_WISH = 60.0  # of a server, or of what stands before it: a day would be to forget the key
_JITTER = 0.2
_FEW = 100


class WorkQueue(Generic[Key]):
    """A key that is added while it waits is not added again; while it is worked on, it comes again after.

    All methods are to be called from the event loop's thread.
    """

    def __init__(self, *, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()  # noqa: S311 - jitter, not secrets
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()
        self._backlog: OrderedDict[Key, None] = OrderedDict()  # taken when nothing is ready
        self._busy: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._delayed: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._sequence = 0
        self._timer: asyncio.TimerHandle | None = None
        self._wakers: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        """Keys that wait for a worker now; those that are delayed do not count."""
        return len(self._ready) + len(self._backlog)

    @property
    def delayed(self) -> int:
        """Times that are kept, those included that an earlier one has replaced."""
        return len(self._delayed)

    def add(self, key: Key) -> None:
        if key in self._busy:
            self._again.add(key)
        elif key not in self._waiting:
            self._backlog.pop(key, None)
            self._waiting.add(key)
            self._ready.append(key)
            self._wake()

    def add_to_backlog(self, key: Key) -> None:
        """Nothing is known to have happened to it: it waits until nothing else does."""
        if key in self._busy:
            self._again.add(key)
        elif key not in self._waiting and key not in self._backlog:
            self._backlog[key] = None
            self._wake()

    def add_after(self, key: Key, delay: float) -> None:
        """Look again in `delay` seconds; an earlier time that is known already stands."""
        when = asyncio.get_running_loop().time() + max(0.0, delay)
        if self._due.get(key, float("inf")) <= when:
            return
        self._due[key] = when
        self._sequence += 1
        heapq.heappush(self._delayed, (when, self._sequence, key))
        if len(self._delayed) > 2 * len(self._due) + _FEW:
            # Times that an earlier one has replaced would stay until they come: some are days away.
            self._delayed = [entry for entry in self._delayed if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._delayed)
        self._set_timer()

    def retry(self, key: Key, *, at_least: float = 0.0) -> float:
        """Look again after a failure: later each time, never all at once. Returns the delay."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        backoff: float = min(_LAST_BACKOFF, _FIRST_BACKOFF * 2 ** min(failures, 20))
        delay = backoff * (1 + self._chance.uniform(-_JITTER, _JITTER))
        if at_least > delay:
            delay = min(_LONGEST_WISH, at_least) * (1 + self._chance.uniform(0, _JITTER))
        self.add_after(key, delay)
        return delay

    def succeeded(self, key: Key) -> None:
        """Forget the key's failures."""
        self._failures.pop(key, None)

    async def take(self) -> Key:
        """The next key. It is the caller's alone until `done`."""
        while not len(self):
            waker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._wakers.append(waker)
            try:
                await waker
            except asyncio.CancelledError:
                if waker.done() and not waker.cancelled():
                    self._wake()  # the call was for us, but we are leaving: pass it on
                raise
        if self._ready:
            key = self._ready.popleft()
            self._waiting.discard(key)
        else:
            key, _ = self._backlog.popitem(last=False)
        self._busy.add(key)
        return key

    def done(self, key: Key) -> None:
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _wake(self) -> None:
        while self._wakers:
            waker = self._wakers.popleft()
            if not waker.done():
                waker.set_result(None)
                return

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._delayed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._delayed[0][0], self._release_due)

    def _release_due(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._delayed and self._delayed[0][0] <= now:
            when, _, key = heapq.heappop(self._delayed)
            if self._due.get(key) == when:  # else a later entry that an earlier one has replaced
                del self._due[key]
                self.add(key)
        self._timer = None
        self._set_timer()
