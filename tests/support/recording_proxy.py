"""A proxy before the API server that counts a client's writes, and can end the client at any one of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from evolving_operator.cluster.live import Connection

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# These speak of one connection, and the proxy has two; it reads bodies, so that they come uncompressed.
_HOP_BY_HOP = ("Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length", "Host", "Accept-Encoding")


class Side(StrEnum):
    """When the client dies: the write never reached the API server, or its answer never came back."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True)
class CrashPoint:
    """One moment of a client's life: `side` of its write number `index`, counted from 0."""

    index: int
    side: Side


@dataclass(frozen=True)
class Write:
    """A request that changes something, e.g. `PATCH` of `deployments/support`.

    `status` is None where it was not passed on.
    """

    method: str
    target: str
    status: int | None = None

    @property
    def is_creation(self) -> bool:
        """Whether it made an object that was not there."""
        return self.method == "POST" and self.status == 201

    @property
    def sort(self) -> str:
        """`PATCH evolvingagents/status`: without the object's name."""
        plural, _, *subresource = self.target.split("/")
        return f"{self.method} {'/'.join((plural, *subresource))}"

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


@dataclass
class RecordingProxy:
    """Passes everything on to the API server, as its administrator. Writes of Leases are not counted.

    At a crash point it calls `kill`, which must end the client at once, and drops the connection.
    """

    connection: Connection
    points: frozenset[CrashPoint]
    kill: Callable[[], None]
    writes: list[Write] = field(default_factory=list)
    strikes: int = 0
    last_write_at: float = 0.0  # time.monotonic()
    leading_since: float | None = None  # first write of the Lease; whoever starts another client resets it
    _session: aiohttp.ClientSession = field(init=False)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Yields the URL, on the loopback interface and without TLS."""
        connector = aiohttp.TCPConnector(limit=0, ssl=self.connection.tls_context())
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        app = web.Application(client_max_size=16 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A watch whose client is gone must end: nothing may come on it for minutes.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
            await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.method not in _WRITES:
            return await self._stream(request)
        if "/leases" in request.path:
            answer = await self._ask(request)
            if answer.status < 300 and self.leading_since is None:
                self.leading_since = time.monotonic()
            return answer
        index, target = len(self.writes), _target(request.method, request.path, await request.read())
        self.writes.append(Write(request.method, target))
        self.last_write_at = time.monotonic()
        if CrashPoint(index, Side.BEFORE) in self.points:
            return self._strike(request)
        # Shielded: what has been sent takes effect, whether or not somebody waits for the answer.
        answer = await asyncio.shield(self._ask(request))
        self.writes[index] = Write(request.method, target, answer.status)
        if CrashPoint(index, Side.AFTER) in self.points:
            return self._strike(request)
        return answer

    def _strike(self, request: web.Request) -> web.Response:
        """An answer that reaches nobody."""
        self.strikes += 1
        self.kill()
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)

    async def _ask(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self._upstream(request, body) as answer:
            return web.Response(
                status=answer.status, headers=_passed_on(answer.headers), body=await answer.read()
            )

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """A read: passed on piece by piece, since a watch has no end."""
        async with self._upstream(request, None) as answer:
            response = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
            return response

    def _upstream(self, request: web.Request, body: bytes | None) -> aiohttp.client._RequestContextManager:
        headers = _passed_on(request.headers)
        headers["Accept-Encoding"] = "identity"
        url = URL(self.connection.server + request.raw_path, encoded=True)
        return self._session.request(request.method, url, headers=headers, data=body)


def _passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    kept = CIMultiDict(list(headers.items()))
    for name in _HOP_BY_HOP:
        kept.popall(name, None)
    return kept


def _target(method: str, path: str, body: bytes) -> str:
    """Below the namespace, whose name differs from run to run; a new object's name is in its body."""
    target = path.partition("/namespaces/")[2].partition("/")[2]
    return f"{target}/{json.loads(body)['metadata']['name']}" if method == "POST" else target
