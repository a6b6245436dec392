"""Serving pods whose memory is a PostgreSQL database: each has a disk of its own, as on another node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest

from evolving_agent.contract import env
from evolving_agent.contract.config import MemoryType
from evolving_agent.memory.postgres.schema import schema_name
from evolving_agent.testing.scripted_model import ScriptedModel, served
from support.pods import DEADLINE_SECONDS, Pod, PodProcess, a_config, eventually, running
from support.postgres import PASSWORD, PostgresServer, database_of, postgres_server

UP = 'evolving_agent_memory_up{type="PostgreSQL"}'
SCHEMA = schema_name("bank", "support")


@pytest.fixture(scope="module")
def mortal() -> Iterator[PostgresServer]:
    """A server that these tests may stop; each leaves it running."""
    with postgres_server() as server:
        yield server


@dataclass
class Place:
    model: ScriptedModel
    url: str
    directory: Path
    uri: str

    def pod(self, number: int = 0) -> Pod:
        """Without a common disk."""
        return Pod(
            self.directory / f"node-{number}",
            a_config(self.url, memory=MemoryType.POSTGRESQL),
            f"support-{number}",
            variables={env.AGENT_NAMESPACE: "bank", env.MEMORY_URI: self.uri},
        )

    def said(self) -> list[str]:
        """What the model was sent last, without the agent's instructions."""
        return [message["content"] for message in self.model.requests[-1]["messages"][1:]]


@pytest.fixture
async def place(mortal: PostgresServer, tmp_path: Path) -> AsyncIterator[Place]:
    model = ScriptedModel()
    async with served(model.app) as url:
        yield Place(model, url, tmp_path, mortal.new_database())


async def test_what_one_pod_learns_another_one_recalls(place: Place) -> None:
    async with running(place.pod(0)) as one, running(place.pod(1)) as other:
        answer = await one.ask("I lost my bank card")
        correction = {"completion_id": answer["id"], "correction": {"answer": "Block it at once."}}
        assert (await one.post("/v1/feedback", correction)).status_code == 201

        await other.ask("My bank card is lost")

        assert "Block it at once." in other.episodes()[0].system
        assert not other.store.memory_database.exists()
        assert await other.metric('evolving_agent_memory_recalls_total{outcome="hit"}') == 1
        assert (await one.metric(UP), await other.metric(UP)) == (1, 1)


async def test_a_conversation_goes_on_at_another_pod(place: Place) -> None:
    session = {"X-Session-Id": "s"}
    async with running(place.pod(0)) as one, running(place.pod(1)) as other, one.client() as client:
        await one.ask("One", **session)
        await other.ask("Two", **session)
        assert place.said() == ["One", "echo: One", "Two"]

        first = await client.responses.create(model="x", input="Hi")
        async with other.client() as elsewhere:
            await elsewhere.responses.create(model="x", input="More", previous_response_id=first.id)
            assert place.said() == ["Hi", "echo: Hi", "More"]
            kept = await elsewhere.responses.retrieve(first.id)
            assert kept.output_text == "echo: Hi"


async def test_a_pod_starts_and_answers_while_the_database_is_gone(
    place: Place, mortal: PostgresServer
) -> None:
    mortal.stop()
    pod = place.pod()
    async with running(pod):
        ready = await pod.get("/readyz")
        assert ready.status_code == 200
        (problem,) = ready.json()["problems"]
        assert problem.startswith("the memory database cannot be used")
        assert PASSWORD not in problem
        answer = await pod.ask("I lost my card")
        assert answer["choices"][0]["message"]["content"] == "echo: I lost my card"
        assert await pod.metric('evolving_agent_memory_recalls_total{outcome="failed"}') == 1
        assert await pod.metric(UP) == 0

        mortal.start()
        await eventually(lambda: pod.metric(UP), "a memory that is back")
        assert (await pod.get("/readyz")).json() == {"status": "ready"}
        await pod.ask("Hi", **{"X-Session-Id": "s"})
        assert await pod.metric('evolving_agent_turns_kept_total{outcome="ok"}') == 1


