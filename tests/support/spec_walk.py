"""Random walks over specs, drawn from the CRD's schema (the method of Acto: Sun et al., SOSP 2023).

A step changes one place of the spec, anywhere in the schema: another value, a field more, a field less. What
a schema cannot say of a value (a cron expression, a quantity, an image) comes from a pool by the field.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from support.cluster import REPOSITORY

Raw = dict[str, Any]
Path = tuple[str, ...]

_STOP_PERCENT = 25  # at an object that has fields: draw all of it anew
_FIELD_PERCENT = 40  # of an object that is drawn anew: each field that is not required
_REMOVE_PERCENT = 20
_INSTEAD_PERCENT = 80  # of two fields that cannot be together: the other one is taken out
_STORAGE_PERCENT = 15  # steps within storage, of which the API server refuses most
_MAX_ITEMS = 3

_WORDS = (
    "a",
    "route",
    'Grüße, "quoted" & <escaped>',
    "line\nbreak",
    "$(NOT_EXPANDED)",
    "{{ x }}",
    "0",
    "null",
)
_NAMES = (
    "a",
    "support",
    "x-1",
    "billing.internal",
    "A_b",
    "tickets",
    "kb",
    "cases.jsonl",
    "x" * 40,
    "http://a:1",
)
_EITHER = {"instructions": "instructionsFrom", "instructionsFrom": "instructions"}
# What `instructionsFrom` may point to: `data` of a ConfigMap.
PROMPTS_NAME = "prompts"
PROMPTS = {"short": "You route requests.", "long": "You sort the requests of a bank.\nBe brief.\n"}
# By the last fields of a path: what makes sense, what is at the edge, and what is wrong.
_POOLS: dict[str, Sequence[Any]] = {
    # At New Year and on leap days only: no run begins in the middle of a test.
    "schedule": (
        "@yearly",
        "0 3 1 1 *",
        "30 4 29 2 *",
        "5 4 1 JAN *",
        "0 0 30 2 *",
        "61 * * * *",
        "a b c d e",
    ),
    "timeZone": ("UTC", "Europe/Berlin", "America/New_York", "Mars/Olympus"),
    "size": ("10Gi", "12Gi", "20Gi", "5Gi", "1Ti", "9000M"),
    "image": ("", "registry.example/agent:2", "registry.example/agent@sha256:" + "0" * 64, "not an image"),
    "baseURL": ("http://models:8000/v1", "https://api.openai.com/v1", "https://user@host/v1"),
    "objectStore.url": ("s3://bucket", "s3://bucket/some/prefix"),
    "url": ("http://tools:8000/mcp", "https://example.com/a?b=c"),
    "replicas": (0, 1, 2, 3),
    "base": ("smollm2", "qwen3", "org/model:tag", "ft:gpt-4.1-mini:acme::abc"),
    "pin": ("", "support-00000000", "other"),
    "storageClassName": ("standard", "fast"),
    "instructionsFrom": tuple(
        {"configMapKeyRef": {"name": PROMPTS_NAME, "key": key}} for key in (*PROMPTS, "missing")
    ),
    "labels": ({}, {"team": "a"}, {"example.com/team": "b", "tier": "1"}, {"app.kubernetes.io/name": "mine"}),
    "annotations": ({}, {"example.com/note": "a b c"}, {"sidecar.istio.io/inject": "false"}),
    "matchLabels": (
        {},
        {"team": "a"},
        {"kubernetes.io/metadata.name": "monitoring", "tier": "1"},
        {"not a key": "v"},
    ),
    "cidr": ("10.0.0.0/8", "192.168.7.0/24", "2001:db8::/32", "0.0.0.0/0", "10.0.0.0", "somewhere"),
    "except": ([], ["10.1.0.0/16"], ["10.1.0.0/16", "10.2.3.4/32"], ["172.16.0.0/12"]),
    "parameters": ({"type": "object", "properties": {"id": {"type": "string"}}},),
    "podTemplate.spec": (
        {},
        {"nodeSelector": {"disk": "ssd"}},
        {"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]},
        {"containers": [{"name": "agent", "env": [{"name": "REGION", "value": "eu"}]}]},
        {"containers": [{"name": "agent", "resources": {"limits": {"memory": "1Gi"}}}]},
        {"containers": [{"name": "agent", "resources": {"limits": {"memory": "lots"}}}]},
        {"containers": [{"name": "side", "image": "example/side:1"}]},
        {"initContainers": [{"name": "first", "image": "example/first:1"}]},
        {"volumes": [{"name": "extra", "emptyDir": {}}], "priorityClassName": "none-such"},
        {"terminationGracePeriodSeconds": 200, "hostNetwork": True},
        {"terminationGracePeriodSeconds": "soon"},
        {"noSuchField": 1},
    ),
}


@dataclass(frozen=True)
class Step:
    path: Path
    spec: Raw

    def __str__(self) -> str:
        value: Any = self.spec
        for key in self.path:
            value = value.get(key) if isinstance(value, dict) else None
        return f"spec.{'.'.join(self.path)} = {value!r}"[:300]


class SpecWalk:
    """Draws steps. Every choice is `chance`'s: the same seed walks the same way."""

    def __init__(self, chance: random.Random, *, fixed: str = "") -> None:
        """`fixed`: a part of the spec that is left as it is."""
        self._chance = chance
        self._fixed = fixed
        self._schema = spec_schema()

    def step(self, spec: Raw) -> Step:
        """Another spec, that differs in one place. It may be one that the API server refuses."""
        while True:
            changed = copy.deepcopy(spec)
            if "storage" in spec and self._fixed != "storage" and self._percent(_STORAGE_PERCENT):
                storage = self._schema["properties"]["storage"]
                path = self._change(changed["storage"], storage, ("storage",))
            else:
                path = self._change(changed, self._schema, ())
            if changed != spec and path[0] != self._fixed:
                return Step(path, changed)

    def _change(self, node: Raw, schema: Raw, path: Path) -> Path:
        name = self._chance.choice(sorted(schema["properties"]))
        field, here = schema["properties"][name], (*path, name)
        is_inner = "properties" in field and _pool(here) is None
        if is_inner and isinstance(node.get(name), dict) and not self._percent(_STOP_PERCENT):
            return self._change(node[name], field, here)
        if name in node and name not in schema.get("required", ()) and self._percent(_REMOVE_PERCENT):
            del node[name]
        else:
            node[name] = self.draw(field, here)
            if name in _EITHER and self._percent(_INSTEAD_PERCENT):
                node.pop(_EITHER[name], None)
        return here

    def draw(self, schema: Raw, path: Path) -> Any:
        """A value of the schema, most of the time one that its rules in CEL allow too."""
        pool = _pool(path)
        if pool is not None:
            return copy.deepcopy(self._chance.choice(pool))
        if "enum" in schema:
            return self._chance.choice(schema["enum"])
        if schema["type"] == "array":
            return self._items(schema, path)
        if schema["type"] == "object":
            return self._object(schema, path)
        return self._scalar(schema)

    def _scalar(self, schema: Raw) -> Any:
        if schema["type"] == "boolean":
            return self._chance.random() < 0.5
        if schema["type"] == "string":
            return self._chance.choice(list(_texts(schema)))
        least: int = schema.get("minimum", 0)
        most: int = schema.get("maximum", 2**31 - 1)
        default: int = schema.get("default", least)
        usual = min(most, max(least, default + self._chance.randint(0, 20)))
        return self._chance.choice((least, most, usual, usual))

    def _items(self, schema: Raw, path: Path) -> list[Any]:
        least, most = schema.get("minItems", 0), min(schema.get("maxItems", _MAX_ITEMS), _MAX_ITEMS)
        items = [self.draw(schema["items"], path) for _ in range(self._chance.randint(least, most))]
        keys = schema.get("x-kubernetes-list-map-keys")
        if keys is None and schema.get("x-kubernetes-list-type") != "set":
            return items
        # Elements that are the same by their keys would be no list of that type.
        unique = {str([item[key] for key in keys] if keys else item): item for item in items}
        return list(unique.values())

    def _object(self, schema: Raw, path: Path) -> Raw:
        required = schema.get("required", ())
        return {
            name: self.draw(field, (*path, name))
            for name, field in schema.get("properties", {}).items()
            if name in required or self._percent(_FIELD_PERCENT)
        }

    def _percent(self, percent: int) -> bool:
        return self._chance.randrange(100) < percent


def spec_schema() -> Raw:
    """Of EvolvingAgent.spec, as the API server has it."""
    crd = yaml.safe_load((REPOSITORY / "crds" / "evolvingagents.io_evolvingagents.yaml").read_text())
    (version,) = (item for item in crd["spec"]["versions"] if item["storage"])
    schema: Raw = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def _pool(path: Path) -> Sequence[Any] | None:
    return _POOLS.get(".".join(path[-2:]), _POOLS.get(path[-1]))


def _texts(schema: Raw) -> Iterator[str]:
    """Those of the words and names that the schema allows, and the longest one."""
    least, most = schema.get("minLength", 0), schema.get("maxLength", 100)
    pattern = re.compile(schema.get("pattern", ""))
    longest = "x" * min(most, 2000)
    candidates = {*_WORDS, *_NAMES, "", longest}
    yield from sorted(
        text for text in candidates if least <= len(text) <= most and pattern.search(text) is not None
    )
