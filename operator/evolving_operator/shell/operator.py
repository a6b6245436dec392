"""The operator's process: watch always, decide while leading, leave in good order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import signal
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import kopf

from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.connection import Connection
from evolving_operator.cluster.errors import ClusterError, Conflict, Forbidden, NotFound, Refused, Unavailable
from evolving_operator.cluster.gateway import Gateway
from evolving_operator.cluster.informer import Informer, Source
from evolving_operator.cluster.kinds import AGENT, LEASE, OWNED, Kind
from evolving_operator.cluster.live import LiveGateway
from evolving_operator.cluster.pods import PodClient
from evolving_operator.cluster.records import AgentKey
from evolving_operator.settings import Settings
from evolving_operator.shell import telemetry as telemetry_server
from evolving_operator.shell.fence import Fence
from evolving_operator.shell.handlers import registered, watch_settings
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
_STOP_SECONDS = 10.0
_END_SECONDS = 3.0
_FIRST_BACKOFF, _LAST_BACKOFF = 0.1, 10.0
_AFTER_LIST_SECONDS = 5.0
_PATIENCE = timedelta(seconds=0.5)
# kopf lists the agents once more, which takes half as long as all that comes before.
_HEAD_START_SECONDS = 20.0
_STANDBY_SECONDS = 1.0
# A process that is told to stop waits so long for its writes: the next one is to lead within three seconds.
_LAST_WRITES_SECONDS = 1.5
# Objects between two searches for garbage. A decision makes thousands and hardly any are cycles: Python's 700
# would search through them several times while it is made (6 % of a start on thousands of agents).
_GARBAGE_THRESHOLDS = (50_000, 20, 20)


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises what ended it otherwise: a lost Lease, a watch that gave up."""
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    connection = Connection.load()
    lease = LeaseSettings(settings.lease_namespace, settings.lease_name, settings.lease_seconds)
    cache, queue = Cache(), WorkQueue[AgentKey]()
    telemetry = Telemetry(cache, queue.__len__)
    async with LiveGateway(connection, telemetry.requested) as gateway:
        operator = Operator(settings, gateway, gateway, cache, queue, telemetry, lease)
        server = await telemetry_server.serve(telemetry, operator.probes, settings.metrics_port)
        try:
            await _until_stopped(operator, gateway, connection)
        finally:
            await server.cleanup()


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
    _listing: asyncio.TimerHandle | None = None
    _background: set[asyncio.Task[None]] = field(default_factory=set)

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
        """An object of the agent's has changed; while nobody decides, it is one of all that there are."""
        (self.queue.add if self._is_deciding else self.queue.add_to_backlog)(key)

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
        await _all_or_none([*jobs, self._list_the_rest(), self._lead()])

    async def _lead(self) -> None:
        """Wait for the Lease, then decide until it is lost.

        What was listed is decided upon before kopf begins to watch; who waits for the Lease needs that.
        """
        loop = asyncio.get_running_loop()
        standby = loop.call_later(_STANDBY_SECONDS, self.watches_due.set)
        await self._leadership.acquire()
        standby.cancel()
        loop.call_later(_HEAD_START_SECONDS, self.watches_due.set)
        self.telemetry.leader.set(1)
        fence = Fence(self.gateway, self._leadership)
        try:
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
            for key in self.cache.agent_keys():
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
            for key in self.cache.agent_keys():
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
                for key in self.cache.agent_keys():
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
        """It came back through a watch of kopf's: that watch lives."""
        self.telemetry.heartbeat.beat()
        self._leadership.seen(lease)

    def agents_were_listed(self) -> None:
        """kopf's watch began anew: soon, find out which agents went meanwhile."""
        if self._listing is None:
            loop = asyncio.get_running_loop()
            self._listing = loop.call_later(_AFTER_LIST_SECONDS, self._list_agents)

    def _list_agents(self) -> None:
        async def listed() -> None:
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

        self._listing = None
        self._background.add(task := asyncio.create_task(listed(), name="agents"))
        task.add_done_callback(self._background.discard)


