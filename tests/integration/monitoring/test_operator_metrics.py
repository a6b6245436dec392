"""The operator's metrics as Prometheus asks for them."""

from __future__ import annotations

import aiohttp
import pytest

from evolving_operator.api import names
from evolving_operator.cluster.cache import Cache
from evolving_operator.shell.telemetry import Probes, Telemetry, serve
from support.operator_process import free_port

AGENTS = ("cards", "loans")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["evolving_operator_agent_ready"], {"evolving_operator_agent_ready"}),
        (
            ["evolving_operator_queue_depth", "evolving_operator_agents"],
            {"evolving_operator_queue_depth", "evolving_operator_agents"},
        ),
        (["another"], set()),
    ],
)
async def test_single_metrics_can_be_asked_for(asked: list[str], told: set[str]) -> None:
    cache = Cache()
    for name in AGENTS:
        cache.put(
            {
                "apiVersion": names.API_VERSION,
                "kind": names.AGENT_KIND,
                "metadata": {"name": name, "namespace": "bank", "uid": name, "resourceVersion": "1"},
                "spec": {"model": {"base": "base"}, "agent": {"instructions": "Help."}},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }
        )
    port = free_port()
    runner = await serve(Telemetry(cache, queue_depth=lambda: 3), Probes(lambda: None, lambda: None), port)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            whole = await _samples(session, [])
            some = await _samples(session, asked)
    finally:
        await runner.cleanup()

    assert whole["evolving_operator_agents"] == ["2.0"]
    assert whole["evolving_operator_agent_ready"] == ["1.0", "1.0"]
    assert some == {name: whole[name] for name in told}


async def _samples(session: aiohttp.ClientSession, asked: list[str]) -> dict[str, list[str]]:
    """The values of each metric."""
    found: dict[str, list[str]] = {}
    async with session.get("/metrics", params=[("name[]", name) for name in asked]) as answer:
        assert answer.status == 200
        for line in (await answer.text()).splitlines():
            if not line.startswith("#"):
                series, value = line.rsplit(" ", 1)
                found.setdefault(series.partition("{")[0], []).append(value)
    return found
