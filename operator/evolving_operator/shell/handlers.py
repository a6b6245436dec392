"""What kopf does for us: it watches EvolvingAgents and our Lease. A handler takes in, and tells of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.kinds import LEASE, Kind
from evolving_operator.cluster.records import AgentKey
from evolving_operator.shell.leader import LeaseSettings

Raw = dict[str, Any]

# A watch is renewed by the server after this time, and broken off by us a little later if it is not.
_WATCH_SECONDS = 300
# Bookmarks come about once a minute: a connection on which nothing comes may be dead.
_SILENT_SECONDS = 150
_LIST_CHUNK = 500


def registered(
    agents: Kind,
    cache: Cache,
    on_news: Callable[[AgentKey], None],
    *,
    login: Callable[..., Any],
    on_lease: Callable[[Raw], None],
) -> kopf.OperatorRegistry:
    """The handlers, in a registry of their own. `login` answers kopf's question for credentials.

    `on_news` is told of each agent that has changed. `on_lease` is called for every state of the Lease, and
    with nothing where it was deleted.
    """
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(login)

    async def seen(event: Any, **_: Any) -> None:
        for agent in (cache.remove if event["type"] == "DELETED" else cache.put)(event["object"]):
            on_news(agent)

    async def renewed(event: Any, **_: Any) -> None:
        on_lease({} if event["type"] == "DELETED" else event["object"])

    for kind, handler in ((agents, seen), (LEASE, renewed)):
        kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=registry)(handler)
    return registry


def watch_settings(agents: Kind, lease: LeaseSettings) -> kopf.OperatorSettings:
    """kopf as a watcher and nothing else: no patches, no Events, no peering, no scanning, no giving up."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # Ten minutes after watches that have ended, kopf would kill this process, whatever it does by then.
    settings.process.ultimate_exiting_timeout = None
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.watching.server_timeout = _WATCH_SECONDS
    settings.watching.client_timeout = _WATCH_SECONDS + 15
    settings.watching.inactivity_timeout = _SILENT_SECONDS
    settings.watching.connect_timeout = 5
    settings.watching.chunk_size = _LIST_CHUNK
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = _Backoffs()
    settings.queueing.idle_timeout = 0.1  # a list of ten thousand agents is ten thousand tasks for so long
    if agents.selector:
        settings.watching.label_selectors[agents.group, agents.version, agents.plural] = agents.selector
    settings.watching.field_selectors[LEASE.group, LEASE.version, LEASE.plural] = (
        f"metadata.namespace={lease.namespace},metadata.name={lease.name}"
    )
    return settings


class _NoDiffBase(kopf.DiffBaseStorage):
    """kopf would copy every object that comes, and compare the copy with what its handlers of changes have
    dealt with. We have none of those, and it is most of what an event costs.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        """Nothing is kept."""


class _NoProgress(kopf.ProgressStorage):
    """Of handlers that are retried: there are none."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        """Nothing is kept."""

    def purge(self, **_: Any) -> None:
        """Nothing is kept."""

    def touch(self, **_: Any) -> None:
        """Nothing is kept."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


class _Backoffs:
    """Without end: a list of delays would be a number of tries. Each `iter` begins anew."""

    def __iter__(self) -> Any:
        delay = 0.1
        while True:
            yield delay
            delay = min(10.0, delay * 2)
