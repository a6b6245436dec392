"""The CRDs are what the models say, complete, structural and up to date."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from evolving_agent.contract.base import Document
from evolving_agent.contract.learning import OpenAIBackend
from evolving_agent.contract.refs import OBJECT_NAME
from evolving_operator.__main__ import main
from evolving_operator.api.crd import custom_resource_definitions, render, structural_schema
from evolving_operator.api.models import (
    AgentRevisionSpec,
    AgentRevisionStatus,
    EvolvingAgentSpec,
    EvolvingAgentStatus,
)

ROOT = Path(__file__).parents[2]
SPECS = {"EvolvingAgent": EvolvingAgentSpec, "AgentRevision": AgentRevisionSpec}
STATUSES = {"EvolvingAgent": EvolvingAgentStatus, "AgentRevision": AgentRevisionStatus}
ALL = [*SPECS.values(), *STATUSES.values()]


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All fields below a schema, by path; the items of a list are `path[]`."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")


@pytest.mark.parametrize("directory", ["crds", "charts/evolving-agents/files/crds"])
def test_the_files_in_the_repository_are_up_to_date(directory: str) -> None:
    generated = {name: render(crd) for name, crd in custom_resource_definitions().items()}
    committed = {path.name: path.read_text() for path in (ROOT / directory).iterdir()}
    assert committed == generated, f"{directory} is stale: run `make crds`"


def test_writing_gives_one_file_per_kind_in_each_directory(tmp_path: Path) -> None:
    assert main(["crds", str(tmp_path / "one"), str(tmp_path / "two")]) == 0

    written = sorted((tmp_path / "one").iterdir())
    kinds = {yaml.safe_load(path.read_text())["spec"]["names"]["kind"] for path in written}
    assert kinds == SPECS.keys()
    assert "&id" not in "".join(path.read_text() for path in written)
    assert [path.name for path in sorted((tmp_path / "two").iterdir())] == [path.name for path in written]


@pytest.mark.parametrize("model", ALL)
def test_every_field_is_described(model: type[Document]) -> None:
    undescribed = [path for path, field in fields(structural_schema(model)) if not field.get("description")]
    assert undescribed == []


@pytest.mark.parametrize("model", ALL)
def test_schemas_are_structural_and_hold_no_floats(model: type[Document]) -> None:
    for path, field in fields(structural_schema(model)):
        assert field["type"] in {"object", "array", "string", "integer", "boolean"}, path
        assert not {"$ref", "anyOf", "oneOf", "allOf", "title"} & field.keys(), path
        assert field.get("default", "") is not None, path


def test_null_is_taken_only_where_it_says_nothing_and_emptying_leaves_it() -> None:
    """Server-side apply leaves null of an object emptied to {}, unless nested defaults fill it again."""
    nullable = {path for path, field in fields(structural_schema(EvolvingAgentSpec)) if "nullable" in field}
    assert nullable == {".training.backend.openAI"}


@pytest.mark.parametrize("model", SPECS.values())
def test_lists_and_texts_of_a_spec_are_bounded(model: type[Document]) -> None:
    """Without bounds the API server would estimate the CEL rules as too expensive, and refuse the CRD."""
    for path, field in fields(structural_schema(model)):
        if field["type"] == "array":
            assert "maxItems" in field, path
        if field["type"] == "string" and "enum" not in field:
            assert "maxLength" in field, path


@pytest.mark.parametrize("model", STATUSES.values())
def test_lists_of_a_status_are_bounded(model: type[Document]) -> None:
    schema = structural_schema(model, defaults=False)
    bounds = {path: field.get("maxItems") for path, field in fields(schema) if field["type"] == "array"}
    suites = dict(fields(structural_schema(EvolvingAgentSpec)))[".evaluation.suites"]

    assert bounds.pop(".conditions") == 64
    assert set(bounds.values()) <= {suites["maxItems"]}


@pytest.mark.parametrize("model", SPECS.values())
def test_what_names_another_object_has_the_form_of_a_name(model: type[Document]) -> None:
    """The agent's own configuration asks for it: what the API server let through could not be rendered."""
    schema = structural_schema(model)
    names = {path: field for path, field in fields(schema) if path.endswith(("Ref.name", ".claimName"))}
    assert names
    assert {path for path, field in names.items() if field.get("pattern") != OBJECT_NAME} == set()


