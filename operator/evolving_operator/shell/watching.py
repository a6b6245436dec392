"""kopf's watches, which begin again whatever ends them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import kopf

from evolving_operator.cluster.connection import AnswerObserver, Connection
from evolving_operator.cluster.errors import ClusterError
from evolving_operator.cluster.kinds import LEASE, Kind
from evolving_operator.cluster.live import LiveGateway
from evolving_operator.shell.handlers import Raw, registered, watch_settings
from evolving_operator.shell.operator import Operator

logger = logging.getLogger(__name__)

_DISCOVERY_RETRY_SECONDS = 2.0
_FIRST_BACKOFF, _LAST_BACKOFF = 0.1, 10.0
_END_SECONDS = 3.0
_FIRST_ERROR = 400


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
    _is_blind: bool = False  # agents cannot be had, and the API server does not say why

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
            is_first, self._is_blind = False, True
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
            login=_login(self.connection, sessions, self._was_answered),
            on_lease=self._lease_was_seen,
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

    def _was_answered(self, path: str, is_watch: bool, code: int) -> None:
        """One of kopf's requests."""
        if not path.endswith(f"/{self.operator.agent_kind.plural}"):
            return
        if is_watch or code >= _FIRST_ERROR:
            self._is_blind = False
        else:
            self.operator.agents_were_listed()

    def _lease_was_seen(self, lease: Raw) -> None:
        """That watch lives. It proves nothing where it only begins again because another one cannot begin."""
        if not self._is_blind:
            self.operator.telemetry.heartbeat.beat()
        self.operator.lease_was_seen(lease)

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
            await self._pause(_DISCOVERY_RETRY_SECONDS)
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


def _login(
    connection: Connection, sessions: list[aiohttp.ClientSession], on_answer: AnswerObserver
) -> Callable[..., Any]:
    """kopf's requests carry our credentials. Where it asks for another session, the last one is closed."""

    async def login(**_: Any) -> kopf.AiohttpSession:
        sessions[:] = [*(other for other in sessions if not other.closed), connection.session(on_answer)]
        return kopf.AiohttpSession(server=connection.server, aiohttp_session=sessions[-1])

    return login
