"""kopf's watches meet what kopf gives up at: they begin again, the process goes on, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from support.cluster import eventually_async
from support.operator_process import free_port
from support.scripted_api_server import Fault, ScriptedApiServer, no_fault

SECONDS = 60
MOST_WATCHES = 60  # in a few seconds of one fault


@dataclass
class Process:
    process: asyncio.subprocess.Process
    port: int
    lines: list[str] = field(default_factory=list)

    def errors(self) -> list[str]:
        return [line for line in self.lines if json.loads(line)["level"] in ("ERROR", "CRITICAL")]

    async def metric(self, name: str) -> float:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}/metrics") as answer,
        ):
            text = await answer.text()
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), SECONDS)


@asynccontextmanager
async def operating(url: str, directory: Path) -> AsyncIterator[Process]:
    kubeconfig = directory / "kubeconfig"
    names = {"cluster": "here", "user": "here"}
    kubeconfig.write_text(
        json.dumps(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": names}],
                "clusters": [{"name": "here", "cluster": {"server": url}}],
                "users": [{"name": "here", "user": {}}],
            }
        )
    )
    port = free_port()
    environment = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "EVOLVING_OPERATOR_METRICS_PORT": str(port),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "evolving_operator",
        "run",
        env=environment,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    operator = Process(process, port)

    async def read() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            operator.lines.append(line.decode())

    reading = asyncio.create_task(read())
    try:
        yield operator
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def until(is_reached: Callable[[], bool], what: str) -> None:
    async def reached() -> bool:
        return is_reached()

    await eventually_async(reached, SECONDS, what)


def says(text: str) -> Fault:
    async def fault(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(text.encode() + b"\n")
        return response

    return fault


def answers(status: int, **headers: str) -> Fault:
    async def fault(_: web.Request) -> web.StreamResponse:
        raw = {"kind": "Status", "code": status, "message": "no"}
        return web.json_response(raw, status=status, headers=headers)

    return fault


FAULTS = {
    "an error of the server": says('{"type": "ERROR", "object": {"kind": "Status", "code": 500}}'),
    "an error without a code": says('{"type": "ERROR", "object": {}}'),
    "half a line": says('{"type": "ADD'),
    "a web page": says("<html>"),
    "404": answers(404),
    "410": answers(410),
    "401": answers(401),
    "403": answers(403),
    "429 for a day": answers(429, **{"Retry-After": "86400"}),
    "429 until a date": answers(429, **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
    "an end": says('{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "100"}}}'),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_watch_that_fails_begins_again(tmp_path: Path, fault: Fault) -> None:
    server = ScriptedApiServer()
    async with server.serving() as url, operating(url, tmp_path) as operator:
        await until(lambda: server.watches_of_agents > 0, "kopf watches")

        # what happens to the watches happens to each of them for a while
        server.fault, before = fault, server.watches_of_agents
        server.end_watches()
        await until(lambda: server.watches_of_agents >= before + 4, "they are asked for again")
        asked = server.watches_of_agents
        await asyncio.sleep(2)
        assert server.watches_of_agents - asked < MOST_WATCHES
        server.fault = no_fault
        server.add_agent("late")

        await until(lambda: server.has_dealt_with("late"), "the agent has been seen")
        assert operator.errors() == []
        assert await operator.stop() == 0


@pytest.fixture
def deep_json() -> Iterator[None]:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(30_000)  # the scripted server reads and writes it too
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("deep_json")
async def test_an_agent_as_deep_as_the_api_server_takes_it_hides_no_other(tmp_path: Path) -> None:
    """Ten thousand levels, in what a schema leaves open."""
    deep = json.loads('{"a":' * 9900 + "1" + "}" * 9900)
    server = ScriptedApiServer()
    server.add_agent("deep", podTemplate={"spec": {"x": deep}})
    server.add_agent("listed")
    async with server.serving() as url, operating(url, tmp_path) as operator:
        await until(lambda: server.has_dealt_with("listed"), "it has been listed")
        await until(lambda: server.watches_of_agents > 0, "kopf watches")

        server.add_agent("deeper", podTemplate={"spec": {"y": deep}})
        server.add_agent("late")

        await until(lambda: server.has_dealt_with("late"), "the agent has been seen")
        assert not any("watches begin again" in line for line in operator.lines)
        assert operator.errors() == []
        assert await operator.stop() == 0


async def test_the_end_of_the_last_agent_is_noticed_though_it_was_not_watched(tmp_path: Path) -> None:
    server = ScriptedApiServer()
    server.add_agent("last")
    async with server.serving() as url, operating(url, tmp_path) as operator:
        await until(lambda: server.watches_of_agents > 0, "kopf watches")
        await until(lambda: server.lists_of_agents >= 3, "all lists of a beginning are over")

        server.fault = answers(410)
        before = server.watches_of_agents
        server.end_watches()
        server.agents.clear()
        server.version += 1
        await until(lambda: server.watches_of_agents > before, "the watch cannot go on")
        server.fault = no_fault

        async def is_forgotten() -> bool:
            return await operator.metric("evolving_operator_agents") == 0

        await eventually_async(is_forgotten, SECONDS, "it is forgotten")
        assert operator.errors() == []


async def test_kinds_that_go_and_come_back_are_watched_again(tmp_path: Path) -> None:
    server = ScriptedApiServer()
    async with server.serving() as url, operating(url, tmp_path) as operator:
        await until(lambda: server.watches_of_agents > 0, "kopf watches")

        server.are_agents_served = False  # their CRD is deleted
        server.end_watches()
        await until(lambda: any("CRDs installed" in line for line in operator.lines), "it is noticed")
        server.are_agents_served = True
        before = server.watches_of_agents
        await until(lambda: server.watches_of_agents > before, "kopf watches again")
        server.add_agent("late")

        await until(lambda: server.has_dealt_with("late"), "the agent has been seen")
        assert operator.errors() == []
        assert await operator.stop() == 0
