"""What the watches have told, by agent. The operator decides upon this, never upon single reads."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Set
from typing import Any

from evolving_operator.cluster.kinds import AGENT, Kind
from evolving_operator.cluster.records import AgentKey, ObjectKey, Record

Raw = dict[str, Any]

_MAX_TOMBSTONES = 50_000


class Cache:
    """The newest version of every object wins, whether a watch, a list or an own write brought it."""

    def __init__(self) -> None:
        self._by_kind: defaultdict[str, dict[ObjectKey, Record]] = defaultdict(dict)
        self._by_agent: dict[AgentKey, dict[ObjectKey, Record]] = {}
        # A watch may still tell of an object after its end was seen: nothing of its UID up to this version
        # is let in again. (Later ones are: an agent that left the label selector may come back.)
        self._tombstones: OrderedDict[str, int] = OrderedDict()

    def put(self, raw: Raw) -> tuple[AgentKey, ...]:
        """Take in a version of an object. Returns the agents for which that is news: its own, and another's
        that it was before."""
        return self.take_in(Record.of(raw))

    def take_in(self, record: Record) -> tuple[AgentKey, ...]:
        """`put`, of an object that is parsed already."""
        if record.version <= self._tombstones.get(record.uid, -1):
            return ()
        records = self._by_kind[record.key[0]]
        known = records.get(record.key)
        if known is not None and record.version <= known.version:
            return ()
        if known is not None and known.agent != record.agent:
            self._drop(known)
        if record.agent is not None:
            records[record.key] = record
            self._by_agent.setdefault(record.agent, {})[record.key] = record
        return _agents_of(known, record)

    def remove(self, raw: Raw) -> tuple[AgentKey, ...]:
        """The object has ended. Returns the agents for which that is news."""
        return self.take_out(Record.of(raw))

    def take_out(self, record: Record) -> tuple[AgentKey, ...]:
        """`remove`, of an object that is parsed already; its version is that of its end."""
        self._bury(record.uid, record.version)
        known = self._by_kind[record.key[0]].get(record.key)
        if known is not None and known.uid == record.uid and known.version <= record.version:
            self._drop(known)
            return _agents_of(known, record)
        return _agents_of(None, record)

    def forget(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        """The object of this name and UID is known to be gone.

        The UID matters: by the time the answer that tells so is read, a watch may have brought another
        object of the name. Later versions are let in again, though they hardly last until their end is told:
        should the answer have been wrong, the object would be overlooked for ever.
        """
        known = self._by_kind[kind].get((kind, namespace, name))
        if known is not None and uid in (None, known.uid):
            self._bury(known.uid, known.version)
            self._drop(known)

    def reconcile(
        self, kind: Kind, namespace: str | None, items: Iterable[Raw], version: str
    ) -> set[AgentKey]:
        """Take in a complete list, and drop what is not in it. Returns the agents for which that is news."""
        news, listed = set[AgentKey](), set[ObjectKey]()
        for raw in items:
            record = Record.of({"apiVersion": kind.api_version, "kind": kind.kind, **raw})
            listed.add(record.key)
            news.update(self.take_in(record))
        return news | self.drop_unlisted(kind, namespace, listed, version)

    def drop_unlisted(
        self, kind: Kind, namespace: str | None, listed: Set[ObjectKey], version: str
    ) -> set[AgentKey]:
        """Drop what a complete list of this version does not have. Returns the agents of it.

        A watch that starts anew tells of what there is, but not of what went while it was broken.
        """
        gone = [
            record
            for key, record in self._by_kind[kind.kind].items()
            if key not in listed and namespace in (None, key[1]) and record.version <= int(version)
        ]
        for record in gone:
            self._bury(record.uid, int(version))
            self._drop(record)
        return {record.agent for record in gone if record.agent is not None}

    def agents(self) -> Iterator[Raw]:
        """As they are now; another thread may take its time with them."""
        return (record.raw() for record in list(self._by_kind[AGENT.kind].values()))

    def known(self) -> list[AgentKey]:
        """All agents of which there is anything; of some, only what they have left."""
        return list(self._by_agent)

    def agent(self, key: AgentKey) -> Raw | None:
        record = self._by_kind[AGENT.kind].get((AGENT.kind, *key))
        return None if record is None else record.raw()

    def owned(self, key: AgentKey) -> list[Raw]:
        """All that belongs to the agent, the agent itself left out."""
        records = self._by_agent.get(key, {}).values()
        return [record.raw() for record in records if record.key[0] != AGENT.kind]

    def _drop(self, known: Record) -> None:
        del self._by_kind[known.key[0]][known.key]
        if known.agent is not None and known.agent in self._by_agent:
            self._by_agent[known.agent].pop(known.key, None)
            if not self._by_agent[known.agent]:
                del self._by_agent[known.agent]

    def _bury(self, uid: str, version: int) -> None:
        self._tombstones[uid] = version
        if len(self._tombstones) > _MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)


def _agents_of(known: Record | None, record: Record) -> tuple[AgentKey, ...]:
    """Of two versions of an object."""
    agents = dict.fromkeys((record.agent, known.agent if known is not None else None))
    return tuple(agent for agent in agents if agent is not None)
