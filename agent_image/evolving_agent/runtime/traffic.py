"""Who answers a request: this pod's own configuration, or the one that gets a share of the traffic."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from evolving_agent.contract.config import AgentConfig, TrafficShare
from evolving_agent.runtime.configuration import Configuration

ACTIVE = "active"
CANARY = "canary"
SHADOW = "shadow"


@dataclass(frozen=True)
class Arm:
    name: str
    config: AgentConfig

    @property
    def labels(self) -> tuple[str, str, str]:
        """revision, model, arm: what every metric of a run is labelled with."""
        return self.config.revision, self.config.model.id, self.name


def falls_into(percent: int, key: str, salt: str) -> bool:
    """Whether `key` belongs to that share of all keys; the same key always does, or never."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{key}".encode()).digest()[:4], "big") % 100 < percent


def answering_arm(configuration: Configuration, session: str) -> Arm:
    """The canary for its share of sessions (a session keeps its arm), else this pod's own configuration."""
    return _shared(configuration, configuration.traffic.canary, session, CANARY) or Arm(
        ACTIVE, configuration.own
    )


def shadow_arm(configuration: Configuration, request: str) -> Arm | None:
    """The candidate that answers this request as well, unseen; None for requests outside its share."""
    return _shared(configuration, configuration.traffic.shadow, request, SHADOW)


def _shared(configuration: Configuration, share: TrafficShare | None, key: str, name: str) -> Arm | None:
    if share is None or share.config == configuration.own_hash:
        return None
    config = configuration.configs.get(share.config)
    if config is None or not falls_into(share.percent, key, f"{name}:{share.config}"):
        return None
    return Arm(name, config)
