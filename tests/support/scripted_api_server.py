"""As much of an API server as an operator needs; its watches of agents do what a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from evolving_operator.api import names
from evolving_operator.cluster.kinds import AGENT, CACHED, LEASE, Kind

Raw = dict[str, Any]
# In place of a watch of agents: an answer of its own, or None to watch as usual.
Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]

_KINDS = (*CACHED, LEASE)
_NAMESPACES = Kind("v1", "Namespace", "namespaces")  # kopf waits until it knows of them


async def no_fault(_: web.Request) -> None:
    return None


@dataclass
class ScriptedApiServer:
    """Lists are empty, but for `agents`; what is written is answered as if it were stored."""

    fault: Fault = no_fault
    are_agents_served: bool = True
    agents: list[Raw] = field(default_factory=list)
    watches_of_agents: int = 0  # asked for, in vain or not
    lists_of_agents: int = 0
    written: list[str] = field(default_factory=list)  # paths, without those of Leases
    lease: Raw | None = None
    version: int = 100
    _watchers: dict[str, list[asyncio.Queue[Raw | None]]] = field(default_factory=dict)  # by plural

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Yields the URL."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        async with TestServer(app, handler_cancellation=True, shutdown_timeout=0.1) as server:
            yield str(server.make_url("")).rstrip("/")

    def add_agent(self, name: str, **more: Any) -> None:
        """As a user does: watches tell of it."""
        self.version += 1
        raw = {
            "apiVersion": names.API_VERSION,
            "kind": names.AGENT_KIND,
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"uid-{name}",
                "resourceVersion": str(self.version),
                "generation": 1,
            },
            "spec": {
                "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
                "agent": {"instructions": "You route requests.", **more},
            },
        }
        self.agents.append(raw)
        self._tell(AGENT.plural, "ADDED", raw)

    def end_watches(self) -> None:
        """Of agents, as the server does every few minutes."""
        for queue in self._watchers.get(AGENT.plural, []):
            queue.put_nowait(None)

    def has_dealt_with(self, agent: str) -> bool:
        return any(f"/{agent}" in path for path in self.written)

    def _tell(self, plural: str, event: str, raw: Raw) -> None:
        for queue in self._watchers.get(plural, []):
            queue.put_nowait({"type": event, "object": raw})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if (found := self._discovered(request.path)) is not None:
            return web.json_response(found)
        kind = next((kind for kind in _KINDS if kind.plural in request.path.split("/")), None)
        if kind is None or (kind == AGENT and not self.are_agents_served):
            return web.json_response({"kind": "Status", "code": 404, "reason": "NotFound"}, status=404)
        if request.method != "GET":
            return await self._write(request, kind)
        if request.query.get("watch"):
            return await self._watch(request, kind)
        return self._read(request.path, kind)

    def _read(self, path: str, kind: Kind) -> web.Response:
        items = self.agents if kind == AGENT else [self.lease] if kind == LEASE and self.lease else []
        if not path.endswith(f"/{kind.plural}"):
            return _one(path, items)
        self.lists_of_agents += kind == AGENT
        metadata = {"resourceVersion": str(self.version)}
        return web.json_response(
            {
                "kind": f"{kind.kind}List",
                "apiVersion": kind.api_version,
                "metadata": metadata,
                "items": items,
            }
        )

    def _discovered(self, path: str) -> Raw | None:
        kinds = [kind for kind in (*_KINDS, _NAMESPACES) if kind != AGENT or self.are_agents_served]
        if path == "/api":
            return {"versions": ["v1"]}
        if path == "/apis":
            groups = sorted({(kind.group, kind.version) for kind in kinds if kind.group})
            return {
                "groups": [
                    {
                        "name": group,
                        "versions": [{"version": version}],
                        "preferredVersion": {"version": version},
                    }
                    for group, version in groups
                ]
            }
        found = [kind for kind in kinds if path in (f"/apis/{kind.api_version}", f"/api/{kind.api_version}")]
        if not found:
            return None
        return {
            "resources": [
                {
                    "name": kind.plural,
                    "kind": kind.kind,
                    "singularName": kind.kind.lower(),
                    "namespaced": True,
                    "verbs": ["get", "list", "watch", "patch"],
                }
                for kind in found
            ]
        }

    async def _write(self, request: web.Request, kind: Kind) -> web.Response:
        self.version += 1
        raw = await request.json()
        raw.setdefault("spec", {})
        raw["metadata"] |= {
            "uid": raw["metadata"].get("uid") or f"uid-{self.version}",
            "resourceVersion": str(self.version),
        }
        if kind == LEASE:
            self.lease = raw
            self._tell(LEASE.plural, "MODIFIED", raw)
        else:
            self.written.append(f"{request.path}/{raw['metadata']['name']}")
        return web.json_response(raw)

    async def _watch(self, request: web.Request, kind: Kind) -> web.StreamResponse:
        if kind == AGENT:
            self.watches_of_agents += 1
            if (answer := await self.fault(request)) is not None:
                return answer
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[Raw | None] = asyncio.Queue()
        seen = int(request.query.get("resourceVersion", "0"))
        for raw in self.agents if kind == AGENT else ():
            if int(raw["metadata"]["resourceVersion"]) > seen:
                queue.put_nowait({"type": "ADDED", "object": raw})
        self._watchers.setdefault(kind.plural, []).append(queue)
        try:
            while (event := await queue.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
            return response
        finally:
            self._watchers[kind.plural].remove(queue)


def _one(path: str, known: list[Raw]) -> web.Response:
    name = path.rpartition("/")[2]
    for raw in known:
        if raw["metadata"]["name"] == name:
            return web.json_response(raw)
    gone = {"kind": "Status", "code": 404, "reason": "NotFound", "details": {"name": name}}
    return web.json_response(gone, status=404)