async def _until_stopped(operator: Operator, gateway: LiveGateway, connection: Connection) -> None:
    """Run kopf's watches and our work side by side, until the work ends or a signal comes."""
    stopping, watches_stop = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def heed_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)

    heed_signals()
    watching = Watching(operator, gateway, connection, watches_stop, heed_signals)
    watches = asyncio.create_task(watching.run(), name="watches")
    work = asyncio.create_task(operator.work(), name="work")
    stop = asyncio.create_task(stopping.wait(), name="stop")
    await asyncio.wait({watches, work, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not work.done():
        work.cancel()
    await asyncio.wait({work})
    watches_stop.set()
    operator.watches_due.set()  # they may still wait to begin
    await asyncio.wait({watches}, timeout=_STOP_SECONDS)
    watches.cancel()  # a request of theirs may not be answered for long
    for outcome in await asyncio.gather(work, watches, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
    if not stopping.is_set():
        raise RuntimeError("the watches ended by themselves")


@dataclass
class Watching:
    """kopf's watches, begun again whenever they end.

    At the first thing that it does not know how to live with (an error in a watch that is no 410, a line that
    is no JSON, a kind that is not served for a moment) kopf gives up all of them. To end the process
    for that would be to wait for it longer and longer, where it happens again and again.
    """

    operator: Operator
    gateway: LiveGateway
    connection: Connection
    stop: asyncio.Event
    heed_signals: Callable[[], None]

    async def run(self) -> None:
        """Until it is time to stop."""
        failures, is_first = 0, True
        loop = asyncio.get_running_loop()
        kinds = (self.operator.agent_kind, LEASE)
        while await self._are_served(kinds, is_first):
            await self.operator.watches_due.wait()
            if self.stop.is_set():
                return
            began, reason = loop.time(), "no reason"
            try:
                await self._watch()
            except Exception as error:  # whatever it was: begin again
                reason = str(error) or type(error).__name__
            if self.stop.is_set():
                return
            is_first = False
            failures = 0 if loop.time() - began > _LAST_BACKOFF else failures + 1
            backoff = min(_LAST_BACKOFF, _FIRST_BACKOFF * 2 ** min(failures, 20))
            logger.warning("watches begin again", extra={"error": reason, "retry_in": backoff})
            await self._pause(backoff)

    async def _watch(self) -> None:
        operator, sessions = self.operator, list[aiohttp.ClientSession]()
        registry = registered(
            operator.agent_kind,
            operator.cache,
            operator.news,
            login=_login(self.connection, sessions),
            on_list=operator.agents_were_listed,
            on_lease=operator.lease_was_seen,
        )
        namespaces = operator.settings.namespaces
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=watch_settings(operator.agent_kind, operator.lease),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=self.stop,
        )
        # After kopf has set its own handlers: the Lease is released first, the watches end last.
        self.heed_signals()
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            await _end_kopf()
            for session in sessions:
                await session.close()

    async def _are_served(self, kinds: Sequence[Kind], is_first: bool) -> bool:
        """Wait for the API server to serve the kinds; False where it is time to stop.

        kopf asks once what there is, and never watches what was missing then. While nothing is watched yet,
        no watch can be frozen: to be restarted would help nobody, and each time it would take longer.
        """
        while not self.stop.is_set():
            try:
                missing = [kind.kind for kind in kinds if not await self.gateway.serves(kind)]
                if not missing:
                    return True
                logger.warning("not served (are the CRDs installed?)", extra={"kinds": missing})
                self.operator.telemetry.heartbeat.beat()
            except ClusterError as error:
                logger.warning("discovery failed", extra={"error": str(error)})
                if is_first:
                    self.operator.telemetry.heartbeat.beat()
            await self._pause(_LIST_RETRY_SECONDS)
        return False

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)


async def _end_kopf() -> None:
    """End every task of kopf's. Left to itself, it waits for watches that wait for credentials, for ever."""
    directory = str(Path(kopf.__file__).parent)

    def found() -> set[asyncio.Task[Any]]:
        codes = ((task, getattr(task.get_coro(), "cr_code", None)) for task in asyncio.all_tasks())
        return {task for task, code in codes if code and code.co_filename.startswith(directory)}

    # Watches first: what they wait for may not end before they have ceased to wait.
    for concerned in (
        lambda task: task.get_name().startswith("watcher for "),
        lambda _: True,
        lambda _: True,
    ):
        tasks = set(filter(concerned, found()))
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*(asyncio.wait({task}, timeout=_END_SECONDS) for task in tasks))
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()  # seen: another task has passed it on, or there are several of a kind


def _login(connection: Connection, sessions: list[aiohttp.ClientSession]) -> Callable[..., Any]:
    """kopf's requests carry our credentials. Where it asks for another session, the last one is closed."""

    async def login(**_: Any) -> kopf.AiohttpSession:
        sessions[:] = [*(other for other in sessions if not other.closed), connection.session(is_kopfs=True)]
        return kopf.AiohttpSession(server=connection.server, aiohttp_session=sessions[-1])

    return login


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
