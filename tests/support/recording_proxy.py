"""A proxy before the API server: counts a client's writes, and harms it at any of them, or its watches."""

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

from support.api_client import Target, close

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# These speak of one connection, and the proxy has two; it reads bodies, so that they come uncompressed.
_HOP_BY_HOP = ("Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length", "Host", "Accept-Encoding")
_DELAY_SECONDS = 2.0
_SLOW_SECONDS = 3.0
_EVENT_BYTES = 4 << 20


class Strike(StrEnum):
    """What happens at one write."""

    KILL_BEFORE = "killed before"  # the client dies, and the write never reached the API server
    KILL_AFTER = "killed after"  # the client dies, and the write took effect
    CONFLICT = "409"
    INVALID = "422"
    TOO_MANY = "429"
    INTERNAL = "500"
    UNAVAILABLE = "503"
    RESET = "reset"  # the connection, before the API server heard of the write
    LOST = "reset after commit"
    LATE = "504 after commit"
    SILENCE = "no answer after commit"  # until the client gives up
    SLOW = "answer three seconds late"  # what it says may be old by then


KILLS = (Strike.KILL_BEFORE, Strike.KILL_AFTER)
FAULTS = tuple(strike for strike in Strike if strike not in KILLS)
_REFUSED = frozenset({Strike.CONFLICT, Strike.INVALID, Strike.TOO_MANY, Strike.INTERNAL, Strike.UNAVAILABLE})
_REASONS = {
    Strike.CONFLICT: "Conflict",
    Strike.INVALID: "Invalid",
    Strike.TOO_MANY: "TooManyRequests",
    Strike.INTERNAL: "InternalError",
    Strike.UNAVAILABLE: "ServiceUnavailable",
}


class WatchFault(StrEnum):
    """What happens to the events of all watches for as long as it lasts."""

    MUTED = "all events dropped"
    DROPPED = "every second event dropped"
    DELAYED = "events two seconds late"
    REORDERED = "events in pairs, the second one first"
    FROZEN = "no bytes, connection open"  # at its end the connection breaks


@dataclass(frozen=True)
class Point:
    """One moment of a client's life: `strike` at its write number `index`, counted from 0."""

    index: int
    strike: Strike


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

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


