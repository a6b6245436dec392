"""`agent_config.json`: the entry that this pod serves, and the shares of traffic, reloaded as they change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from evolving_agent.contract.config import AgentConfig, AgentConfigFile, Traffic

WAIT_POLL_SECONDS = 0.5

logger = logging.getLogger(__name__)


class ConfigurationError(Exception):
    """The file is missing, broken, or does not hold the pod's entry; the message says which."""


@dataclass(frozen=True)
class Configuration:
    """What the pod serves (`own`, for good) and what the file says now about the others."""

    own: AgentConfig
    own_hash: str
    configs: dict[str, AgentConfig]
    traffic: Traffic
    active: str | None = None  # hash of the entry that all pods are to serve
    previous: str | None = None  # hash of the entry that was served before
    rolled_out: str | None = None  # hash of the entry that all pods have come to serve


class ConfigurationFile:
    """Reads the mounted file again and again: the kubelet swaps it, and gives no sign of it."""

    def __init__(self, path: Path, config_hash: str) -> None:
        self._path = path
        self._hash = config_hash
        self._seen: bytes | None = None

    async def wait(self, seconds: float) -> Configuration:
        """The configuration, once the file holds this pod's entry. Raises ConfigurationError."""
        give_up = time.monotonic() + seconds
        while True:
            try:
                return await asyncio.to_thread(self._read)
            except ConfigurationError as error:
                if time.monotonic() >= give_up:
                    raise ConfigurationError(f"{error} (waited {seconds:g} s)") from error
            await asyncio.sleep(WAIT_POLL_SECONDS)

    async def follow(
        self,
        current: Configuration,
        poll_seconds: float,
        changed: Callable[[Configuration], None],
        failed: Callable[[], None],
    ) -> None:
        """Calls `changed` for each new content and `failed` for each broken one, until it is cancelled."""
        while True:
            await asyncio.sleep(poll_seconds)
            try:
                content = await asyncio.to_thread(self._path.read_bytes)
                if content == self._seen:
                    continue
                self._seen = content
                file = _parsed(content, self._path)
            except OSError as error:
                if self._seen is not None:  # once for each disappearance, not with each poll
                    self._seen = None
                    logger.error("cannot read %s, the last good one is served: %s", self._path, error)
                    failed()
                continue
            except ConfigurationError as error:
                logger.error("%s; the last good one is served", error)
                failed()
                continue
            changed(self._configuration(current.own, file))

    def _read(self) -> Configuration:
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"cannot read {self._path}: {error.strerror}") from error
        file = _parsed(content, self._path)
        own = file.configs.get(self._hash)
        if own is None:
            held = ", ".join(file.configs) or "nothing"
            raise ConfigurationError(
                f"{self._path} has no entry {self._hash!r}, the one this pod is stamped with; it has {held}"
            )
        self._seen = content
        return self._configuration(own, file)

    def _configuration(self, own: AgentConfig, file: AgentConfigFile) -> Configuration:
        return Configuration(
            own,
            self._hash,
            file.configs,
            file.traffic,
            active=file.active,
            previous=file.previous,
            rolled_out=file.rolled_out,
        )


def _parsed(content: bytes, path: Path) -> AgentConfigFile:
    try:
        return AgentConfigFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise ConfigurationError(f"{path} is broken: {where}: {first['msg']}") from error
