"""Examples and the rendered configuration are what the other side reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from evolving_agent.contract.config import CONFIG_KEY, AgentConfigFile
from evolving_agent.contract.learning import LEARNING_KEY, LearningConfig
from evolving_operator.api import names
from evolving_operator.api.crd import structural_schema
from evolving_operator.api.models import Agent, EvolvingAgentSpec
from evolving_operator.core.render import render_learning_config
from support.cluster import REPOSITORY
from support.golden import CASES, build_all, context_of

EXAMPLES = sorted((REPOSITORY / "examples").rglob("*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def agents(path: Path) -> list[dict[str, Any]]:
    return [document for document in documents(path) if document["kind"] == names.AGENT_KIND]


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with unknown fields refused, as kubectl's strict validation does."""
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {name: closed(field) for name, field in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result["additionalProperties"] = False
    if "items" in schema:
        result["items"] = closed(schema["items"])
    return result


def test_there_are_examples_of_agents() -> None:
    assert {agent["metadata"]["name"] for path in EXAMPLES for agent in agents(path)} >= {
        "support",
        "front-desk",
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_example_fits_the_schema_with_no_unknown_field(path: Path) -> None:
    for agent in agents(path):
        jsonschema.validate(agent["spec"], closed(structural_schema(EvolvingAgentSpec)))
        EvolvingAgentSpec.model_validate(agent["spec"])


def test_the_tools_that_the_documentation_shows_are_valid() -> None:
    schema = closed(structural_schema(EvolvingAgentSpec)["properties"]["agent"])
    blocks = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "tools.md").read_text(), re.DOTALL)
    shown = [yaml.safe_load(block) for block in blocks]

    assert {tool["type"] for block in shown if isinstance(block, list) for tool in block} == set(
        schema["properties"]["tools"]["items"]["properties"]["type"]["enum"]
    )
    for block in shown:
        agent = {"instructions": "Help."} | ({"tools": block} if isinstance(block, list) else block)
        jsonschema.validate(agent, schema)
        Agent.model_validate(agent)


@pytest.mark.parametrize("case", CASES)
def test_pods_read_in_the_config_map_what_the_operator_rendered(case: str) -> None:
    context = context_of(case)
    built = build_all(context)
    data = built["config_map"]["data"]

    file = AgentConfigFile.model_validate_json(data[CONFIG_KEY])
    learning = LearningConfig.model_validate_json(data[LEARNING_KEY])

    stamp = built["deployment"]["metadata"]["annotations"][names.ANNOTATION_CONFIG_HASH]
    served = file.configs[stamp]
    assert served.hash == stamp, "what is read has another hash than what was rendered"
    assert served.instructions == context.spec.agent.instructions
    assert served.tools == context.spec.agent.tools
    assert served.specialists == context.spec.agent.specialists
    assert served.model.id == context.spec.model.base
    assert learning == render_learning_config(context)
    assert learning.evaluation == context.spec.evaluation


@pytest.mark.parametrize("case", CASES)
def test_the_config_map_holds_no_secret_and_stays_small(case: str) -> None:
    data = build_all(context_of(case))["config_map"]["data"]
    assert sum(len(text.encode()) for text in data.values()) < 1024 * 1024
    assert set(data) == {CONFIG_KEY, LEARNING_KEY}
