"""What a client may ask of the model beside the conversation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from agents import ModelSettings

from evolving_agent.contract.config import ModelAPI


@dataclass(frozen=True)
class Sampling:
    """None leaves it to the configuration, or to the model's server.

    The last four are Chat Completions' only: a model behind the Responses API has no such settings.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None

    def applied_to(self, settings: ModelSettings) -> ModelSettings:
        """The settings of an agent with these over them; its own bound of tokens stays one."""
        if self == UNASKED:
            return settings
        limits = [limit for limit in (settings.max_tokens, self.max_tokens) if limit is not None]
        return replace(
            settings,
            temperature=settings.temperature if self.temperature is None else self.temperature,
            top_p=settings.top_p if self.top_p is None else self.top_p,
            max_tokens=min(limits) if limits else None,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
        )

    def settings(self, api: ModelAPI) -> dict[str, Any]:
        """The parameters that the SDK's settings have no place for."""
        if api is ModelAPI.RESPONSES:
            return {}
        given = {"seed": self.seed, "stop": list(self.stop) if isinstance(self.stop, tuple) else self.stop}
        return {name: value for name, value in given.items() if value is not None}


UNASKED = Sampling()