@pytest.mark.parametrize("model", ALL)
def test_lists_say_how_they_merge(model: type[Document]) -> None:
    for path, field in fields(structural_schema(model)):
        if field["type"] == "array":
            assert field["x-kubernetes-list-type"] in {"map", "set", "atomic"}, path


@pytest.mark.parametrize("model", STATUSES.values())
def test_a_status_has_no_defaults(model: type[Document]) -> None:
    schema = structural_schema(model, defaults=False)
    assert [path for path, field in fields(schema) if "default" in field] == []


def test_an_agent_that_no_operator_has_seen_is_not_taken_for_done() -> None:
    (crd,) = (crd for name, crd in custom_resource_definitions().items() if "evolvingagents.yaml" in name)
    status = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]

    assert status["default"] == {"observedGeneration": -1}
    assert EvolvingAgentStatus.model_validate(status["default"]).active is None


def test_where_a_model_is_trained_nobody_says_which_api_answers() -> None:
    """Training asks neither of the two. An object of before is read as ever."""
    (crd,) = (crd for name, crd in custom_resource_definitions().items() if "evolvingagents.yaml" in name)
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    openai = dict(fields(spec))[".training.backend.openAI.endpoint"]
    assert list(openai["properties"]) == ["baseURL", "apiKeySecretRef"]

    older = {"endpoint": {"baseURL": "http://provider/v1", "api": "Responses"}}
    read = OpenAIBackend.model_validate(older).to_wire()
    assert read == {"endpoint": {"baseURL": "http://provider/v1"}}


def _as_the_api_server_fills_in(value: Any, schema: dict[str, Any]) -> Any:
    if isinstance(value, list) and "items" in schema:
        return [_as_the_api_server_fills_in(item, schema["items"]) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    filled = dict(value)
    for name, field in schema["properties"].items():
        if name not in filled and "default" in field:
            filled[name] = field["default"]
        if name in filled:
            filled[name] = _as_the_api_server_fills_in(filled[name], field)
    return filled


@pytest.mark.parametrize("case", ["minimal", "lora", "openai"])
def test_defaults_of_the_api_server_are_those_of_the_models(case: str) -> None:
    written = yaml.safe_load((ROOT / "tests/data/golden" / case / "agent.yaml").read_text())["spec"]
    stored = _as_the_api_server_fills_in(written, structural_schema(EvolvingAgentSpec))

    assert stored != written
    assert EvolvingAgentSpec.model_validate(stored) == EvolvingAgentSpec.model_validate(written)
    # What the API server would store is all that the model holds: nothing is left to the reader's version.
    without_empty = EvolvingAgentSpec.model_validate(written).to_wire()
    for name in ("suspend", "deletionPolicy", "revisionHistoryLimit"):
        assert stored[name] == without_empty[name]


def test_a_union_names_the_variants_of_each_field() -> None:
    agent = structural_schema(EvolvingAgentSpec)["properties"]["agent"]
    tool = agent["properties"]["tools"]["items"]
    rules = {rule["message"]: rule["rule"] for rule in tool["x-kubernetes-validations"]}

    assert tool["required"] == ["type", "name"]
    assert tool["properties"]["type"]["enum"] == ["BuiltIn", "HTTP", "MCP", "Module"]
    assert rules["url is required when type is MCP"] == "!(self.type in ['MCP']) || has(self.url)"
    assert rules["description is only for type HTTP"] == "self.type in ['HTTP'] || !has(self.description)"
    assert "default" not in tool["properties"]["timeoutSeconds"]
    assert tool["properties"]["timeoutSeconds"]["description"].endswith("30 if absent.")
    assert tool["properties"]["headers"]["description"].endswith("Only for HTTP and MCP.")
    # a variant's own rules hold for its objects only
    assert rules["an OpenAPI document from a ConfigMap needs url, the base of its paths"].startswith(
        "self.type != 'HTTP' || ("
    )
