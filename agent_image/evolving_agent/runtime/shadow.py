"""Shows live requests to the candidate as well: after the answer, few at a time, the surplus skipped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from evolving_agent.runtime.asked import Asked
from evolving_agent.runtime.errors import RefusedError
from evolving_agent.runtime.metrics import Metrics
from evolving_agent.runtime.traffic import Arm
from evolving_agent.store.records import Episode

CONCURRENCY = 2

logger = logging.getLogger(__name__)


class Shadow:
    """`run` answers a live episode's request with the arm's configuration, and keeps what comes out.

    It raises RefusedError where the candidate cannot be asked what the client asked.
    """

    def __init__(self, run: Callable[[Arm, Episode, Asked], Awaitable[None]], metrics: Metrics) -> None:
        self._run = run
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()

    def show(self, arm: Arm, live: Episode, asked: Asked) -> None:
        if len(self._running) >= CONCURRENCY:
            # the candidate shares the model server with live requests: it must not pile up there
            self._metrics.shadow_skipped.labels("busy").inc()
            return
        task = asyncio.create_task(self._guarded(arm, live, asked))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self, seconds: float) -> None:
        if not self._running:
            return
        _, left = await asyncio.wait(self._running, timeout=seconds)
        self._metrics.shadow_skipped.labels("shutdown").inc(len(left))
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _guarded(self, arm: Arm, live: Episode, asked: Asked) -> None:
        try:
            await self._run(arm, live, asked)
        except RefusedError as refusal:  # the candidate has a tool of the same name as the client
            self._metrics.shadow_skipped.labels("tool_name_taken").inc()
            logger.warning("no shadow run: %s", refusal, extra={"shadow_of": live.id})
        except Exception:  # a broken candidate must not disturb the pod
            logger.exception("shadow run failed", extra={"shadow_of": live.id})
