"""What users may add to an agent's pods, and how far the API server checks it.

The schema knows the lists that are merged by a key, so that what arrives can be merged; the rest of a
pod is passed on as it is, and checked where it ends up: in the Deployment and the Jobs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic import Field, field_validator
from pydantic.config import JsonDict

from evolving_agent.contract.base import MOST_LEVELS, Document, is_too_deep

# Merge keys as in the Kubernetes API: lists whose elements are merged one by one …
MERGED_BY: Final = {
    "containers": "name",
    "initContainers": "name",
    "ports": "containerPort",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "schedulingGates": "name",
    "resourceClaims": "name",
}
# … and whose elements replace each other: a variable or a volume with two sources would be refused.
REPLACED_BY: Final = {
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
}

DIRECTIVE: Final = "$patch"
DIRECTIVES: Final = ("delete", "replace")
RETAIN_KEYS: Final = "$retainKeys"
DELETE_FROM: Final = "$deleteFromPrimitiveList/"

_MAX_ELEMENTS = 64
_LONGEST = 200  # of what is quoted of a user's text


def _open_object(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object with these properties, and any others."""
    schema: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return schema | ({"properties": properties} if properties else {})


def _list(name: str, description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    """A list of objects; those of the tables above have a key that each element must have."""
    schema: dict[str, Any] = {
        "type": "array",
        "maxItems": _MAX_ELEMENTS,
        "description": description,
        "items": _open_object(**properties),
        "x-kubernetes-list-type": "atomic",
    }
    key = (MERGED_BY | REPLACED_BY).get(name)
    if key is None:
        return schema
    text = {"type": "string", "minLength": 1, "maxLength": 4096, "description": "Key of the element."}
    number = {"type": "integer", "format": "int32", "description": "Key of the element."}
    directive = {
        "type": "string",
        "enum": list(DIRECTIVES),
        "description": "delete takes away the element of this key; replace, in any element, all elements.",
    }
    schema["items"] = _open_object(
        **{key: number if key == "containerPort" else text, DIRECTIVE: directive}, **properties
    )
    schema["items"]["required"] = [key]
    if key == "name":
        schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    return schema


_CONTAINER = {
    "env": _list("env", "Environment variables; those that the operator sets stay as they are."),
    "envFrom": _list("envFrom", "Sources of environment variables."),
    "ports": _list("ports", "Ports; the one that the agent serves on stays as it is."),
    "volumeMounts": _list("volumeMounts", "Mounts; those that the operator sets stay as they are."),
}
_POD: dict[str, Any] = {
    "containers": _list(
        "containers",
        "By name: agent in serving pods, job in the pods of Jobs; any other runs beside the agent.",
        **_CONTAINER,
    ),
    "initContainers": _list("initContainers", "Containers that run first, in all pods.", **_CONTAINER),
    "volumes": _list("volumes", "Volumes, in all pods."),
    "tolerations": _list("tolerations", "Tolerations, in all pods."),
    "imagePullSecrets": _list("imagePullSecrets", "Secrets for the registries of the images."),
    "hostAliases": _list("hostAliases", "Entries of /etc/hosts."),
    "topologySpreadConstraints": _list("topologySpreadConstraints", "How pods are spread."),
}


# A server-side apply that empties a block which had something leaves a null in its place. The API server
# refuses that, and not in words for users, except where it has a default to put there.
_REFILLED: JsonDict = {"x-refilled": True}


class PodMetadata(Document):
    labels: dict[str, str] = Field(
        default={},
        max_length=_MAX_ELEMENTS,
        description="Labels that are added to the pods.",
        json_schema_extra=_REFILLED,
    )
    annotations: dict[str, str] = Field(
        default={},
        max_length=_MAX_ELEMENTS,
        description="Annotations that are added to the pods.",
        json_schema_extra=_REFILLED,
    )


class PodTemplate(Document):
    metadata: PodMetadata = Field(
        default=PodMetadata(),
        description="Labels and annotations that are added to the pods.",
        json_schema_extra=_REFILLED,
    )
    spec: dict[str, Any] = Field(
        default={},
        description="Fields of a pod, merged into those of the serving pods and of the Jobs' pods as a "
        "strategic merge would: maps are merged, containers, env and volumes go by name, other lists are "
        "replaced, $patch: delete takes away and $patch: replace replaces. So does null, which kubectl apply "
        "leaves out of what it sends: livenessProbe: {$patch: delete} takes a probe away. What the operator "
        "sets itself (image, args, its own variables, mounts and port) stays.",
        json_schema_extra={
            "x-kubernetes-preserve-unknown-fields": True,
            "properties": _POD,
            **_REFILLED,
        },
    )

    @field_validator("spec")
    @classmethod
    def _knows_its_directives(cls, spec: dict[str, Any]) -> dict[str, Any]:
        """What the schema cannot see, anywhere in a pod: a misspelt directive would take away in silence."""
        if is_too_deep(spec):  # before anything walks through it
            raise ValueError(f"it has more than {MOST_LEVELS} levels: no pod is nested so deep")
        if (fault := _misused_directive(spec)) is not None:
            said, path = fault
            raise ValueError(f"{_cut(''.join(reversed(path)).removeprefix('.'))} {said}")
        return spec


def _misused_directive(value: Any) -> tuple[str, list[str]] | None:
    """What is wrong with the first one, and where it is, from within: a path is made for none but that."""
    items: Iterable[tuple[Any, Any]] = enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, dict):
        items = value.items()
        for name, item in items:
            if name == DIRECTIVE and item not in DIRECTIVES:
                return f"is {_cut(repr(item))}: it can be {' or '.join(DIRECTIVES)}", [f".{name}"]
            if name.startswith((RETAIN_KEYS, DELETE_FROM)) and not isinstance(item, list):
                return f"is {_cut(repr(item))}: it must be a list", [f".{name}"]
    for key, item in items:
        if (fault := _misused_directive(item)) is not None:
            said, path = fault
            return said, [*path, f".{key}" if isinstance(value, dict) else f"[{key}]"]
    return None


def _cut(text: str) -> str:
    """Its ends tell most: where it begins, and which field it is."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"
