"""Observe, decide, execute: for one agent at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from evolving_operator.api import names
from evolving_operator.api.models import AgentRevisionStatus, EvolvingAgentStatus
from evolving_operator.cluster.cache import AgentKey, Cache
from evolving_operator.cluster.errors import AlreadyExists, Invalid, NotFound, Refused
from evolving_operator.cluster.gateway import Gateway
from evolving_operator.core.builders.context import Images
from evolving_operator.core.decide import decide
from evolving_operator.core.observed import Observed, Refusal
from evolving_operator.core.plan import Action, Apply, Create, Delete, Manifest, WriteStatus
from evolving_operator.core.reading import read_observed
from evolving_operator.core.situation import applied_hash

logger = logging.getLogger(__name__)

Raw = dict[str, Any]
AgentTransition = Callable[[AgentKey, EvolvingAgentStatus, EvolvingAgentStatus], None]
RevisionTransition = Callable[[AgentKey, AgentRevisionStatus | None, AgentRevisionStatus], None]

# What the API server refused may be accepted later (a quota is raised, a policy removed).
_REFUSAL_RETRY = timedelta(seconds=60)


@dataclass(frozen=True)
class _Refused:
    refusal: Refusal
    retry_at: datetime


class Reconciler:
    """Holds nothing that a restart would miss: all it knows is in the cache, and that in the cluster."""

    def __init__(
        self,
        gateway: Gateway,
        cache: Cache,
        images: Images,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_agent: AgentTransition = lambda *_: None,
        on_revision: RevisionTransition = lambda *_: None,
    ) -> None:
        self._gateway = gateway
        self._cache = cache
        self._images = images
        self._clock = clock
        self._on_agent = on_agent
        self._on_revision = on_revision
        self._refused: dict[AgentKey, dict[tuple[str, str], _Refused]] = {}

    async def reconcile(self, key: AgentKey) -> float | None:
        """Bring one agent nearer to what it should be.

        Returns the seconds after which it is to be looked at again: 0 where something was done, since
        what was done may allow the next step; None where nothing is known to be due. Raises ClusterError.
        """
        now = self._clock()
        observed = self.observe(key, now)
        if observed is None:
            self._refused.pop(key, None)
            return None
        plan = decide(observed, now)
        for action in plan.actions:
            await self._execute(key, observed, action)
        if plan.actions:
            return 0.0
        due = [refused.retry_at for refused in self._refused.get(key, {}).values()]
        due += [plan.requeue_at] if plan.requeue_at is not None else []
        return max(0.0, (min(due) - now).total_seconds()) if due else None

    def observe(self, key: AgentKey, now: datetime) -> Observed | None:
        """Everything that is known about the agent; None where there is no such agent."""
        agent = self._cache.agent(key)
        if agent is None:
            return None
        refusals = tuple(
            replace(refused.refusal, is_due=refused.retry_at <= now)
            for refused in self._refused.get(key, {}).values()
        )
        return read_observed(agent, self._cache.owned(key), self._images, refusals)

    async def _execute(self, key: AgentKey, observed: Observed, action: Action) -> None:
        match action:
            case Apply(manifest) | Create(manifest):
                await self._write(key, action, manifest)
            case WriteStatus(manifest):
                await self._write_status(key, observed, manifest)
            case Delete(ref):
                try:
                    remaining = await self._gateway.delete(ref)
                except NotFound:
                    remaining = None
                if remaining is None:
                    self._cache.forget(ref.kind, ref.namespace, ref.name)
                else:
                    self._cache.put(_typed(remaining, ref.api_version, ref.kind))
                logger.info("deleted", extra={"object": f"{ref.kind}/{ref.name}", "namespace": ref.namespace})

    async def _write(self, key: AgentKey, action: Apply | Create, manifest: Manifest) -> None:
        """A refused object is noted for the conditions, and keeps nothing else from being written."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        refused = self._refused.setdefault(key, {})
        try:
            if isinstance(action, Apply):
                stored = await self._gateway.apply(manifest)
            else:
                stored = await self._gateway.create(manifest)
        except AlreadyExists:
            return  # somebody took the lock before us: an earlier run of this very decision
        except Refused as error:
            fields = f" ({', '.join(error.fields)})" if isinstance(error, Invalid) and error.fields else ""
            refusal = Refusal(kind, name, applied_hash(manifest), error.reason, f"{error}{fields}")
            refused[(kind, name)] = _Refused(refusal, self._clock() + _REFUSAL_RETRY)
            logger.warning("refused", extra={"object": f"{kind}/{name}", "error": str(error)})
            return
        finally:
            if not refused:
                self._refused.pop(key, None)
        if refused.pop((kind, name), None) is not None and not refused:
            self._refused.pop(key, None)
        if kind != "Event":
            self._cache.put(_typed(stored, manifest["apiVersion"], kind))
            logger.info("wrote", extra={"object": f"{kind}/{name}", "namespace": key[0]})

    async def _write_status(self, key: AgentKey, observed: Observed, manifest: Manifest) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        try:
            stored = await self._gateway.apply_status(manifest)
        except NotFound:
            self._cache.forget(kind, manifest["metadata"]["namespace"], name)
            raise
        self._cache.put(_typed(stored, manifest["apiVersion"], kind))
        if kind == names.AGENT_KIND:
            after = EvolvingAgentStatus.model_validate(manifest["status"])
            self._on_agent(key, observed.agent.status, after)
            return
        revision = observed.revisions.get(name)
        self._on_revision(
            key, revision.status if revision else None, AgentRevisionStatus.model_validate(manifest["status"])
        )


def _typed(stored: Raw, api_version: str, kind: str) -> Raw:
    """Some answers leave the type out."""
    return {"apiVersion": api_version, "kind": kind, **stored}
