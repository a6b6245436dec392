"""Serving pods, asked at their own addresses: a Service would choose one of them."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import aiohttp
from pydantic import ValidationError

from evolving_agent.contract import env
from evolving_agent.contract.served import SERVED_PATH, ServedCounts

_SECONDS = 3.0
_MAX_BYTES = 64 * 1024
_MAX_CONNECTIONS = 64
_OK = 200


class PodSilentError(Exception):
    """The pod did not tell; the text goes on after "pod NAME"."""


class PodClient:
    """Plain HTTP within the cluster, as kubelet's probes and Prometheus ask. To be used as a context."""

    def __init__(self, port: int = env.SERVE_PORT) -> None:
        self._port = port
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
            connector=aiohttp.TCPConnector(limit=_MAX_CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def served(self, address: str) -> ServedCounts:
        """What the pod at that IP has counted. Raises PodSilentError."""
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{self._port}{SERVED_PATH}"
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != _OK:
                    raise PodSilentError(f"answers {url} with HTTP {response.status}")
                body = await _whole(response.content, url)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:  # the last: of no address
            reason = str(error) or f"no answer within {_SECONDS:g} s"
            raise PodSilentError(
                f"cannot be asked at {url} ({reason}); where a NetworkPolicy keeps the "
                "operator's pods out, let them in"
            ) from error
        try:
            return ServedCounts.model_validate_json(body)
        except ValidationError as error:
            raise PodSilentError(f"answers {url} with something else than counts") from error


async def _whole(content: aiohttp.StreamReader, url: str) -> bytes:
    """Raises PodSilentError for a body that is longer than counts can be."""
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > _MAX_BYTES:
            raise PodSilentError(f"answers {url} with more than {_MAX_BYTES} bytes")
    return bytes(body)
