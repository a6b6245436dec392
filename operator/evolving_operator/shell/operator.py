"""The operator's work: watch always, decide while leading."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.errors import ClusterError, Conflict, Forbidden, NotFound, Refused, Unavailable
from evolving_operator.cluster.gateway import Gateway
from evolving_operator.cluster.informer import Informer, Source
from evolving_operator.cluster.kinds import AGENT, OWNED, Kind
from evolving_operator.cluster.pods import PodClient
from evolving_operator.cluster.records import AgentKey
from evolving_operator.settings import Settings
from evolving_operator.shell.fence import Fence
from evolving_operator.shell.leader import Leadership, LeadershipLostError, LeaseSettings
from evolving_operator.shell.reconciler import Reconciler
from evolving_operator.shell.telemetry import Probes, Telemetry
from evolving_operator.shell.traffic_watch import TrafficWatch
from evolving_operator.shell.workqueue import WorkQueue

logger = logging.getLogger(__name__)

# Longer than a minute of an absent API server, which a restart of ours would not bring back.
_FROZEN_SECONDS = 120
_LIST_RETRY_SECONDS = 2.0
_UNLISTED_RETRY_SECONDS = 10.0
_AFTER_LIST_SECONDS = 5.0
_PATIENCE = timedelta(seconds=0.5)
# kopf lists the agents once more, which takes half as long as all that comes before.
_HEAD_START_SECONDS = 20.0
_STANDBY_SECONDS = 1.0
# A process that is told to stop waits so long for its writes: the next one is to lead within three seconds.
_LAST_WRITES_SECONDS = 1.5


@dataclass
class Operator:
    """Decides and executes, from the cache, for as long as this process leads."""

    settings: Settings
    gateway: Gateway
    source: Source
    cache: Cache
    queue: WorkQueue[AgentKey]
    telemetry: Telemetry
    lease: LeaseSettings
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    watches_due: asyncio.Event = field(default_factory=asyncio.Event)
    chance: random.Random = field(default_factory=random.Random)
    _leadership: Leadership = field(init=False)
    _agents: list[Informer] = field(init=False)
    _owned: list[Informer] = field(init=False)
    _is_deciding: bool = False
    _unlisted: set[str] = field(default_factory=set)  # namespaces of which only a part may be known
    _agents_due: asyncio.Event = field(default_factory=asyncio.Event)  # to be listed once more

    def __post_init__(self) -> None:
        identity = f"{self.settings.pod}_{uuid.uuid4().hex[:8]}"
        self._leadership = Leadership(self.gateway, self.lease, identity)
        self._agents = self._informers(self.agent_kind)
        self._owned = [informer for kind in OWNED for informer in self._informers(kind)]

    @property
    def agent_kind(self) -> Kind:
        """EvolvingAgents, as far as they are this installation's to look after.

        Children are watched whosesoever they are: those of other agents are known, and left alone.
        """
        return replace(AGENT, selector=self.settings.label_selector)

    def _informers(self, kind: Kind) -> list[Informer]:
        return [
            Informer(self.source, self.cache, kind, namespace, self.news)
            for namespace in self.settings.namespaces or (None,)
        ]

    def news(self, key: AgentKey) -> None:
        """An object of the agent's has changed. Who begins to decide looks at all that there are."""
        if self._is_deciding:
            self.queue.add(key)

    @property
    def probes(self) -> Probes:
        return Probes(
            unhealthy=lambda: (
                f"no heartbeat for {self.telemetry.heartbeat.age:.0f} s"
                if self.telemetry.heartbeat.age > _FROZEN_SECONDS
                else None
            ),
            unready=lambda: None if self.synced.is_set() else "the first lists are not complete",
        )

    async def work(self) -> None:
        """Watch for ever; decide while leading. Raises what ends it."""
        await self._list_until_complete()
        # What is loaded by now stays; to look through it for garbage would hold everything up for 100 ms.
        gc.freeze()
        self.synced.set()
        jobs = [informer.run() for informer in self._owned]
        await _all_or_none([*jobs, self._list_the_rest(), self._list_agents(), self._lead()])

    async def _lead(self) -> None:
        """Wait for the Lease, then decide until it is lost.

        What was listed is decided upon before kopf begins to watch; who waits for the Lease needs that.
        """
        loop = asyncio.get_running_loop()
        standby = loop.call_later(_STANDBY_SECONDS, self.watches_due.set)
        fence = Fence(self.gateway, self._leadership)
        try:
            await self._leadership.acquire()
            standby.cancel()
            loop.call_later(_HEAD_START_SECONDS, self.watches_due.set)
            self.telemetry.leader.set(1)
            await self._work(self._leadership, fence)
        finally:
            self.telemetry.leader.set(0)
            if fence.is_clean:
                await self._leadership.release()
            else:
                logger.warning("a write was cut off: the Lease is left to run out")

    async def _work(self, leadership: Leadership, fence: Fence) -> None:
        async with PodClient() as pods:
            traffic = TrafficWatch(pods.served, self.queue.add, self.telemetry.pod_asked)
            reconciler = Reconciler(
                fence,
                self.cache,
                self.settings.images,
                patience=_PATIENCE,
                traffic=traffic,
                on_agent=self.telemetry.agent_changed,
                on_revision=self.telemetry.revision_changed,
                on_end=self.telemetry.agent_is_gone,
            )
            for key in self.cache.known():
                self.queue.add_to_backlog(key)
            self._is_deciding = True
            jobs: list[Awaitable[None]] = [leadership.keep(), self._resync()]
            jobs += [self._worker(reconciler) for _ in range(self.settings.workers)]
            try:
                await _all_or_none(jobs, before_leaving=lambda: fence.close(_LAST_WRITES_SECONDS))
            finally:
                await traffic.close()

    async def _worker(self, reconciler: Reconciler) -> None:
        while True:
            if not len(self.queue):
                self.watches_due.set()
            key = await self.queue.take()
            started = time.monotonic()
            try:
                result = await self._reconcile(reconciler, key)
            finally:
                self.queue.done(key)
            self.telemetry.reconciled(result, time.monotonic() - started)
            # A decision to do nothing waits for nothing: thousands in a row would hold the Lease up.
            await asyncio.sleep(0)

    async def _reconcile(self, reconciler: Reconciler, key: AgentKey) -> str:
        """One reconciliation, and when to do the next. Returns the result's name for the metrics."""
        where = {"namespace": key[0], "agent": key[1]}
        if key[0] in self._unlisted:
            return "unlisted"  # it is taken up with its namespace
        try:
            delay = await reconciler.reconcile(key)
        except (Conflict, NotFound) as error:
            # The cache lags behind; the watch is bringing what is missing.
            logger.debug("outdated", extra={**where, "error": str(error)})
            self.queue.retry(key)
            return "conflict"
        except Unavailable as error:
            wait = self.queue.retry(key, at_least=error.retry_after or 0.0)
            logger.warning("API server unavailable", extra={**where, "error": str(error), "retry_in": wait})
            return "unavailable"
        except Refused as error:
            wait = self.queue.retry(key)
            logger.error("refused", extra={**where, "error": str(error), "retry_in": wait})
            return "refused"
        except LeadershipLostError:
            raise
        except Exception:
            self.queue.retry(key)
            logger.exception("failed", extra=where)
            return "error"
        self.queue.succeeded(key)
        if delay is not None:
            self.queue.add_after(key, delay)
        return "success"

    async def _resync(self) -> None:
        """Now and then, list everything: an object that went while a watch was broken is found out so."""
        while True:
            seconds = self.settings.resync_seconds
            await asyncio.sleep(seconds * self.chance.uniform(0.8, 1.2))
            try:
                await self._list()
            except ClusterError as error:
                logger.warning("lists failed", extra={"error": str(error)})
            for key in self.cache.known():
                self.queue.add_after(key, self.chance.uniform(0, seconds / 2))

    async def _list_until_complete(self) -> None:
        """To decide upon half a cache would be to create what is there already.

        A namespace that may not be read (it was deleted, and its Role with it) does not hold up the others.
        """
        while True:
            informers = (*self._agents, *self._owned)
            answers = await asyncio.gather(*(item.list() for item in informers), return_exceptions=True)
            failed = {
                informer.namespace: answer
                for informer, answer in zip(informers, answers, strict=True)
                if isinstance(answer, BaseException)
            }
            for error in failed.values():
                if not isinstance(error, ClusterError):
                    raise error
                logger.warning("lists failed", extra={"error": str(error)})
            if all(isinstance(error, Forbidden) for error in failed.values()):
                self._unlisted = {namespace for namespace in failed if namespace is not None}
                if len(self._unlisted) < len(self.settings.namespaces or (None,)) and None not in failed:
                    return
            self.telemetry.heartbeat.beat()  # no watch has begun, so none can be frozen
            await asyncio.sleep(_LIST_RETRY_SECONDS)

    async def _list_the_rest(self) -> None:
        """Take up the namespaces that could not be read at the start, once they can."""
        while self._unlisted:
            await asyncio.sleep(_UNLISTED_RETRY_SECONDS)
            for namespace in sorted(self._unlisted):
                theirs = [item for item in (*self._agents, *self._owned) if item.namespace == namespace]
                try:
                    await asyncio.gather(*(informer.list() for informer in theirs))
                except ClusterError as error:
                    what = {"namespace": namespace, "error": str(error)}
                    logger.warning("a namespace cannot be read: its agents wait", extra=what)
                    continue
                self._unlisted.discard(namespace)
                for key in self.cache.known():
                    if key[0] == namespace:
                        self.news(key)

    async def _list(self) -> None:
        """All of them, to the end, even where one fails: the next try may not run into what is left of it."""
        informers = (*self._agents, *self._owned)
        lists = (item.list() for item in informers if item.namespace not in self._unlisted)
        for outcome in await asyncio.gather(*lists, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def lease_was_seen(self, lease: dict[str, Any]) -> None:
        """By a watch."""
        self._leadership.seen(lease)

    def agents_were_listed(self) -> None:
        """kopf's watch begins anew: soon, find out which agents went meanwhile. A list does not tell of them,
        and of an empty one kopf tells nothing at all."""
        self._agents_due.set()

    async def _list_agents(self) -> None:
        while True:
            await self._agents_due.wait()
            await asyncio.sleep(_AFTER_LIST_SECONDS)
            self._agents_due.clear()
            known = [item for item in self._agents if item.namespace not in self._unlisted]
            answers = await asyncio.gather(*(item.list() for item in known), return_exceptions=True)
            failed = [answer for answer in answers if isinstance(answer, BaseException)]
            for error in failed:
                if not isinstance(error, ClusterError):
                    raise error
                logger.warning("lists failed", extra={"error": str(error)})
            # What may not be read, a namespace that is gone for example, is not asked for again and again.
            if not all(isinstance(error, Forbidden) for error in failed):
                self.agents_were_listed()


async def _all_or_none(
    jobs: list[Awaitable[None]], before_leaving: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Run all of them; the first that fails ends the others and is raised as itself.

    Who is told to stop, and does not fail, does what is to be done `before_leaving` first.
    """
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    except asyncio.CancelledError:
        if before_leaving is not None:
            await before_leaving()
        raise
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
