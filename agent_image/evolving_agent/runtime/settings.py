"""What a serving pod is told by its environment."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evolving_agent.contract import env
from evolving_agent.runtime.tracing import captures_content, is_traced
from evolving_agent.store.layout import StoreLayout


class SettingsError(Exception):
    """The environment lacks what the pod needs; the message names the variable."""


@dataclass(frozen=True)
class Settings:
    agent: str
    pod: str
    config_file: Path
    config_hash: str
    store: StoreLayout
    api_key: str | None
    namespace: str
    memory_uri: str | None = field(repr=False)  # holds a password
    is_traced: bool
    captures_content: bool  # in traces and in the pod's own log
    termination_log: Path
    port: int = env.SERVE_PORT
    config_wait_seconds: float = 90.0  # the kubelet may take that long to bring a new ConfigMap
    model_wait_seconds: float = 45.0
    config_poll_seconds: float = 2.0
    # after SIGTERM the pod still accepts for this long, and asks its clients to close their connections
    drain_accept_seconds: float = 3.0
    drain_work_seconds: float = 5.0  # for reflections and shadow runs that still run

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Raises SettingsError."""

        def needed(name: str) -> str:
            if value := environment.get(name):
                return value
            raise SettingsError(f"{name} is not set: the operator sets it in the pods that it makes")

        return cls(
            agent=needed(env.AGENT_NAME),
            pod=environment.get(env.POD_NAME) or socket.gethostname().lower(),
            config_file=Path(environment.get(env.CONFIG_DIR, env.DEFAULT_CONFIG_DIR)) / "agent_config.json",
            config_hash=needed(env.CONFIG_HASH),
            store=StoreLayout.from_environment(
                Path(environment.get(env.STORE, env.DEFAULT_STORE)), environment
            ),
            api_key=environment.get(env.API_KEY) or None,
            namespace=environment.get(env.AGENT_NAMESPACE, ""),
            memory_uri=environment.get(env.MEMORY_URI) or None,
            is_traced=is_traced(environment),
            captures_content=captures_content(environment),
            termination_log=Path(environment.get(env.TERMINATION_LOG, env.DEFAULT_TERMINATION_LOG)),
            port=int(environment.get("EVOLVING_PORT", env.SERVE_PORT)),
            model_wait_seconds=float(environment.get("EVOLVING_MODEL_WAIT_SECONDS", "45")),
            config_wait_seconds=float(environment.get("EVOLVING_CONFIG_WAIT_SECONDS", "90")),
            drain_accept_seconds=float(environment.get("EVOLVING_DRAIN_ACCEPT_SECONDS", "3")),
        )