@dataclass
class RecordingProxy:
    """Passes everything on to the API server, as its administrator. Writes of Leases are not counted.

    `kill` must end the client at once.
    """

    target: Target
    kill: Callable[[], None]
    points: frozenset[Point] = frozenset()
    targets: dict[str, Strike] = field(default_factory=dict)  # at the next write of this, by str(Write)
    watch_fault: WatchFault | None = None
    writes: list[Write] = field(default_factory=list)
    struck: list[Point] = field(default_factory=list)
    struck_at: float = 0.0  # time.monotonic() of the end of the last strike
    under_way: int = 0  # writes that have not been answered
    last_write_at: float = 0.0  # time.monotonic()
    begun_at: float = 0.0  # time.monotonic()
    leading_since: float | None = None  # first write of the Lease; whoever starts another client resets it
    _session: aiohttp.ClientSession = field(init=False)

    def begin(self, points: frozenset[Point]) -> None:
        """Count from 0 again, and strike at these points."""
        self.points, self.writes, self.struck = points, [], []
        self.begun_at = time.monotonic()

    def is_quiet(self, seconds: float) -> bool:
        """Whether a client leads, and has written nothing for so long since all counting began."""
        if self.leading_since is None or self.under_way:
            return False
        return time.monotonic() - max(self.leading_since, self.last_write_at, self.begun_at) > seconds

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Yields the URL, on the loopback interface and without TLS."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self.target.tls),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=_EVENT_BYTES,
        )
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
            await close(self._session)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            if request.method in _WRITES:
                return await self._write(request)
            if request.query.get("watch") in ("1", "true"):
                return await self._watch(request)
            return await self._ask(request)
        except aiohttp.ClientError:  # the API server is gone: so is this connection
            return _dropped(request)

    # --- writes ---

    async def _write(self, request: web.Request) -> web.Response:
        if "/leases" in request.path:
            answer = await self._ask(request)
            if answer.status < 300 and self.leading_since is None:
                self.leading_since = time.monotonic()
            return answer
        target = _target(request.method, request.path, await request.read())
        # What is under way when counting begins again is still written down where it was counted.
        writes, index = self.writes, len(self.writes)
        writes.append(Write(request.method, target))
        strike = next((point.strike for point in self.points if point.index == index), None)
        strike = self.targets.pop(str(writes[index]), strike)
        if strike is not None:
            self.struck.append(Point(index, strike))
        self.under_way += 1
        try:
            return await self._struck(request, writes, index, strike)
        finally:
            self.under_way -= 1
            self.last_write_at = time.monotonic()
            if strike is not None:
                self.struck_at = self.last_write_at

    async def _struck(
        self, request: web.Request, writes: list[Write], index: int, strike: Strike | None
    ) -> web.Response:
        if strike in _REFUSED:
            return _refusal(strike)
        if strike is Strike.KILL_BEFORE:
            self.kill()
        if strike in (Strike.KILL_BEFORE, Strike.RESET):
            return _dropped(request)
        # Shielded: what has been sent takes effect, whether or not somebody waits for the answer.
        answer = await asyncio.shield(self._ask(request))
        writes[index] = Write(request.method, writes[index].target, answer.status)
        match strike:
            case Strike.KILL_AFTER:
                self.kill()
                return _dropped(request)
            case Strike.LOST:
                return _dropped(request)
            case Strike.LATE:
                return web.Response(status=504, text="upstream request timeout")
            case Strike.SILENCE:
                await asyncio.Event().wait()  # cancelled when the client hangs up
            case Strike.SLOW:
                await asyncio.sleep(_SLOW_SECONDS)
        return answer

    # --- reads ---

    async def _ask(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self._upstream(request, body) as answer:
            return web.Response(
                status=answer.status, headers=_passed_on(answer.headers), body=await answer.read()
            )

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        async with self._upstream(request, b"") as answer:
            response = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                await self._pass_events_on(answer, response)
                await response.write_eof()
            return response

    async def _pass_events_on(self, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        """Line by line, with the harm that is being done to watches. Returns where the watch is to end."""
        count, kept = 0, b""
        async for line in answer.content:
            fault = self.watch_fault
            is_news = b'"type":"BOOKMARK"' not in line[:40]
            count += is_news
            if fault is WatchFault.FROZEN:
                while self.watch_fault is WatchFault.FROZEN:  # noqa: ASYNC110 - a test ends it, by a plain field
                    await asyncio.sleep(0.1)
                return
            is_dropped = fault is WatchFault.MUTED or (fault is WatchFault.DROPPED and count % 2)
            if is_news and is_dropped:
                continue
            if fault is WatchFault.DELAYED:
                await asyncio.sleep(_DELAY_SECONDS)
            if fault is WatchFault.REORDERED and not kept:
                kept = line
                continue
            await response.write(line + kept)
            kept = b""

    def _upstream(self, request: web.Request, body: bytes) -> aiohttp.client._RequestContextManager:
        headers = _passed_on(request.headers)
        headers["Accept-Encoding"] = "identity"
        url = URL(self.target.server + request.raw_path, encoded=True)
        return self._session.request(request.method, url, headers=headers, data=body or None)


def _dropped(request: web.Request) -> web.Response:
    """An answer that reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)


def _refusal(strike: Strike) -> web.Response:
    """As the API server words it."""
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": int(strike),
        "reason": _REASONS[strike],
        "message": f"the proxy answers {strike}",
    }
    headers = {"Retry-After": "1"} if strike is Strike.TOO_MANY else {}
    return web.json_response(status, status=int(strike), headers=headers)


def _passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    kept = CIMultiDict(list(headers.items()))
    for name in _HOP_BY_HOP:
        kept.popall(name, None)
    return kept


def _target(method: str, path: str, body: bytes) -> str:
    """Below the namespace, whose name differs from run to run; a new object's name is in its body."""
    target = path.partition("/namespaces/")[2].partition("/")[2]
    return f"{target}/{json.loads(body)['metadata']['name']}" if method == "POST" else target
