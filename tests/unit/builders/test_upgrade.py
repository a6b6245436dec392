"""An upgrade of the operator restarts the pods of an agent only where something changes for that agent."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace

import pytest

from evolving_agent.contract.config import AgentConfig
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.context import Images
from support.cluster import REPOSITORY
from support.golden import CASES, build_all, context_of


class NextAgentConfig(AgentConfig):
    """As the next version may have it."""

    courtesy: str = "Some"


def template(manifest: Manifest) -> Manifest:
    pod: Manifest = manifest["spec"]["template"]
    return pod


def test_a_setting_that_is_new_and_has_its_default_changes_no_stamp() -> None:
    now = AgentConfig.model_validate(
        {"revision": "r", "model": {"id": "m", "baseURL": "http://models/v1"}, "instructions": "Help."}
    )
    later = NextAgentConfig.model_validate(now.to_wire())

    assert later.to_wire() != now.to_wire()
    assert later.hash == now.hash
    assert later.model_copy(update={"courtesy": "Much"}).hash != now.hash
    assert later.model_copy(update={"instructions": "Help!"}).hash != now.hash


@pytest.mark.parametrize("case", CASES)
def test_the_operators_own_version_is_in_no_child(case: str) -> None:
    """What it writes follows from the spec and from the default images alone."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

    assert project["version"] not in json.dumps(build_all(context_of(case)))


def test_a_new_default_image_restarts_the_agents_that_name_none() -> None:
    """The agent image belongs to the operator's release; who wants to decide alone sets `agent.image`."""
    upgraded = Images(agent="example/agent:2", trainer="example/trainer:2")
    before = {case: build_all(context_of(case))["deployment"] for case in CASES}
    after = {case: build_all(replace(context_of(case), images=upgraded))["deployment"] for case in CASES}

    restarted = {case for case in CASES if template(before[case]) != template(after[case])}

    names_its_own = {case for case in CASES if context_of(case).spec.agent.image}
    assert names_its_own == {"openai"}
    assert restarted == set(CASES) - names_its_own
