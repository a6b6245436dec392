"""Waiting, giving up and draining, over real connections on the loopback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from evolving_model_server.app import create_app
from support.scripted_engine import ScriptedEngine

HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
LIMIT = 3


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, "did not come about in time"
        await asyncio.sleep(0.01)


async def in_progress(http: httpx.AsyncClient, count: int) -> None:
    """Waits until the server has so many generations that run or wait."""

    async def counted() -> bool:
        page = (await http.get("/metrics")).text
        return f"evolving_model_requests_in_progress {count}.0" in page

    await eventually(counted)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda generation: "abcdefgh")


@pytest.fixture
async def server(engine: ScriptedEngine, tmp_path: Path) -> AsyncIterator[uvicorn.Server]:
    app = create_app(engine, "tiny", tmp_path, queue_limit=LIMIT)
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=10))
    serving = asyncio.create_task(running.serve())

    async def started() -> bool:
        return running.started

    await eventually(started)
    yield running
    engine.gate.set()
    running.should_exit = True
    await serving


@pytest.fixture
async def http(server: uvicorn.Server) -> AsyncIterator[httpx.AsyncClient]:
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        yield client


def ask(http: httpx.AsyncClient, **fields: Any) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(http.post("/v1/chat/completions", json=HELLO | fields))


async def test_one_at_a_time_first_come_first_served_and_the_rest_is_told_to_come_back(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    # Given a model that is busy, and as many requests as may wait, each with a seed of its own
    engine.gate.clear()
    waiting = []
    for seed in range(LIMIT):
        waiting.append(ask(http, seed=seed))
        await in_progress(http, len(waiting))
    # When one more comes
    refused = await http.post("/v1/chat/completions", json=HELLO)
    # Then it is told to come back, and the others are answered in the order in which they came
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    assert refused.json()["error"]["code"] == "queue_full"
    engine.gate.set()
    answers = await asyncio.gather(*waiting)
    assert [answer.status_code for answer in answers] == [200] * LIMIT
    assert [generation.seed for generation in engine.asked] == list(range(LIMIT))
    assert len(engine.threads) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_generation(
    http: httpx.AsyncClient, engine: ScriptedEngine, stream: bool
) -> None:
    engine.gate.clear()
    leaving = ask(http, stream=stream)
    await in_progress(http, 1)
    leaving.cancel()
    await in_progress(http, 0)
    engine.gate.set()

    answered = await http.post("/v1/chat/completions", json=HELLO)

    assert answered.status_code == 200
    assert len(engine.said) < 2 * len("abcdefgh")
    page = (await http.get("/metrics")).text
    assert 'status="499"} 1.0' in page


async def test_a_client_that_leaves_the_queue_is_never_generated_for(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.gate.clear()
    first = ask(http, seed=1)
    await in_progress(http, 1)
    leaving = ask(http, seed=2)
    await in_progress(http, 2)
    leaving.cancel()
    await in_progress(http, 1)
    engine.gate.set()
    await first
    await http.post("/v1/chat/completions", json=HELLO | {"seed": 3})

    assert [generation.seed for generation in engine.asked] == [1, 3]


async def test_what_runs_at_the_end_is_finished(
    http: httpx.AsyncClient, engine: ScriptedEngine, server: uvicorn.Server
) -> None:
    engine.gate.clear()
    running = ask(http)
    await in_progress(http, 1)
    server.should_exit = True

    async def closed() -> bool:
        return not server.servers[0].is_serving()

    await eventually(closed)
    engine.gate.set()

    assert (await running).json()["choices"][0]["message"]["content"] == "abcdefgh"
