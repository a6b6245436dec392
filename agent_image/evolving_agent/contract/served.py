"""What a serving pod tells of its live requests and of itself: `GET /served`, read by the operator."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from pydantic import Field

from evolving_agent.contract.base import Document

SERVED_VERSION: Final = 1
SERVED_PATH = "/served"


class ServedAs(StrEnum):
    ACTIVE = "active"
    CANARY = "canary"
    SHADOW = "shadow"


class ServedCount(Document):
    """How the requests ended that one configuration was to answer."""

    config: str = Field(description="The configuration's hash.")
    served_as: ServedAs
    requests: int = Field(default=0, ge=0, description="Those that clients gave up are not among them.")
    errors: int = Field(
        default=0,
        ge=0,
        description="Of them those without an answer of its own: the model failed or was gone, the run took "
        "too long, or it went wrong.",
    )


class ProblemReason(StrEnum):
    """What is wrong although requests are answered; the reason of the agent's condition."""

    MODEL_GONE = "ModelGone"
    EXPERIENCE_NOT_STORED = "ExperienceNotStored"
    TOOL_UNAVAILABLE = "ToolUnavailable"
    MEMORY_UNAVAILABLE = "MemoryUnavailable"


class Problem(Document):
    reason: ProblemReason
    message: str = Field(description="For people: what happened, where, what to do.")


class ServedCounts(Document):
    """Counted in memory, since the trial of `trial` began at this pod, or else since the pod started."""

    version: Literal[1] = SERVED_VERSION
    trial: str | None = Field(
        default=None,
        description="The trial under way, as the configuration file names it; where that has no name for it, "
        "the hash of the candidate that has a share of the requests.",
    )
    counts: tuple[ServedCount, ...] = ()
    problems: tuple[Problem, ...] = Field(default=(), description="Those of the moment, the worst first.")

    def of(self, config: str, served_as: ServedAs) -> ServedCount:
        found = (item for item in self.counts if (item.config, item.served_as) == (config, served_as))
        return next(found, ServedCount(config=config, served_as=served_as))
