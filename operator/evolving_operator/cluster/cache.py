"""What the watches have told, by agent. The operator decides upon this, never upon single reads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from evolving_operator.api import names
from evolving_operator.cluster.kinds import AGENT, Kind

Raw = dict[str, Any]
AgentKey = tuple[str, str]  # namespace, name
_ObjectKey = tuple[str, str, str]  # kind, namespace, name

_MAX_TOMBSTONES = 50_000
_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
    "annotations",
)
# Of these only the metadata is ever looked at.
_BARE = frozenset({"Service", "ServiceAccount", "PersistentVolumeClaim", "PodDisruptionBudget", "CronJob"})


def agent_key(raw: Raw) -> AgentKey | None:
    """The agent that an object belongs to; None where it belongs to none."""
    metadata = raw["metadata"]
    if raw["kind"] == names.AGENT_KIND:
        return metadata["namespace"], metadata["name"]
    if raw["kind"] == names.REVISION_KIND:
        name = raw.get("spec", {}).get("agentRef", {}).get("name")
    else:
        name = (metadata.get("labels") or {}).get(names.LABEL_AGENT)
    return (metadata["namespace"], name) if name else None


class Cache:
    """The newest version of every object wins, whether a watch, a list or an own write brought it."""

    def __init__(self) -> None:
        self._objects: dict[_ObjectKey, Raw] = {}
        self._by_agent: dict[AgentKey, dict[_ObjectKey, Raw]] = {}
        # A watch may still tell of an object after its end was seen: its UID is not let in again.
        self._tombstones: OrderedDict[str, None] = OrderedDict()

    def put(self, raw: Raw) -> AgentKey | None:
        """Take in a version of an object. Returns its agent, where that is news about it."""
        key, metadata = _key(raw), raw["metadata"]
        if metadata["uid"] in self._tombstones:
            return None
        known = self._objects.get(key)
        if known is not None and not _is_newer(raw, known):
            return None
        agent = agent_key(raw)
        if known is not None and agent_key(known) != agent:
            self._drop(key, known)
        if agent is None:
            return None
        kept = _without_ballast(raw)
        self._objects[key] = kept
        self._by_agent.setdefault(agent, {})[key] = kept
        return agent

    def remove(self, raw: Raw) -> AgentKey | None:
        """The object has ended. Returns its agent."""
        self._bury(raw["metadata"]["uid"])
        key = _key(raw)
        known = self._objects.get(key)
        if known is not None and known["metadata"]["uid"] == raw["metadata"]["uid"]:
            self._drop(key, known)
        return agent_key(raw)

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """The object of this name is known to be gone."""
        known = self._objects.get((kind, namespace, name))
        if known is not None:
            self.remove(known)

    def reconcile(
        self, kind: Kind, namespace: str | None, items: Iterable[Raw], version: str
    ) -> set[AgentKey]:
        """Take in a complete list, and drop what is not in it. Returns the agents for which that is news.

        A watch that starts anew tells of what there is, but not of what went while it was broken.
        """
        news: set[AgentKey] = set()
        listed: set[_ObjectKey] = set()
        for raw in items:
            raw.setdefault("apiVersion", kind.api_version)
            raw.setdefault("kind", kind.kind)
            listed.add(_key(raw))
            if (agent := self.put(raw)) is not None:
                news.add(agent)
        for key, raw in list(self._objects.items()):
            is_in_scope = key[0] == kind.kind and namespace in (None, key[1])
            is_older = int(raw["metadata"]["resourceVersion"]) <= int(version)
            if not is_in_scope or not is_older or key in listed:
                continue
            if (agent := self.remove(raw)) is not None:
                news.add(agent)
        return news

    def agents(self) -> Iterator[Raw]:
        return (raw for key, raw in self._objects.items() if key[0] == AGENT.kind)

    def agent(self, key: AgentKey) -> Raw | None:
        return self._objects.get((AGENT.kind, *key))

    def owned(self, key: AgentKey) -> list[Raw]:
        """All that belongs to the agent, the agent itself left out."""
        return [raw for raw in self._by_agent.get(key, {}).values() if raw["kind"] != AGENT.kind]

    def _drop(self, key: _ObjectKey, known: Raw) -> None:
        del self._objects[key]
        agent = agent_key(known)
        if agent is not None and agent in self._by_agent:
            self._by_agent[agent].pop(key, None)
            if not self._by_agent[agent]:
                del self._by_agent[agent]

    def _bury(self, uid: str) -> None:
        self._tombstones[uid] = None
        if len(self._tombstones) > _MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)


def _key(raw: Raw) -> _ObjectKey:
    metadata = raw["metadata"]
    return raw["kind"], metadata["namespace"], metadata["name"]


def _is_newer(raw: Raw, known: Raw) -> bool:
    """Resource versions of one kind are comparable numbers (guaranteed since Kubernetes 1.35)."""
    return int(raw["metadata"]["resourceVersion"]) > int(known["metadata"]["resourceVersion"])


def _without_ballast(raw: Raw) -> Raw:
    """Without what nobody asks for: on large clusters it is most of the memory."""
    metadata = {key: raw["metadata"][key] for key in _METADATA if key in raw["metadata"]}
    kept: Raw = {"apiVersion": raw["apiVersion"], "kind": raw["kind"], "metadata": metadata}
    if raw["kind"] in _BARE:
        return kept
    if raw["kind"] == "Deployment":
        template = raw["spec"]["template"].get("metadata", {}).get("annotations", {})
        spec = {
            "replicas": raw["spec"].get("replicas", 1),
            "template": {"metadata": {"annotations": template}},
        }
        return {**kept, "spec": spec, "status": raw.get("status", {})}
    if raw["kind"] == "Pod":
        return {**kept, "status": raw.get("status", {})}
    return {**raw, "metadata": metadata}
