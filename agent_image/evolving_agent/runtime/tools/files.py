"""The ConfigMaps and Secrets that tools name, as the kubelet mounts them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evolving_agent.contract import env
from evolving_agent.contract.refs import SecretKeyRef
from evolving_agent.contract.tools import HTTPHeader


class MissingFileError(Exception):
    """What a tool needs is not mounted; the message names the object and its key."""


@dataclass(frozen=True)
class MountedFiles:
    """Read anew each time: the kubelet brings changes and late-comers to a running pod."""

    root: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> MountedFiles:
        return cls(Path(environment.get(env.FILES, env.DEFAULT_FILES)))

    def config_map(self, name: str, key: str) -> Path:
        """Where the key lies. Raises MissingFileError."""
        return _existing(self.root / env.FILES_CONFIG_MAPS / name / key, f"the ConfigMap {name}", key)

    def secret(self, ref: SecretKeyRef) -> str:
        """The value, without the line end that editors and `echo` leave. Raises MissingFileError."""
        path = _existing(
            self.root / env.FILES_SECRETS / ref.name / ref.key, f"the Secret {ref.name}", ref.key
        )
        try:
            return path.read_text().strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            problem = type(error).__name__  # not the error itself: it may quote the value
            raise MissingFileError(
                f"the key {ref.key!r} of the Secret {ref.name} cannot be read as text ({problem})"
            ) from None

    def headers(self, headers: Iterable[HTTPHeader]) -> dict[str, str]:
        """By name, secrets included: never to be logged. Raises MissingFileError."""
        return {
            header.name: header.prefix
            + (
                self.secret(header.secret_key_ref)
                if header.secret_key_ref is not None
                else header.value or ""
            )
            for header in headers
        }


def _existing(path: Path, holder: str, key: str) -> Path:
    if not path.is_file():
        raise MissingFileError(
            f"{holder} is not there or has no key {key!r}; a new one appears within minutes"
        )
    return path
