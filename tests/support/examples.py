"""The worked examples: their own YAML and code, run for real beside a pod on a scripted model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import yaml

from evolving_agent.contract.config import AgentConfig
from evolving_operator.api.models import EvolvingAgentSpec
from evolving_operator.core.builders.context import BuildContext, Images
from evolving_operator.core.render import render_agent_config
from support.cluster import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


def load(path: str) -> ModuleType:
    """The Python file of an example, as a module of that name."""
    file = EXAMPLES / path
    name = f"example_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def config_of(path: str, model_url: str, services: dict[str, str] | None = None) -> AgentConfig:
    """What the operator renders of the agent in that file; `services` says where addresses are here."""
    text = (EXAMPLES / path).read_text()
    for address, here in (services or {}).items():
        assert address in text, f"{path} does not name {address}"
        text = text.replace(address, here)
    agent = next(each for each in yaml.safe_load_all(text) if each["kind"] == "EvolvingAgent")
    agent["spec"]["model"] = {"base": "tiny", "endpoint": {"baseURL": f"{model_url}/v1"}}
    agent["spec"]["agent"]["reflection"] = {"mode": "Disabled"}
    context = BuildContext(
        name=agent["metadata"]["name"],
        namespace="shop",
        uid="00000000-0000-0000-0000-000000000001",
        spec=EvolvingAgentSpec.model_validate(agent["spec"]),
        images=Images(agent="agent", trainer="trainer"),
    )
    return render_agent_config(context, f"{context.name}-00000001", "tiny")


def mount(files: Path, kind: str, name: str, *paths: str) -> None:
    """A ConfigMap or Secret as the kubelet mounts it, made of files of the examples."""
    directory = files / kind / name
    directory.mkdir(parents=True)
    for path in paths:
        (directory / Path(path).name).write_text((EXAMPLES / path).read_text())