async def test_a_lesson_that_memory_cannot_take_is_in_the_log_and_counted(
    place: Place, mortal: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolving_agent.memory.postgres.database.PATIENCE_SECONDS", 0.1)
    async with running(place.pod()) as pod:
        answer = await pod.ask("I lost my bank card")
        mortal.stop()
        correction = {"completion_id": answer["id"], "correction": {"answer": "Block it at once."}}
        assert (await pod.post("/v1/feedback", correction)).status_code == 201
        mortal.start()

        assert [record.correction.answer for record in pod.reflections() if record.correction] == [
            "Block it at once."
        ]
        assert await pod.metric('evolving_agent_memory_writes_total{outcome="failed"}') == 1


async def test_a_conversation_that_cannot_be_read_for_long_is_refused(
    place: Place, mortal: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolving_agent.memory.postgres.database.PATIENCE_SECONDS", 0.1)
    async with running(place.pod()) as pod:
        mortal.stop()
        body = {"messages": [{"role": "user", "content": "Hi"}], "metadata": {"session_id": "s"}}
        refused = await pod.post("/v1/chat/completions", body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "SessionsUnavailable")
        assert (await pod.ask("Hi"))["choices"][0]["message"]["content"] == "echo: Hi"
        mortal.start()


@pytest.mark.parametrize("uri", ["", f"postgresql://ada:{PASSWORD}@db/memory"])
async def test_a_secret_that_holds_no_uri_is_told_and_not_shown(place: Place, uri: str) -> None:
    pod = place.pod()
    pod.variables[env.MEMORY_URI] = uri
    pod.directory.mkdir()
    pod.write_config()
    process = await PodProcess.start(pod)
    try:
        status = await asyncio.wait_for(process.process.wait(), DEADLINE_SECONDS)
    finally:
        await process.kill()

    assert status == env.EXIT_RETRY
    told = json.loads(pod.termination_log.read_bytes())
    assert told["reason"] == "InvalidMemoryURI"
    assert "Secret" in told["message"]
    assert PASSWORD not in told["message"] + process.log()


@pytest.mark.parametrize("end", ["kill", "fast"])
async def test_a_database_that_restarts_under_requests_costs_none(
    place: Place, mortal: PostgresServer, end: str
) -> None:
    """Half of the requests belong to sessions, each at whichever pod: no turn is missing in the end."""
    processes = [await _started(place.pod(number)) for number in range(2)]
    stop = asyncio.Event()
    asked: dict[str, int] = {}
    failed: list[str] = []

    async def ask(http: httpx.AsyncClient, worker: int) -> None:
        session = f"session-{worker}" if worker % 2 else None
        number = 0
        while not stop.is_set() or number < 5:
            pod = processes[(worker + number) % 2].pod
            response = await http.post(
                f"{pod.url}/v1/chat/completions",
                json={"messages": [{"role": "user", "content": f"question {number}"}]},
                headers={"X-Session-Id": session} if session else {},
            )
            number += 1
            if response.status_code != 200:
                failed.append(response.text)
        if session:
            asked[session] = number

    try:
        async with httpx.AsyncClient(timeout=DEADLINE_SECONDS) as http:
            workers = [asyncio.create_task(ask(http, worker)) for worker in range(8)]
            for _ in range(3):
                before = await _answered(processes)
                await eventually(partial(_more, processes, before + 40), "requests on their way")
                await asyncio.to_thread(mortal.kill if end == "kill" else mortal.stop, *_mode(end))
                before = await _answered(processes)
                await eventually(partial(_more, processes, before + 1), "answers meanwhile")
                await asyncio.to_thread(mortal.start)
                await eventually(lambda: _all_up(processes), "a memory that is back")
            stop.set()
            await asyncio.gather(*workers)

        assert failed == []
        rows = mortal.execute(
            f'SELECT session, count(*) FROM "{SCHEMA}".turn GROUP BY session', database_of(place.uri)
        )
        assert dict(rows) == asked
        for process in processes:
            assert await process.pod.metric('evolving_agent_turns_kept_total{outcome="failed"}') == 0
            assert await process.pod.metric('evolving_agent_memory_recalls_total{outcome="failed"}') > 0
            assert await process.terminate() == 0
            assert PASSWORD not in process.log()
    finally:
        for process in processes:
            await process.kill()


async def _started(pod: Pod) -> PodProcess:
    pod.directory.mkdir()
    pod.write_config()
    process = await PodProcess.start(pod)
    await process.until_ready()
    return process


def _mode(end: str) -> tuple[str, ...]:
    return () if end == "kill" else (end,)


async def _answered(processes: list[PodProcess]) -> float:
    ok = 'evolving_agent_requests_total{arm="active",model="tiny",outcome="ok",revision="support-00000001"}'
    return sum([await process.pod.metric(ok) for process in processes])


async def _more(processes: list[PodProcess], than: float) -> bool:
    return await _answered(processes) > than


async def _all_up(processes: list[PodProcess]) -> bool:
    return all([await process.pod.metric(UP) for process in processes])
