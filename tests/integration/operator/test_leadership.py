"""Two operators, one Lease: only the one that leads writes, even if it stops in its work and wakes again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from evolving_operator.api import names
from evolving_operator.cluster.connection import Connection
from support.api_client import close
from support.cluster import eventually_async
from support.operator_process import LEASE_SECONDS, Place

pytestmark = pytest.mark.cluster

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_TOLD_TO_STOP = 15  # seconds: far more than the three that a hand-over is to take


def agent(name: str, instructions: str = "You route requests.") -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.AGENT_KIND,
        "metadata": {"name": name},
        "spec": {
            "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
            "agent": {"instructions": instructions, "replicas": 0},
        },
    }


@dataclass
class Witness:
    """Stands between one operator and the API server, and notes what it writes: to the Lease, and else."""

    connection: Connection
    writes: list[str] = field(default_factory=list)
    renewals: int = 0  # of the Lease, that were accepted
    _session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[str]:
        app = web.Application(client_max_size=16 << 20)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        async with self.connection.session() as session:
            self._session = session
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            try:
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
            finally:
                await runner.cleanup()
                # Watches that were cut off end their TLS politely, even where the session is closed at once.
                await close(session)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        body = await request.read()
        headers = {
            name: request.headers[name] for name in ("Content-Type", "Accept") if name in request.headers
        }
        url = URL(self.connection.server + request.raw_path, encoded=True)
        is_lease = "/leases" in request.path
        if request.method in _WRITES and not is_lease:
            self.writes.append(f"{request.method} {request.path}")
        async with self._session.request(request.method, url, headers=headers, data=body or None) as answer:
            if request.method in _WRITES and is_lease and answer.status < 300:
                self.renewals += 1
            response = web.StreamResponse(
                status=answer.status, headers={"Content-Type": answer.headers.get("Content-Type", "")}
            )
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response


@dataclass
class Rival:
    process: asyncio.subprocess.Process
    witness: Witness

    @property
    def leads(self) -> bool:
        return self.witness.renewals > 0


@asynccontextmanager
async def rival(place: Place, directory: Path, name: str) -> AsyncIterator[Rival]:
    """An operator process behind a witness of its own; killed at the end, if it still runs."""
    witness = Witness(Connection.from_kubeconfig(place.operator_kubeconfig))
    async with witness.watching() as url:
        kubeconfig = directory / f"{name}.kubeconfig"
        kubeconfig.write_text(
            json.dumps(
                {
                    "current-context": "witness",
                    "contexts": [{"name": "witness", "context": {"cluster": "witness", "user": "witness"}}],
                    "clusters": [{"name": "witness", "cluster": {"server": url}}],
                    "users": [{"name": "witness", "user": {}}],
                }
            )
        )
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "POD_NAME": name,
            "EVOLVING_OPERATOR_NAMESPACES": place.namespace,
            "EVOLVING_OPERATOR_LEASE_NAME": place.release,
            "EVOLVING_OPERATOR_LEASE_NAMESPACE": place.namespace,
            "EVOLVING_OPERATOR_LEASE_SECONDS": str(LEASE_SECONDS),
            "EVOLVING_OPERATOR_METRICS_PORT": "0",
        }
        with (directory / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "evolving_operator", "run", env=environment, stderr=log
            )
        try:
            yield Rival(process, witness)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def until(is_reached: Any, message: str, timeout: float = 60) -> None:  # noqa: ASYNC109
    async def reached() -> bool:
        return bool(is_reached())

    await eventually_async(reached, timeout, message)


async def test_a_leader_that_was_stopped_and_wakes_up_writes_nothing(place: Place, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(rival(place, tmp_path, "first"))
        await until(lambda: first.leads, "the first leads")
        second = await stack.enter_async_context(rival(place, tmp_path, "second"))
        await asyncio.to_thread(place.apply, agent("one"))
        await until(lambda: first.witness.writes, "the first writes")
        assert second.witness.writes == []

        # asleep in the middle of its work: there is something that it would write
        first.process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(place.apply, agent("two"))
        await until(lambda: second.leads, "the second leads")
        await until(lambda: any("two" in write for write in second.witness.writes), "the second works")
        before = list(first.witness.writes)
        await asyncio.to_thread(place.apply, agent("three"))

        first.process.send_signal(signal.SIGCONT)
        await until(lambda: first.process.returncode is not None, "the first has ended", _TOLD_TO_STOP)

        assert first.process.returncode == 1
        # What was on its way when it fell asleep may have arrived; nothing is begun after.
        assert [
            write for write in first.witness.writes[len(before) :] if "two" in write or "three" in write
        ] == []
        await until(lambda: any("three" in write for write in second.witness.writes), "the second goes on")


async def test_a_leader_that_is_told_to_stop_hands_over(place: Place, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(rival(place, tmp_path, "first"))
        await until(lambda: first.leads, "the first leads")
        second = await stack.enter_async_context(rival(place, tmp_path, "second"))
        await asyncio.to_thread(place.apply, agent("one"))
        await until(lambda: first.witness.writes, "the first writes")

        first.process.terminate()
        await until(lambda: second.leads, "the second leads", _TOLD_TO_STOP)

        assert await first.process.wait() == 0
        written = len(first.witness.writes)
        await asyncio.to_thread(place.apply, agent("two"))
        await until(lambda: any("two" in write for write in second.witness.writes), "the second works")
        assert len(first.witness.writes) == written


async def test_a_lease_that_a_person_deletes_or_clears_makes_no_second_leader(
    place: Place, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(rival(place, tmp_path, "first"))
        await until(lambda: first.leads, "the first leads")
        second = await stack.enter_async_context(rival(place, tmp_path, "second"))
        await asyncio.to_thread(place.apply, agent("one"))
        await until(lambda: first.witness.writes, "the first writes")
        waits = [line for line in (tmp_path / "second.log").read_text().splitlines() if "leading" in line]
        assert waits == []

        for number, mischief in enumerate(
            (
                ("delete", "lease", place.release),
                ("patch", "lease", place.release, "--type=merge", "-p", '{"spec":{"holderIdentity":""}}'),
                ("patch", "lease", place.release, "--type=merge", "-p", '{"spec":null}'),
            )
        ):
            renewals = first.witness.renewals
            await asyncio.to_thread(place.kubectl, *mischief)
            await until(lambda seen=renewals: first.witness.renewals > seen, "the first takes it back")
            name = f"after-{number}"
            await asyncio.to_thread(place.apply, agent(name))
            await until(lambda part=name: any(part in write for write in first.witness.writes), "it works")

        assert first.process.returncode is None
        assert second.witness.writes == []
        assert not second.leads
