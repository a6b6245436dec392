"""The ConfigMap with `agent_config.json` (what is served) and `learning.json` (how it learns)."""

from __future__ import annotations

from evolving_agent.contract.base import Document
from evolving_agent.contract.config import CONFIG_KEY, AgentConfigFile
from evolving_agent.contract.learning import LEARNING_KEY, LearningConfig
from evolving_operator.api import names
from evolving_operator.core.builders.base import Manifest, object_metadata, with_applied_hash
from evolving_operator.core.builders.context import BuildContext


def build_config_map(
    context: BuildContext, config_file: AgentConfigFile, learning: LearningConfig
) -> Manifest:
    return with_applied_hash(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": object_metadata(context, names.config_map(context.name), names.COMPONENT_AGENT),
            "data": {CONFIG_KEY: _readable(config_file), LEARNING_KEY: _readable(learning)},
        }
    )


def _readable(document: Document) -> str:
    """Indented, for the person who looks into the ConfigMap."""
    return document.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"
