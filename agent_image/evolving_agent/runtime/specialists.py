"""Specialists' own models, and how a specialist in mode Tool is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agents import Agent, Model, ModelProvider
from typing_extensions import override

from evolving_agent.chat.endpoint import ModelEndpoint, ModelError, ModelErrorReason
from evolving_agent.contract.config import AgentConfig, Endpoint, ServedModel, Specialist
from evolving_agent.contract.tools import ToolEffect
from evolving_agent.runtime.observed_model import ObservedModel
from evolving_agent.runtime.tools.files import MissingFileError, MountedFiles
from evolving_agent.runtime.tools.invocation import RunScope, ToolDefinition, ToolError

QUESTION = "input"


class SpecialistEndpoints:
    """The endpoints that specialists have of their own. A changed key makes a new one."""

    def __init__(self, files: MountedFiles) -> None:
        self._files = files
        self._endpoints: dict[tuple[str, str | None], ModelEndpoint] = {}

    async def close(self) -> None:
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints.values()))

    def at(self, endpoint: Endpoint, served: ServedModel) -> ModelEndpoint:
        """With the limits of the agent's own. Raises ModelError where the key is not there."""
        try:
            ref = endpoint.api_key_secret_ref
            key = self._files.secret(ref) if ref is not None else None
        except MissingFileError as error:
            message = f"{endpoint.base_url}: {error}"
            raise ModelError(ModelErrorReason.UNAUTHORIZED, message, permanent=True) from error
        if (endpoint.base_url, key) not in self._endpoints:
            self._endpoints[endpoint.base_url, key] = ModelEndpoint(
                endpoint.base_url,
                key,
                connect_timeout_seconds=served.connect_timeout_seconds,
                timeout_seconds=served.timeout_seconds,
                max_concurrency=served.max_concurrent_calls,
            )
        return self._endpoints[endpoint.base_url, key]


class TeamModels(ModelProvider):
    """The models of one run. Agents are shared by runs: the SDK asks here by the name that an agent gives,

    which is the specialist's where it has its own model, and None otherwise.
    """

    def __init__(
        self,
        config: AgentConfig,
        endpoint: ModelEndpoint,
        endpoints: SpecialistEndpoints,
        observed: Callable[[ServedModel, ModelEndpoint], ObservedModel],
    ) -> None:
        self._config = config
        self._endpoint = endpoint
        self._endpoints = endpoints
        self._observed = observed
        self._models: dict[str | None, ObservedModel] = {}

    @override
    def get_model(self, model_name: str | None) -> Model:
        """Raises ModelError."""
        if model_name not in self._models:
            self._models[model_name] = self._make(model_name)
        return self._models[model_name]

    def _make(self, specialist: str | None) -> ObservedModel:
        served = self._config.model
        own = next((each.model for each in self._config.specialists if each.name == specialist), None)
        if own is None:
            return self._observed(served, self._endpoint)
        changes: dict[str, Any] = {"id": own.name}
        endpoint = self._endpoint
        if own.endpoint is not None:
            changes |= {"base_url": own.endpoint.base_url, "api": own.endpoint.api}
            endpoint = self._endpoints.at(own.endpoint, served)
        return self._observed(served.model_copy(update=changes), endpoint)


def as_tool(specialist: Specialist, agent: Agent[RunScope]) -> ToolDefinition:
    """A specialist that is asked. It only reads: what its own tools write is theirs to stub in a dry run."""

    async def call(arguments: dict[str, Any], scope: RunScope) -> str:
        if scope.ask_specialist is None:
            raise ToolError(f"{specialist.name} cannot be asked from here")
        question = arguments[QUESTION]
        return await scope.ask_specialist(agent, question if isinstance(question, str) else str(question))

    return ToolDefinition(
        name=specialist.name,
        description=specialist.description,
        parameters={
            "type": "object",
            "properties": {
                QUESTION: {
                    "type": "string",
                    "description": "What to do or answer, with all that must be known for it.",
                }
            },
            "required": [QUESTION],
        },
        effect=ToolEffect.READ,
        timeout_seconds=specialist.timeout_seconds,
        call=call,
    )
