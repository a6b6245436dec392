"""examples/reference.yaml names every field that the CRD has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from evolving_operator.api import names
from evolving_operator.api.crd import custom_resource_definitions
from support.cluster import REPOSITORY

Raw = dict[str, Any]
# What Kubernetes documents itself, or what one place shows for all.
ELSEWHERE = ("podTemplate", "Selector", "specialists[].tools[].")


def of_schema(node: Raw, path: str) -> Iterator[str]:
    if any(part in path for part in ELSEWHERE):
        return
    if "properties" in node:
        for name, field in node["properties"].items():
            yield from of_schema(field, f"{path}.{name}")
    elif "items" in node:
        yield from of_schema(node["items"], f"{path}[]")
    else:
        yield path


def of_value(node: Any, path: str) -> Iterator[str]:
    yield path
    if isinstance(node, dict):
        for name, value in node.items():
            yield from of_value(value, f"{path}.{name}")
    elif isinstance(node, list):
        for value in node:
            yield from of_value(value, f"{path}[]")


def test_no_field_is_missing() -> None:
    agents = yaml.safe_load_all((REPOSITORY / "examples" / "reference.yaml").read_text())
    shown = {path for agent in agents for path in of_value(agent["spec"], "spec")}
    crds = {crd["spec"]["names"]["kind"]: crd for crd in custom_resource_definitions().values()}
    (version,) = crds[names.AGENT_KIND]["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]

    assert [path for path in of_schema(schema, "spec") if path not in shown] == []
