"""How the operator proves to the API server who it is, from one request to the next."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

# Kubelet renews a projected token when four fifths of its life are over: minutes before it ends.
_TOKEN_FILE_SECONDS = 60.0
# A token of a plugin is asked for anew so long before it expires.
_EXPIRY_MARGIN_SECONDS = 30.0
_PLUGIN_SECONDS = 60.0


class CredentialsError(Exception):
    """Credentials cannot be had. The message says from where, and why."""


class Credentials(Protocol):
    async def authorization(self) -> str | None:
        """The Authorization header of now; None where the client's certificate is enough.

        Raises CredentialsError.
        """
        ...

    def refused(self) -> None:
        """The API server did not accept the last one: the next must not come out of a cache."""
        ...


@dataclass(frozen=True)
class Fixed:
    """What the kubeconfig says word for word: a token, a user's password, or nothing."""

    header: str | None = None

    @staticmethod
    def bearer(token: str) -> Fixed:
        return Fixed(f"Bearer {token}")

    @staticmethod
    def basic(user: str, password: str) -> Fixed:
        return Fixed("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())

    async def authorization(self) -> str | None:
        return self.header

    def refused(self) -> None:
        """There is no other."""


@dataclass
class TokenFile:
    """A token that somebody else renews in place, as kubelet does with a ServiceAccount's."""

    path: Path
    clock: Callable[[], float] = time.monotonic
    _header: str | None = None
    _read_at: float = 0.0

    async def authorization(self) -> str | None:
        if self._header is None or self.clock() - self._read_at > _TOKEN_FILE_SECONDS:
            try:
                token = self.path.read_text().strip()
            except OSError as error:
                raise CredentialsError(f"the token file {self.path} cannot be read: {error}") from error
            self._header, self._read_at = f"Bearer {token}", self.clock()
        return self._header

    def refused(self) -> None:
        self._header = None


@dataclass
class ExecPlugin:
    """A program that prints an ExecCredential, as kubeconfigs of cloud providers name one."""

    command: Sequence[str]
    api_version: str
    environment: Mapping[str, str] = field(default_factory=dict)
    cluster: Mapping[str, Any] | None = None  # what it is told of the cluster, where it asks for that
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _header: str | None = None
    _expires: datetime | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def authorization(self) -> str | None:
        async with self._lock:  # many requests ask at once: one run of the program answers all
            if self._header is None or self._has_expired():
                self._header, self._expires = await self._run()
            return self._header

    def refused(self) -> None:
        self._header = None

    def _has_expired(self) -> bool:
        if self._expires is None:
            return False
        return (self._expires - self.clock()).total_seconds() < _EXPIRY_MARGIN_SECONDS

    async def _run(self) -> tuple[str, datetime | None]:
        told = {} if self.cluster is None else {"cluster": self.cluster}
        spec = {"interactive": False, **told}
        info = {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": spec}
        environment = {
            **os.environ,
            **self.environment,
            "KUBERNETES_EXEC_INFO": json.dumps(info, default=str),
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise self._fault(f"does not start: {error}") from error
        try:
            async with asyncio.timeout(_PLUGIN_SECONDS):
                output, _ = await process.communicate()
        except TimeoutError as error:
            raise self._fault(f"did not end within {_PLUGIN_SECONDS:.0f} s") from error
        finally:  # not left behind either where who asks has given up
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise self._fault(f"ended with {process.returncode}")
        try:
            status: dict[str, Any] = json.loads(output)["status"]
            expires = status.get("expirationTimestamp")
            return f"Bearer {status['token']}", datetime.fromisoformat(expires) if expires else None
        except (ValueError, KeyError, TypeError) as error:
            raise self._fault(
                "printed no ExecCredential with a token (certificates are not supported)"
            ) from error

    def _fault(self, what: str) -> CredentialsError:
        return CredentialsError(f"the credential plugin {self.command[0]!r} of the kubeconfig {what}")
