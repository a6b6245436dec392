"""Merges what a user adds to a pod into what the operator builds, as a strategic merge patch would.

Maps are merged; lists that have a key (containers, env, volumes, …) are merged by it; all others are
replaced; a null, or `$patch: delete`, takes away; `$patch: replace` replaces. A property test compares the
outcome with the API server's own, which leaves {} of a map that is deleted, and knows one port of a number.
Where the operator's own needs and the user's collide, the operator's win: they are what makes the pod serve
the right revision. So terms of affinity are appended.
"""

from __future__ import annotations

from typing import Any

from evolving_operator.api import names
from evolving_operator.api.pod_template import (
    DELETE_FROM,
    DIRECTIVE,
    MERGED_BY,
    REPLACED_BY,
    RETAIN_KEYS,
    PodTemplate,
)
from evolving_operator.core.builders.base import Manifest

_APPENDED = {
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
}
_OWNED_POD_FIELDS = ("serviceAccountName", "automountServiceAccountToken", "restartPolicy")
_OWNED_CONTAINER_FIELDS = ("image", "args", "terminationMessagePath", "terminationMessagePolicy")


def merge_pod_template(built: Manifest, added: PodTemplate) -> Manifest:
    """The built pod template with the user's additions.

    The built pod has exactly one container: `agent` in serving pods, `job` in Job pods. Each takes what
    was added under its name. Further containers run beside the agent only: a sidecar that never ends
    would keep a Job from ending.
    """
    if not (added.spec or added.metadata.labels or added.metadata.annotations):
        return built
    own = built["spec"]["containers"][0]
    addition = dict(added.spec)
    addition["containers"] = [
        container
        for container in addition.get("containers") or []
        if container["name"] == own["name"]
        or (built["spec"]["restartPolicy"] == "Always" and container["name"] != names.CONTAINER_JOB)
    ]
    spec = _merge(built["spec"], addition)
    metadata = {
        section: {**getattr(added.metadata, section), **built["metadata"].get(section, {})}
        for section in ("labels", "annotations")
    }
    return {
        "metadata": {section: values for section, values in metadata.items() if values},
        "spec": _with_owned_fields(spec, built["spec"]),
    }


def _with_owned_fields(spec: Manifest, built: Manifest) -> Manifest:
    own = built["containers"][0]
    containers = [
        _with_owned_container_fields(container, own) if container["name"] == own["name"] else container
        for container in _by_key([own], spec.get("containers", []), "name")  # its own is there in any case
    ]
    return {
        **spec,
        **{name: built[name] for name in _OWNED_POD_FIELDS},
        "containers": containers,
        "volumes": _by_key(spec.get("volumes", []), built["volumes"], "name"),
    }


def _with_owned_container_fields(container: Manifest, own: Manifest) -> Manifest:
    kept = {key: value for key, value in container.items() if key != "command"}
    ports = {"ports": _with_owned_ports(container.get("ports", []), own["ports"])} if "ports" in own else {}
    return {
        **kept,
        **ports,
        **{name: own[name] for name in _OWNED_CONTAINER_FIELDS},
        "env": _by_key(container.get("env", []), own["env"], "name"),
        "volumeMounts": _by_key(container.get("volumeMounts", []), own["volumeMounts"], "mountPath"),
    }


def _with_owned_ports(ports: list[Manifest], own: list[Manifest]) -> list[Manifest]:
    """What a user adds to a port of the operator's stays, as far as it is not what the Service goes by."""
    added = {_identity(port, "containerPort"): port for port in ports}
    owned = [{**added.get(_identity(port, "containerPort"), {}), **port} for port in own]
    return _by_key(ports, owned, "containerPort")


def _merge(built: Any, added: Any) -> Any:
    """A strategic merge of two values, by the rules of the API's own pod types."""
    if not (isinstance(built, dict) and isinstance(added, dict)):
        return _plain(added)
    if DIRECTIVE in added:
        return _plain(added) if added[DIRECTIVE] == "replace" else {}
    merged = dict(built)
    if (retained := added.get(RETAIN_KEYS)) is not None:
        merged = {key: item for key, item in merged.items() if key in retained}
    for name, value in added.items():
        if name == RETAIN_KEYS:
            continue
        if name.startswith(DELETE_FROM):
            listed = name.removeprefix(DELETE_FROM)
            if isinstance(merged.get(listed), list):
                merged[listed] = [item for item in merged[listed] if item not in value]
        elif value is None or (_is_directive(value) and value[DIRECTIVE] == "delete"):
            merged.pop(name, None)
        elif isinstance(value, list) and isinstance(merged.get(name), list):
            merged[name] = _merge_list(name, merged[name], value)
        elif isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merge(merged[name], value)
        elif _is_directive(value):
            merged.pop(name, None)
        else:
            merged[name] = _without_directives(value)
    return merged


def _merge_list(name: str, built: list[Any], added: list[Any]) -> list[Any]:
    if name in _APPENDED:
        return built + [element for element in map(_plain, added) if element not in built]
    key = (MERGED_BY | REPLACED_BY).get(name)
    if key is None:
        return [_plain(element) for element in added]
    directives = {element.get(key): element[DIRECTIVE] for element in added if DIRECTIVE in element}
    patches = [element for element in added if DIRECTIVE not in element]
    if "replace" in directives.values():
        return [_plain(element) for element in patches]
    kept = [element for element in built if element.get(key) not in directives]
    existing = {_identity(element, key): element for element in kept} if name in MERGED_BY else {}
    merged = [_merge(existing.get(_identity(element, key)), element) for element in patches]
    return _by_key(kept, merged, key)


def _without_directives(value: Any) -> Any:
    """What is added where nothing was. What holds a directive is left out, as the API server does it: there
    is nothing to take away or to replace."""
    if isinstance(value, list):
        return [_without_directives(item) for item in value if not _is_directive(item)]
    if not isinstance(value, dict):
        return value
    return {
        name: _without_directives(item)
        for name, item in value.items()
        if item is not None and not name.startswith("$") and not _is_directive(item)
    }


def _plain(value: Any) -> Any:
    """What is taken as it stands: directives in it have nothing that they could act upon."""
    if isinstance(value, list):
        return [_plain(element) for element in value if not _is_directive(element)]
    if not isinstance(value, dict):
        return value
    return {
        name: _plain(item)
        for name, item in value.items()
        if item is not None and name not in (DIRECTIVE, RETAIN_KEYS) and not name.startswith(DELETE_FROM)
    }


def _is_directive(value: Any) -> bool:
    return isinstance(value, dict) and DIRECTIVE in value


def _by_key(first: list[Manifest], second: list[Manifest], key: str) -> list[Manifest]:
    """Both lists in order of first appearance; where a key is in both, the second's element."""
    return list({_identity(element, key): element for element in [*first, *second]}.values())


def _identity(element: Manifest, key: str) -> Any:
    """Ports have their protocol too: by the number alone, the API's own merge keeps 53/UDP or 53/TCP."""
    return (element.get(key), element.get("protocol", "TCP")) if key == "containerPort" else element.get(key)
