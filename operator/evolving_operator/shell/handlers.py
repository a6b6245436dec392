"""What kopf does for us: it lists and watches. Each handler takes an event in and enqueues a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from evolving_operator.cluster.cache import AgentKey, Cache
from evolving_operator.cluster.kinds import CACHED, LEASE
from evolving_operator.shell.leader import LeaseSettings
from evolving_operator.shell.telemetry import Heartbeat
from evolving_operator.shell.workqueue import WorkQueue

# A watch is renewed by the server after this time, and broken off by us a little later if it is not.
_WATCH_SECONDS = 300
_LIST_CHUNK = 500


def registered(
    cache: Cache, queue: WorkQueue[AgentKey], heartbeat: Heartbeat, login: Callable[..., Any]
) -> kopf.OperatorRegistry:
    """The handlers, in a registry of their own. `login` answers kopf's question for credentials."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(login)

    async def seen(event: Any, **_: Any) -> None:
        agent = (cache.remove if event["type"] == "DELETED" else cache.put)(event["object"])
        if agent is not None:
            queue.add(agent)

    async def renewed(**_: Any) -> None:
        heartbeat.beat()

    for kind in CACHED:
        kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=registry)(seen)
    kopf.on.event(LEASE.group, LEASE.version, LEASE.plural, id="heartbeat", registry=registry)(renewed)
    return registry


def watch_settings(lease: LeaseSettings) -> kopf.OperatorSettings:
    """kopf as a watcher and nothing else: no patches, no Events, no peering, no scanning, no giving up."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = _WATCH_SECONDS
    settings.watching.client_timeout = _WATCH_SECONDS + 15
    settings.watching.connect_timeout = 5
    settings.watching.chunk_size = _LIST_CHUNK
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = _Backoffs()
    settings.queueing.idle_timeout = 1
    for kind in CACHED:
        if kind.selector:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.selector
    settings.watching.field_selectors[LEASE.group, LEASE.version, LEASE.plural] = (
        f"metadata.namespace={lease.namespace},metadata.name={lease.name}"
    )
    return settings


class _Backoffs:
    """Without end: a list of delays would be a number of tries. Each `iter` begins anew."""

    def __iter__(self) -> Any:
        delay = 0.1
        while True:
            yield delay
            delay = min(10.0, delay * 2)
