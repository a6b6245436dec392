"""How many of the agents are ready, by a watch: to list thousands of them once a second is a load, too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.operator.objects import Raw
from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.informer import Informer
from evolving_operator.cluster.kinds import AGENT
from evolving_operator.cluster.live import LiveGateway
from evolving_operator.cluster.records import AgentKey

_POLL_SECONDS = 0.1


@dataclass
class Arrivals:
    """Of all namespaces."""

    cache: Cache = field(default_factory=Cache)
    ready: set[AgentKey] = field(default_factory=set)
    _changed: set[AgentKey] = field(default_factory=set)

    async def until(self, count: int) -> None:
        """So many agents say that they are ready, by their present specs."""
        while len(self.ready) < count:
            await asyncio.sleep(_POLL_SECONDS)
            changed, self._changed = self._changed - self.ready, set()
            self.ready |= {key for key in changed if self._is_ready(key)}

    def note(self, agent: AgentKey) -> None:
        self._changed.add(agent)

    def _is_ready(self, key: AgentKey) -> bool:
        agent = self.cache.agent(key)
        return agent is not None and is_ready(agent)


def is_ready(agent: Raw) -> bool:
    ready = [item for item in agent.get("status", {}).get("conditions", ()) if item["type"] == "Ready"]
    return any(
        item["status"] == "True" and item["observedGeneration"] == agent["metadata"]["generation"]
        for item in ready
    )


@asynccontextmanager
async def arrivals(gateway: LiveGateway) -> AsyncIterator[Arrivals]:
    """Watches from now on."""
    found = Arrivals()
    informer = Informer(gateway, found.cache, AGENT, None, found.note)
    await informer.list()
    task = asyncio.create_task(informer.run())
    try:
        yield found
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
