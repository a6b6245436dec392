"""examples/database: orders in a real PostgreSQL, placed once, and never by a run that only looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from evolving_agent.contract import env
from evolving_agent.contract.config import ServedModel, Traffic, TrafficShare
from evolving_agent.testing.scripted_model import Reply, ScriptedModel
from support.examples import config_of
from support.order_desk import desk, rows
from support.pods import Pod, eventually, running

ORDER: dict[str, Any] = {"customer": "Ada", "article": "cheese", "amount": 2}
PLACE = Reply(calls=(("place_order", ORDER),))
DONE = Reply(text="Done.")


def pod_of(url: str, directory: Path) -> Pod:
    return Pod(directory, config_of("database/agent.yaml", url))


async def test_an_order_is_placed_and_found(
    model: tuple[ScriptedModel, str], orders: str, tmp_path: Path
) -> None:
    script, url = model
    async with running(pod_of(url, tmp_path)) as pod:
        script.say(PLACE, Reply(calls=(("orders_of", {"customer": "Ada"}),)), DONE)
        await pod.ask("Two pieces of cheese, yes, please.")

    placed, found = pod.episodes()[0].tool_calls
    number = json.loads(placed.result or "")["order"]
    assert json.loads(found.result or "") == [{"order": number, "article": "cheese", "amount": 2}]
    assert rows(orders) == [("Ada", "cheese", 2)]
    functions = {tool["function"]["name"]: tool["function"] for tool in script.requests[-1]["tools"]}
    assert list(functions) == ["orders_of", "place_order"]
    assert "idempotency_key" not in json.dumps(functions)


async def test_a_request_that_comes_again_places_its_order_once(
    model: tuple[ScriptedModel, str], orders: str, tmp_path: Path
) -> None:
    script, url = model
    async with running(pod_of(url, tmp_path)) as pod:
        for _ in range(2):
            script.say(PLACE, DONE)
            await pod.ask("Two pieces of cheese.", **{env.REQUEST_KEY_HEADER: "request-7"})
        first, second = (episode.tool_calls[0].result for episode in pod.episodes())
        assert first == second
        assert rows(orders) == [("Ada", "cheese", 2)]

        script.say(PLACE, DONE)
        await pod.ask("And the same again.")
        assert len(rows(orders)) == 2


async def test_a_shadow_run_writes_nothing_and_still_goes_on(
    model: tuple[ScriptedModel, str], orders: str, tmp_path: Path
) -> None:
    """The candidate places the order that the active model placed, and one that it did not."""
    script, url = model
    script.models.append("candidate")
    other = {**ORDER, "article": "bread"}

    def answer(body: dict[str, Any]) -> Reply:
        if body["messages"][-1]["role"] == "tool":
            return DONE
        calls = (("place_order", ORDER),)
        return Reply(calls=(*calls, ("place_order", other)) if body["model"] == "candidate" else calls)

    script.script = answer
    pod = pod_of(url, tmp_path)
    served = ServedModel(id="candidate", base_url=f"{url}/v1")
    candidate = pod.config.model_copy(update={"revision": "order-desk-00000002", "model": served})
    pod.others.append(candidate)
    async with running(pod, Traffic(shadow=TrafficShare(config=candidate.hash, percent=100))):
        await pod.ask("Two pieces of cheese, yes, please.")

        def shadow() -> list[Any]:
            return [episode for episode in pod.episodes() if episode.arm == "shadow"]

        await eventually(lambda: bool(shadow()), "the shadow run's episode")

    assert rows(orders) == [("Ada", "cheese", 2)]
    (live,) = [episode for episode in pod.episodes() if episode.arm == "active"]
    same, new = shadow()[0].tool_calls
    assert (same.stubbed, same.result) == (True, live.tool_calls[0].result)
    assert (new.stubbed, new.result) == (True, "ok (dry run: not executed)")


async def test_a_dry_run_reads_and_writes_nothing(
    model: tuple[ScriptedModel, str], orders: str, tmp_path: Path
) -> None:
    script, url = model
    async with running(pod_of(url, tmp_path)) as pod:
        script.say(PLACE, Reply(calls=(("orders_of", {"customer": "Ada"}),)), DONE)
        await pod.ask("Two pieces of cheese.", **{env.DRY_RUN_HEADER: "true"})

    assert script.requests[-1]["messages"][-1]["content"] == "[]"
    assert rows(orders) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"amount": 0}, "amount: Input should be greater than or equal to 1"),
        ({"article": "gold"}, "article: Input should be 'apples', 'bread' or 'cheese'"),
        ({"customer": ""}, "customer: String should have at least 1 character"),
    ],
)
async def test_what_does_not_fit_never_reaches_the_database(
    model: tuple[ScriptedModel, str], orders: str, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    script, url = model
    async with running(pod_of(url, tmp_path)) as pod:
        script.say(Reply(calls=(("place_order", ORDER | changes),)), DONE)
        await pod.ask("Two pieces of cheese.")

    assert problem in (pod.episodes()[0].tool_calls[0].error or "")
    assert rows(orders) == []


async def test_values_are_never_sql(model: tuple[ScriptedModel, str], orders: str, tmp_path: Path) -> None:
    script, url = model
    name = "Ada'); DELETE FROM orders; --"
    async with running(pod_of(url, tmp_path)) as pod:
        script.say(Reply(calls=(("place_order", ORDER | {"customer": name}),)), DONE)
        await pod.ask("Two pieces of cheese.")

    assert rows(orders) == [(name, "cheese", 2)]


async def test_a_database_that_is_gone_costs_the_call(
    model: tuple[ScriptedModel, str], orders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_DSN", "host=/nowhere user=order_desk dbname=postgres")
    script, url = model
    async with running(pod_of(url, tmp_path)) as pod:
        script.say(PLACE, Reply(text="The desk is closed."))
        answer = await pod.ask("Two pieces of cheese.")

    assert answer["choices"][0]["message"]["content"] == "The desk is closed."
    assert "OperationalError" in (pod.episodes()[0].tool_calls[0].error or "")


def test_the_agents_role_can_neither_change_nor_delete(orders: str) -> None:
    for statement in ("DELETE FROM orders", "UPDATE orders SET amount = 1", "DROP TABLE orders"):
        with psycopg.connect(desk(orders)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)
