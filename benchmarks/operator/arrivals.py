"""Which of the agents are complete, by watches: to list thousands of objects once a second is a load, too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.operator.objects import Raw
from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.informer import Informer
from evolving_operator.cluster.kinds import AGENT, OWNED
from evolving_operator.cluster.live import LiveGateway
from evolving_operator.cluster.records import AgentKey

_POLL_SECONDS = 0.1


@dataclass
class Arrivals:
    """Of all namespaces."""

    wanted: frozenset[str]  # kinds that every agent is to have
    cache: Cache = field(default_factory=Cache)
    complete: set[AgentKey] = field(default_factory=set)
    _changed: set[AgentKey] = field(default_factory=set)

    async def until(self, count: int) -> None:
        """So many agents say that they are ready, by their present specs, and have an object of each kind."""
        while len(self.complete) < count:
            await asyncio.sleep(_POLL_SECONDS)
            changed, self._changed = self._changed - self.complete, set()
            self.complete |= {key for key in changed if self._is_complete(key)}

    def note(self, agent: AgentKey) -> None:
        self._changed.add(agent)

    def _is_complete(self, key: AgentKey) -> bool:
        agent = self.cache.agent(key)
        return (
            agent is not None
            and is_ready(agent)
            and self.wanted <= {raw["kind"] for raw in self.cache.owned(key)}
        )


def is_ready(agent: Raw) -> bool:
    ready = [item for item in agent.get("status", {}).get("conditions", ()) if item["type"] == "Ready"]
    return any(
        item["status"] == "True" and item["observedGeneration"] == agent["metadata"]["generation"]
        for item in ready
    )


@asynccontextmanager
async def arrivals(gateway: LiveGateway, wanted: Sequence[str]) -> AsyncIterator[Arrivals]:
    """Watches from now on."""
    found = Arrivals(frozenset(wanted))
    kinds = (AGENT, *(kind for kind in OWNED if kind.kind in found.wanted))
    informers = [Informer(gateway, found.cache, kind, None, found.note) for kind in kinds]
    await asyncio.gather(*(informer.list() for informer in informers))
    tasks = [asyncio.create_task(informer.run()) for informer in informers]
    try:
        yield found
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
