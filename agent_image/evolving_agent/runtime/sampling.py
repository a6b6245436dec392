"""What a client may ask of the model beside the conversation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agents import ModelSettings


@dataclass(frozen=True)
class Sampling:
    """None leaves it to the configuration."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None

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
        )


UNASKED = Sampling()
