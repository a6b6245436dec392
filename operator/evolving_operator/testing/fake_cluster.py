"""A cluster in memory: what the API server promises, as far as the operator relies on it, and its faults.

It keeps resource versions, UIDs and generations, refuses stale status writes and taken names, and lets
owned objects go with their owner. It runs nothing: tests play the controllers and kubelet (`fake_node`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from evolving_operator.api import names
from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.errors import AlreadyExists, ClusterError, Conflict, NotFound
from evolving_operator.cluster.kinds import CACHED, Kind, kind_of
from evolving_operator.core.clock import rfc3339
from evolving_operator.core.plan import Manifest, ObjectRef

Raw = dict[str, Any]
ObjectKey = tuple[str, str, str]  # kind, namespace, name
_KEPT = ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "finalizers")
Watcher = Callable[[str, Raw], None]  # "ADDED", "MODIFIED" or "DELETED", and the object


class Crash(BaseException):
    """The operator dies here. No `except Exception` may stop it, as none stops SIGKILL."""


@dataclass
class Fault:
    """What happens at the n-th write from now (0 is the next): before it takes effect, or after.

    With a `kind`, only writes of objects of that kind count.
    """

    at: int
    error: ClusterError | Crash
    when: Literal["before", "after"] = "before"
    kind: str = ""


@dataclass
class Write:
    """One write that took effect."""

    verb: str
    kind: str
    name: str


@dataclass
class FakeCluster:
    """A `Gateway`. `clock` gives the time of creation; tests move it."""

    clock: Callable[[], datetime] = lambda: datetime(2026, 1, 1, tzinfo=UTC)
    faults: list[Fault] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    watchers: list[Watcher] = field(default_factory=list)
    _objects: dict[ObjectKey, Raw] = field(default_factory=dict)
    _version: int = 100

    # --- the gateway ---

    async def apply(self, manifest: Manifest) -> Raw:
        self._strike("before", manifest["kind"])
        known = self._objects.get(_key(manifest))
        if manifest["metadata"].get("uid") not in (None, known["metadata"]["uid"] if known else None):
            raise Conflict(f"{manifest['kind']} {manifest['metadata']['name']}: uid mismatch")
        others = [] if known is None else known["metadata"].get("managedFields", [])[1:]
        if "replicas" in manifest.get("spec", {}):  # taken over by force
            others = [entry for entry in others if entry.get("subresource") != "scale"]
        metadata = {**manifest["metadata"], "managedFields": [_applied_entry(manifest), *others]}
        wanted = {**manifest, "metadata": metadata}
        if known is None:
            stored = self._insert(wanted)
        else:
            stored = self._update(known, _merged(known, _owned(known), wanted))
        return self._written("apply", stored)

    async def apply_new(self, manifest: Manifest) -> Raw:
        if _key(manifest) in self._objects:
            self._strike("before", manifest["kind"])
            raise Conflict(f"{manifest['kind']} {manifest['metadata']['name']}: the object has been modified")
        return await self.apply(manifest)

    async def find(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        return self.get(kind.kind, name, namespace)

    async def overwrite(self, manifest: Manifest) -> Raw:
        self._strike("before", manifest["kind"])
        known = self._known(manifest)
        return self._written("overwrite", self._update(known, _merged(known, {}, manifest)))

    async def apply_status(self, manifest: Manifest) -> Raw:
        self._strike("before", manifest["kind"])
        known = self._known(manifest)
        wanted = manifest["metadata"]
        if wanted.get("uid") not in (None, known["metadata"]["uid"]):
            raise Conflict(f"{manifest['kind']} {wanted['name']}: another object of that name")
        if wanted.get("resourceVersion") not in (None, known["metadata"]["resourceVersion"]):
            raise Conflict(f"{manifest['kind']} {wanted['name']}: the object has been modified")
        status = copy.deepcopy(manifest["status"])
        there, own = known.get("status", {}).get("conditions", ()), names.CONDITIONS[manifest["kind"]]
        if others := [item for item in there if item["type"] not in own]:
            status["conditions"] = [*status.get("conditions", ()), *others]
        if known.get("status") != status:
            known["status"] = status
            self._touch(known)
        return self._written("apply_status", known)

    async def create(self, manifest: Manifest) -> Raw:
        self._strike("before", manifest["kind"])
        if _key(manifest) in self._objects:
            raise AlreadyExists(f"{manifest['kind']} {manifest['metadata']['name']}")
        return self._written("create", self._insert(manifest))

    async def delete(self, ref: ObjectRef) -> Raw | None:
        self._strike("before", ref.kind)
        known = self._objects.get((ref.kind, ref.namespace, ref.name))
        if known is None:
            raise NotFound(f"{ref.kind} {ref.name}")
        if ref.uid not in (None, known["metadata"]["uid"]):
            raise Conflict(f"{ref.kind} {ref.name}: another object of that name")
        self.remove(ref.kind, ref.name, ref.namespace)
        self._written("delete", known)
        return None

    async def read(self, kind: Kind, namespace: str, name: str) -> Raw:
        return copy.deepcopy(
            self._known({"kind": kind.kind, "metadata": {"namespace": namespace, "name": name}})
        )

    async def replace(self, manifest: Manifest) -> Raw:
        self._strike("before", manifest["kind"])
        known = self._known(manifest)
        if manifest["metadata"].get("resourceVersion") != known["metadata"]["resourceVersion"]:
            raise Conflict(f"{manifest['kind']} {manifest['metadata']['name']}: it has been modified")
        return self._written("replace", self._update(known, manifest))

    # --- what tests do to it, without faults and without being counted ---

    def listed(self, kind: Kind, namespace: str | None) -> tuple[list[Raw], str]:
        """What a list would bring, and its resourceVersion."""
        items = [
            copy.deepcopy(raw)
            for key, raw in self._objects.items()
            if key[0] == kind.kind and namespace in (None, key[1])
        ]
        return items, str(self._version)

    def put(self, manifest: Manifest) -> Raw:
        """Create or change an object as a user, a controller or kubelet would."""
        known = self._objects.get(_key(manifest))
        stored = self._insert(manifest) if known is None else self._update(known, _disowned(known, manifest))
        if "status" in manifest and stored.get("status") != manifest["status"]:
            stored["status"] = copy.deepcopy(manifest["status"])
            self._touch(stored)
        return copy.deepcopy(stored)

    def get(self, kind: str, name: str, namespace: str = "default") -> Raw | None:
        found = self._objects.get((kind, namespace, name))
        return None if found is None else copy.deepcopy(found)

    def all(self, kind: str) -> list[Raw]:
        return [copy.deepcopy(raw) for key, raw in sorted(self._objects.items()) if key[0] == kind]

    def remove(self, kind: str, name: str, namespace: str = "default") -> None:
        """Delete an object and, as the garbage collector would, what it owns."""
        gone = self._objects.pop((kind, namespace, name))
        self._version += 1
        self._tell("DELETED", gone)
        for raw in list(self._objects.values()):
            owners = raw["metadata"].get("ownerReferences") or []
            if owners and all(owner["uid"] == gone["metadata"]["uid"] for owner in owners):
                self.remove(raw["kind"], raw["metadata"]["name"], raw["metadata"]["namespace"])

    def hold(self, kind: str, name: str, finalizer: str, namespace: str = "default") -> None:
        """Somebody deletes the object, and the finalizer keeps it until `remove`."""
        known = self._objects[(kind, namespace, name)]
        known["metadata"] |= {"deletionTimestamp": rfc3339(self.clock()), "finalizers": [finalizer]}
        self._touch(known)

    def filled_cache(self) -> Cache:
        """A cache as an operator that starts now fills it."""
        cache = Cache()
        for kind in CACHED:
            items = [raw for raw in self.all(kind.kind) if _matches(kind, raw)]
            cache.reconcile(kind, None, items, str(self._version))
        return cache

    # --- inside ---

    def _insert(self, manifest: Manifest) -> Raw:
        stored = copy.deepcopy(manifest)
        self._version += 1
        stored["metadata"] |= {
            "uid": f"uid-{self._version}",
            "resourceVersion": str(self._version),
            "generation": 1,
            "creationTimestamp": manifest["metadata"].get("creationTimestamp") or rfc3339(self.clock()),
        }
        stored.pop("status", None)
        self._objects[_key(stored)] = stored
        self._tell("ADDED", stored)
        return stored

    def _update(self, known: Raw, manifest: Manifest) -> Raw:
        """Whole objects by one manager: what it no longer names is gone; the status is not its to say."""
        body = {key: value for key, value in manifest.items() if key not in ("metadata", "status")}
        kept = {key: known["metadata"][key] for key in _KEPT if key in known["metadata"]}
        metadata = copy.deepcopy(manifest["metadata"]) | kept
        before = {key: value for key, value in known.items() if key not in ("metadata", "status")}
        if body != before:
            metadata["generation"] += 1
        if body != before or metadata != known["metadata"]:
            status = {"status": known["status"]} if "status" in known else {}
            known.clear()
            known.update({**copy.deepcopy(body), "metadata": metadata, **status})
            self._touch(known)
        return known

    def _known(self, manifest: Manifest) -> Raw:
        known = self._objects.get(_key(manifest))
        if known is None:
            raise NotFound(f"{manifest['kind']} {manifest['metadata']['name']}")
        return known

    def _touch(self, raw: Raw) -> None:
        self._version += 1
        raw["metadata"]["resourceVersion"] = str(self._version)
        self._tell("MODIFIED", raw)

    def _tell(self, event: str, raw: Raw) -> None:
        try:
            kind = kind_of(raw["apiVersion"], raw["kind"])
        except KeyError:
            return
        if kind in CACHED and _matches(kind, raw):
            for watcher in self.watchers:
                watcher(event, copy.deepcopy(raw))

    def _written(self, verb: str, stored: Raw) -> Raw:
        self.writes.append(Write(verb, stored["kind"], stored["metadata"]["name"]))
        answer = copy.deepcopy(stored)
        self._strike("after", stored["kind"])
        return answer

    def _strike(self, when: Literal["before", "after"], kind: str) -> None:
        """Count down at the beginning of a write; a fault "after" waits for the end of that write."""
        concerned = [fault for fault in self.faults if fault.kind in ("", kind)]
        for fault in concerned:
            fault.at -= when == "before"
            if fault.at < 0 and fault.when == when:
                self.faults.remove(fault)
                raise fault.error


def _applied_entry(manifest: Raw) -> Raw:
    """The record of an apply. Lists are owned as a whole here: the API server goes by their keys."""

    def tree(value: Any) -> Raw:
        if not isinstance(value, dict):
            return {}
        return {f"f:{name}": tree(item) for name, item in value.items()}

    fields = tree({key: value for key, value in manifest.items() if key not in ("apiVersion", "kind")})
    return {"manager": names.FIELD_MANAGER, "operation": "Apply", "fieldsV1": fields}


def _owned(known: Raw) -> Raw:
    """The record of what the operator applied, as far as it stands."""
    entries = known["metadata"].get("managedFields")
    return entries[0]["fieldsV1"] if entries else {}


def _disowned(known: Raw, changed: Raw) -> Raw:
    """The changed object, with a record in which the operator owns what nobody else has changed."""
    entries = changed["metadata"].get("managedFields")
    if not entries:
        return changed
    fields = [{**entries[0], "fieldsV1": _untouched(_owned(known), known, changed)}, *entries[1:]]
    return {**changed, "metadata": {**changed["metadata"], "managedFields": fields}}


def _merged(live: Raw, owned: Raw, wanted: Raw) -> Raw:
    """What an apply makes of the live object: what it says, and what others own beside it."""
    added = {key: value for key, value in live.items() if key not in wanted and f"f:{key}" not in owned}
    merged = {
        key: _merged(live[key], owned.get(f"f:{key}", {}), value)
        if isinstance(value, dict) and isinstance(live.get(key), dict)
        else value
        for key, value in wanted.items()
        if value is not None
    }
    return {**added, **merged}


def _untouched(tree: Raw, known: Any, changed: Any) -> Raw:
    """The part of the tree whose fields are the same in both."""
    kept: Raw = {}
    for key, below in tree.items():
        field_name = key.removeprefix("f:")
        if not isinstance(changed, dict) or field_name not in changed:
            continue
        old, new = known.get(field_name), changed[field_name]
        if not below:
            kept |= {key: {}} if old == new else {}
        elif rest := _untouched(below, old, new):
            kept[key] = rest
    return kept


def _matches(kind: Kind, raw: Raw) -> bool:
    return not kind.selector or kind.selector in (raw["metadata"].get("labels") or {})


def _key(raw: Raw) -> ObjectKey:
    return raw["kind"], raw["metadata"]["namespace"], raw["metadata"]["name"]
