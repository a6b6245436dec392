"""What an installation decides, read from the environment once, at the start."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from evolving_operator.core.builders.context import Images

_PREFIX = "EVOLVING_OPERATOR_"


class SettingsError(Exception):
    """A variable that cannot be understood. The message names it."""


@dataclass(frozen=True)
class Settings:
    images: Images
    namespaces: tuple[str, ...] = ()  # none: all of the cluster
    label_selector: str = ""  # of the EvolvingAgents that are looked after; "": all
    workers: int = 8
    metrics_port: int = 9090
    resync_seconds: int = 3600
    lease_namespace: str = "default"
    lease_name: str = "evolving-operator"
    lease_seconds: int = 15
    log_level: str = "INFO"
    pod: str = field(default_factory=socket.gethostname)

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
        """Raises SettingsError, naming the variable."""
        variable = _Variables(environment)
        own_namespace = environment.get("POD_NAMESPACE") or "default"
        return Settings(
            images=Images(
                agent=variable.text("AGENT_IMAGE", "localhost/evolving-agents/agent:0.1.0"),
                trainer=variable.text("TRAINER_IMAGE", "localhost/evolving-agents/trainer:0.1.0"),
            ),
            namespaces=variable.words("NAMESPACES"),
            label_selector=variable.text("LABEL_SELECTOR", ""),
            workers=variable.number("WORKERS", 8, least=1),
            metrics_port=variable.number("METRICS_PORT", 9090, least=0),
            resync_seconds=variable.number("RESYNC_SECONDS", 3600, least=10),
            lease_namespace=variable.text("LEASE_NAMESPACE", own_namespace),
            lease_name=variable.text("LEASE_NAME", "evolving-operator"),
            lease_seconds=variable.number("LEASE_SECONDS", 15, least=1),
            log_level=variable.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
            pod=environment.get("POD_NAME") or socket.gethostname(),
        )


@dataclass(frozen=True)
class _Variables:
    environment: Mapping[str, str]

    def text(self, name: str, default: str) -> str:
        """An empty variable is as good as none: a chart writes those."""
        return self.environment.get(_PREFIX + name) or default

    def words(self, name: str) -> tuple[str, ...]:
        """Each once: two watches of one namespace would tell everything twice."""
        words = (word.strip() for word in self.text(name, "").split(","))
        return tuple(dict.fromkeys(word for word in words if word))

    def number(self, name: str, default: int, *, least: int) -> int:
        text = self.text(name, str(default))
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise SettingsError(
                f"{_PREFIX}{name} is {text!r}, but must be a whole number of at least {least}"
            )
        return int(text)

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        text = self.text(name, default)
        if text.upper() not in choices:
            raise SettingsError(f"{_PREFIX}{name} is {text!r}, but must be one of {', '.join(choices)}")
        return text.upper()
