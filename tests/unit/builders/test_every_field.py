"""No field of a spec is forgotten: another value makes another child, or it is named here who acts on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import yaml

from evolving_operator.api.models import EvolvingAgentSpec
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.context import BuildContext
from evolving_operator.core.render import render_agent_config
from support.cluster import REPOSITORY
from support.golden import IMAGES, build_all
from support.spec_walk import spec_schema

# There is no other built-in tool.
ONE_VALUE = {"agent.tools.name: no other value", "agent.specialists.tools.name: no other value"}

Raw = dict[str, Any]
Path = tuple[str | int, ...]

# What decisions are made by, and what is read before: told by the stories of tests/unit/operator_core.
NO_CHILDS = (
    "agent.instructionsFrom",
    "rollout.approval",
    "rollout.shadow",
    "rollout.canary",
    "rollout.bakeSeconds",
    "rollout.rollback",
    "rollout.pin",
    "revisionHistoryLimit",
)


def agents() -> dict[str, Raw]:
    documents = yaml.safe_load_all((REPOSITORY / "examples" / "reference.yaml").read_text())
    return {agent["metadata"]["name"]: agent["spec"] for agent in documents}


def leaves(value: Any, schema: Raw, path: Path = ()) -> Iterator[tuple[Path, Raw]]:
    """Each value that the spec names and that is no object or list of objects, with its schema."""
    if "properties" in schema and isinstance(value, dict):
        for name, below in value.items():  # of pods we know no more than Kubernetes does
            known = schema["properties"].get(name, {"type": "object"})
            yield from leaves(below, known, (*path, name))
    elif schema["type"] == "array" and "properties" in schema["items"]:
        for index, below in enumerate(value):
            yield from leaves(below, schema["items"], (*path, index))
    else:
        yield path, schema


def others(value: Any, schema: Raw) -> Iterator[Any]:
    """Other values for the field; not all of them need be allowed."""
    if "enum" in schema:
        yield from (other for other in schema["enum"] if other != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1)
    elif isinstance(value, str):
        yield from (f"{value}x", f"x{value}", "30 4 29 2 *", "20Gi", "America/New_York")
    elif isinstance(value, list) and "enum" in schema.get("items", {}):
        yield from ([other] for other in schema["items"]["enum"] if [other] != value)
    elif isinstance(value, list):
        yield from (value[:-1], [*value, "10.9.0.0/16"], [*value, "x"])
    else:
        yield from ({}, {**value, "x": "y"}, {"type": "object"})


def changed(spec: Raw, path: Path, value: Any) -> Raw:
    copied = copy.deepcopy(spec)
    place: Any = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copied


def children(spec: Raw) -> dict[str, Manifest]:
    """Raises ValueError where there is no such spec."""
    model = EvolvingAgentSpec.model_validate(spec)
    context = BuildContext(name="support", namespace="bank", uid="u1", spec=model, images=IMAGES)
    built = build_all(context) | {"trained": render_agent_config(context, "support-1", "learned").to_wire()}
    if model.agent.replicas <= 1:
        del built["disruption_budget"]
    return built


def in_words(path: Path) -> str:
    return ".".join(str(key) for key in path if isinstance(key, str))


def unheeded(spec: Raw) -> Iterator[str]:
    """Fields whose value can be changed, and no child differs."""
    before = children(spec)
    for path, schema in leaves(spec, spec_schema()):
        after = []
        for other in others(_at(spec, path), schema):
            with suppress(ValueError):  # not every text is allowed everywhere
                after.append(children(changed(spec, path, other)))
        if not after:
            yield f"{in_words(path)}: no other value"
        elif all(built == before for built in after):
            yield in_words(path)


def _at(spec: Raw, path: Path) -> Any:
    value: Any = spec
    for key in path:
        value = value[key]
    return value


@pytest.mark.parametrize("name", agents())
def test_another_value_of_a_field_makes_another_child(name: str) -> None:
    """All that `examples/reference.yaml` names, which is every field that there is."""
    forgotten = [path for path in unheeded(agents()[name]) if not path.startswith(NO_CHILDS)]

    assert set(forgotten) <= ONE_VALUE
