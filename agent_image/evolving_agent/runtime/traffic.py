"""Who answers a request: this pod's own configuration, or the one that gets a share of the traffic."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from evolving_agent.contract.config import AgentConfig, TrafficShare
from evolving_agent.runtime.configuration import Configuration

ACTIVE = "active"
CANARY = "canary"
SHADOW = "shadow"
FALLBACK = "fallback"


@dataclass(frozen=True)
class Arm:
    name: str
    config: AgentConfig
    config_hash: str = ""  # by which a session finds it again

    @property
    def labels(self) -> tuple[str, str, str]:
        """revision, model, arm: what every metric of a run is labelled with."""
        return self.config.revision, self.config.model.id, self.name


def falls_into(percent: int, key: str, salt: str) -> bool:
    """Whether `key` belongs to that share of all keys; the same key always does, or never."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{key}".encode()).digest()[:4], "big") % 100 < percent


def own_arm(configuration: Configuration) -> Arm:
    """What the pod is stamped with."""
    return Arm(ACTIVE, configuration.own, configuration.own_hash)


def answering_arm(configuration: Configuration, session: str, began_with: str | None = None) -> Arm:
    """The canary for its share of sessions, else this pod's own configuration.

    A session stays with the configuration (its hash) that it began with, however the share grows or shrinks,
    as long as that one still answers anybody here: a canary that was taken back answers nobody.
    """
    own = own_arm(configuration)
    if began_with == configuration.own_hash:
        return own
    share = configuration.traffic.canary
    if share is not None and share.config == began_with and share.config in configuration.configs:
        return Arm(CANARY, configuration.configs[share.config], share.config)
    return _shared(configuration, share, session, CANARY) or own


def fallback_arm(configuration: Configuration, arm: Arm) -> Arm | None:
    """Who answers where the arm's model is gone: for a canary the pod's own entry, at a pod that is about
    to be replaced the active one, else the previous one.
    """
    if arm.name == CANARY:
        return Arm(FALLBACK, configuration.own, configuration.own_hash)
    for other in (configuration.active, configuration.previous):
        config = configuration.configs.get(other or "")
        if other is not None and config is not None and config.model != arm.config.model:
            return Arm(FALLBACK, config, other)
    return None


def starting_fallback_arm(configuration: Configuration) -> Arm | None:
    """Who answers at a pod that starts without its model: somebody only where all pods served it before."""
    if configuration.rolled_out != configuration.own_hash:
        return None
    return fallback_arm(configuration, own_arm(configuration))


def shadow_arm(configuration: Configuration, request: str) -> Arm | None:
    """The candidate that answers this request as well, unseen; None for requests outside its share."""
    return _shared(configuration, configuration.traffic.shadow, request, SHADOW)


def _shared(configuration: Configuration, share: TrafficShare | None, key: str, name: str) -> Arm | None:
    if share is None or share.config == configuration.own_hash:
        return None
    config = configuration.configs.get(share.config)
    if config is None or not falls_into(share.percent, key, f"{name}:{share.config}"):
        return None
    return Arm(name, config, share.config)
