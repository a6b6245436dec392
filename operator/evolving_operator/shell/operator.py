"""The operator's process: watch always, decide while leading, leave in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import kopf

from evolving_operator.cluster.cache import AgentKey, Cache, agent_key
from evolving_operator.cluster.errors import ClusterError, Conflict, NotFound, Refused, Unavailable
from evolving_operator.cluster.gateway import Gateway
from evolving_operator.cluster.kinds import CACHED
from evolving_operator.cluster.live import Connection, LiveGateway
from evolving_operator.settings import Settings
from evolving_operator.shell import telemetry as telemetry_server
from evolving_operator.shell.handlers import registered, watch_settings
from evolving_operator.shell.leader import Leadership, LeaseSettings
from evolving_operator.shell.reconciler import Reconciler
from evolving_operator.shell.telemetry import Probes, Telemetry
from evolving_operator.shell.workqueue import WorkQueue

logger = logging.getLogger(__name__)

# Longer than a minute of an absent API server, which a restart of ours would not bring back.
_FROZEN_SECONDS = 120
_LIST_RETRY_SECONDS = 2.0


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises what ended it otherwise: a lost Lease, a watch that gave up."""
    connection = await Connection.load()
    lease = LeaseSettings(settings.lease_namespace, settings.lease_name, settings.lease_seconds)
    cache, queue = Cache(), WorkQueue[AgentKey]()
    telemetry = Telemetry(cache, queue.__len__)
    async with LiveGateway(connection, telemetry.requested) as gateway:
        operator = Operator(settings, gateway, cache, queue, telemetry, lease)
        server = await telemetry_server.serve(telemetry, operator.probes, settings.metrics_port)
        try:
            await _until_stopped(operator, connection, settings)
        finally:
            await server.cleanup()


@dataclass
class Operator:
    """Decides and executes, from the cache, for as long as this process leads."""

    settings: Settings
    gateway: Gateway
    cache: Cache
    queue: WorkQueue[AgentKey]
    telemetry: Telemetry
    lease: LeaseSettings
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    chance: random.Random = field(default_factory=random.Random)

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

    async def lead(self) -> None:
        """Wait for the Lease, then work until it is lost."""
        await self._list_until_complete()
        self.synced.set()
        leadership = Leadership(self.gateway, self.lease, f"{self.settings.pod}_{uuid.uuid4().hex[:8]}")
        await leadership.acquire()
        self.telemetry.leader.set(1)
        try:
            await self._work(leadership)
        finally:
            self.telemetry.leader.set(0)
            await leadership.release()

    async def _work(self, leadership: Leadership) -> None:
        reconciler = Reconciler(
            self.gateway,
            self.cache,
            self.settings.images,
            on_agent=self.telemetry.agent_changed,
            on_revision=self.telemetry.revision_changed,
        )
        for raw in self.cache.agents():
            if (key := agent_key(raw)) is not None:
                self.queue.add(key)
        jobs: list[Awaitable[None]] = [leadership.keep(), self._resync()]
        jobs += [self._worker(reconciler) for _ in range(self.settings.workers)]
        await _all_or_none(jobs)

    async def _worker(self, reconciler: Reconciler) -> None:
        while True:
            key = await self.queue.take()
            started = time.monotonic()
            try:
                result = await self._reconcile(reconciler, key)
            finally:
                self.queue.done(key)
            self.telemetry.reconciled(result, time.monotonic() - started)

    async def _reconcile(self, reconciler: Reconciler, key: AgentKey) -> str:
        """One reconciliation, and when to do the next. Returns the result's name for the metrics."""
        where = {"namespace": key[0], "agent": key[1]}
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
            for raw in self.cache.agents():
                if (key := agent_key(raw)) is not None:
                    self.queue.add_after(key, self.chance.uniform(0, seconds / 2))

    async def _list_until_complete(self) -> None:
        """To decide upon half a cache would be to create what is there already."""
        while True:
            try:
                await self._list()
                return
            except ClusterError as error:
                logger.warning("lists failed", extra={"error": str(error)})
                await asyncio.sleep(_LIST_RETRY_SECONDS)

    async def _list(self) -> None:
        for namespace in self.settings.namespaces or (None,):
            for kind in CACHED:
                items, version = await self.gateway.list_all(kind, namespace)
                for key in self.cache.reconcile(kind, namespace, items, version):
                    self.queue.add(key)


async def _until_stopped(operator: Operator, connection: Connection, settings: Settings) -> None:
    """Run kopf's watches and our work side by side; the first to end ends the other."""
    stopping, watches_stop = asyncio.Event(), asyncio.Event()
    registry = registered(operator.cache, operator.queue, operator.telemetry.heartbeat, _login(connection))
    before = asyncio.all_tasks()
    kopf_tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=watch_settings(operator.lease),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        stop_flag=watches_stop,
    )
    # After kopf has set its own handlers: the Lease is released first, the watches end last.
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    watches = asyncio.create_task(kopf.run_tasks(kopf_tasks, ignored=before), name="watches")
    work = asyncio.create_task(operator.lead(), name="work")
    stop = asyncio.create_task(stopping.wait(), name="stop")
    await asyncio.wait({watches, work, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not work.done():
        work.cancel()
    await asyncio.wait({work})
    watches_stop.set()
    for outcome in await asyncio.gather(work, watches, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
    if not stopping.is_set():
        raise RuntimeError("the watches ended by themselves")


def _login(connection: Connection) -> Callable[..., Any]:
    """kopf asks again when the API server refuses the token, and gets the one of now."""

    async def login(**_: Any) -> kopf.ConnectionInfo:
        credentials = await connection.authorization()
        return kopf.ConnectionInfo(
            server=connection.server,
            ca_path=connection.ca_path,
            insecure=connection.is_insecure,
            scheme=credentials[0] if credentials else None,
            token=credentials[1] if credentials else None,
            certificate_path=connection.certificate_path,
            private_key_path=connection.private_key_path,
        )

    return login


async def _all_or_none(jobs: list[Awaitable[None]]) -> None:
    """Run all of them; the first that fails ends the others and is raised as itself."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
