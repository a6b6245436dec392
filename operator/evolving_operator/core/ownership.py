"""Drift, read from the API server's own record of who set which field (`metadata.managedFields`).

Whoever changes or removes a field that the operator applied takes that field out of the operator's entry
of the record; whoever adds a field of his own does not. So an entry that still names every field of the
desired object means that nothing of it was touched, whatever was defaulted, and whatever others keep beside
it: an annotation of a mesh, a sidecar, an image that an admission webhook rewrote while the operator applied.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from evolving_operator.api import names

Raw = Mapping[str, Any]
Tree = dict[str, Any]  # fieldsV1: "f:<field>", "k:{<keys>}" and "v:<value>" → Tree; {} is a leaf or a whole

# Fields that tell which object it is. The record leaves them out.
_IDENTITY = frozenset({"apiVersion", "kind"})
_METADATA_IDENTITY = frozenset({"name", "namespace"})
# The binaries in which the HorizontalPodAutoscaler's controller runs (k3s and MicroK8s have their own), and
# KEDA's, which scales to none and from it.
_AUTOSCALERS = frozenset({"kube-controller-manager", "k3s", "kubelite", "keda"})


def owned_fields(raw: Raw) -> str:
    """The fields that the operator applied and nobody changed since, as text; "" where there are none.

    Agents of one shape have equal texts (no names, no values), and equal texts are one object in memory.
    """
    for entry in _entries(raw):
        who = entry.get("manager"), entry.get("operation"), entry.get("subresource", "")
        if who == (names.FIELD_MANAGER, "Apply", ""):
            return sys.intern(json.dumps(_anonymous(entry.get("fieldsV1") or {}), sort_keys=True))
    return ""


def other_writers(raw: Raw) -> str:
    """Who else wrote to the object, for people: names of field managers, in order, with commas."""
    found = {
        entry.get("manager", "")
        for entry in _entries(raw)
        if entry.get("subresource") != "status" and entry.get("manager") != names.FIELD_MANAGER
    }
    return sys.intern(", ".join(sorted(found - _AUTOSCALERS - {""})))


def is_autoscaled(raw: Raw) -> bool:
    """Whether a HorizontalPodAutoscaler set the object's `spec.replicas`."""
    return any(
        entry.get("subresource") == "scale"
        and entry.get("manager") in _AUTOSCALERS
        and "f:replicas" in (entry.get("fieldsV1") or {}).get("f:spec", {})
        for entry in _entries(raw)
    )


def lost_fields(manifest: Raw, owned: str) -> list[str]:
    """Paths of the desired object's fields that are no longer the operator's: somebody changed them.

    This is asked of every child at every look, and nearly always of objects that nobody touched.
    """
    part = _compiled(owned) if owned else _Part()
    wanted = {name: value for name, value in manifest.items() if name not in _IDENTITY}
    metadata = manifest["metadata"]
    wanted["metadata"] = {name: metadata[name] for name in metadata if name not in _METADATA_IDENTITY}
    return [] if _is_owned(wanted, part) else list(_lost(wanted, part, ""))


def owns(owned: str, *path: str) -> bool:
    """Whether the field is still the operator's, or part of what is owned as a whole."""
    part: _Part | None = _compiled(owned) if owned else _Part()
    for name in path:
        if part is None:
            return True
        if name not in part.fields:
            return False
        part = part.fields[name]
    return True


@dataclass(slots=True)
class _Part:
    """What is owned of a map (`fields`) or a list (`elements` by the values of `keys`, a set's `values`).

    None stands for a leaf, and for what is owned as a whole.
    """

    fields: dict[str, _Part | None] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    elements: dict[tuple[Any, ...], _Part | None] = field(default_factory=dict)
    values: frozenset[str] = frozenset()

    def element(self, wanted: Any) -> _Part | None:
        """The part of the list that is about this element. Raises KeyError where there is none."""
        if not isinstance(wanted, dict):
            if json.dumps(wanted) not in self.values:
                raise KeyError(wanted)
            return None
        key = tuple(map(wanted.get, self.keys))
        if key in self.elements:
            return self.elements[key]
        # A key that the element leaves out was defaulted by the server, as `protocol` of a port is.
        for known, part in self.elements.items():
            if all(ours in (None, theirs) for ours, theirs in zip(key, known, strict=True)):
                return part
        raise KeyError(key)


@lru_cache(maxsize=4096)
def _compiled(owned: str) -> _Part:
    return _part(json.loads(owned)) or _Part()


def _part(tree: Tree) -> _Part | None:
    if not tree:
        return None
    part = _Part()
    for name, below in tree.items():
        if name.startswith("f:"):
            part.fields[name[2:]] = _part(below)
        elif name.startswith("k:"):
            keys = json.loads(name[2:])
            part.keys = tuple(keys)
            part.elements[tuple(keys.values())] = _part(below)
        elif name.startswith("v:"):
            part.values |= {name[2:]}
    return part


def _is_owned(wanted: Any, part: _Part) -> bool:
    if isinstance(wanted, dict):
        fields = part.fields
        for name, value in wanted.items():
            if name not in fields:
                return False
            below = fields[name]
            if below is not None and not _is_owned(value, below):
                return False
        return True
    for element in wanted:
        try:
            below = part.element(element)
        except KeyError:
            return False
        if below is not None and not _is_owned(element, below):
            return False
    return True


def _lost(wanted: Any, part: _Part | None, path: str) -> Iterator[str]:
    """The same in words, for the few objects that somebody touched."""
    if part is None:
        return
    if isinstance(wanted, dict):
        for name, value in wanted.items():
            where = f"{path}.{name}" if path else name
            if name in part.fields:
                yield from _lost(value, part.fields[name], where)
            else:
                yield where
        return
    for index, element in enumerate(wanted):
        label = element.get("name", index) if isinstance(element, dict) else element
        try:
            yield from _lost(element, part.element(element), f"{path}[{label}]")
        except KeyError:
            yield f"{path}[{label}]"


def _entries(raw: Raw) -> list[Mapping[str, Any]]:
    entries: list[Mapping[str, Any]] = raw["metadata"].get("managedFields") or []
    return entries


def _anonymous(tree: Tree) -> Tree:
    """Without the owner's UID, the one thing in it that differs from agent to agent."""
    metadata: Tree = tree.get("f:metadata", {})
    owners: Tree = metadata.get("f:ownerReferences", {})
    if not owners:
        return tree
    nameless = {"k:{}" if name.startswith("k:") else name: below for name, below in owners.items()}
    return {**tree, "f:metadata": {**metadata, "f:ownerReferences": nameless}}
