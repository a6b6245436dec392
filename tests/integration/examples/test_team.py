"""examples/team: a front desk that asks two specialists and hands over to a third."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from evolving_agent.testing.scripted_model import Reply, ScriptedModel, served
from support.examples import EXAMPLES, config_of, load
from support.order_desk import rows
from support.pods import Pod, running

search = load("search/search.py")
code_runner = load("code-runner/code_runner.py")
ORDER = {"customer": "Ada", "article": "apples", "amount": 12}
PROGRAM = "print(12 * 35 / 100)"


def script_of(body: dict[str, Any]) -> Reply:
    """What each of the team says: told apart by their instructions, and by what they know already."""
    system = body["messages"][0]["content"]
    results = [message["content"] for message in body["messages"] if message["role"] == "tool"]
    if system.startswith("Search the articles"):
        query = {"query": "delivery costs"}
        return Reply(text="Free above 50 EUR.") if results else Reply(calls=(("searchArticles", query),))
    if system.startswith("Write a Python program"):
        return (
            Reply(text=results[0].strip()) if results else Reply(calls=(("run_python", {"code": PROGRAM}),))
        )
    if system.startswith("Take orders"):
        return Reply(text="Placed.") if len(results) == 4 else Reply(calls=(("place_order", ORDER),))
    said = (
        Reply(calls=(("librarian", {"input": "What does delivery cost?"}),)),
        Reply(calls=(("analyst", {"input": "12 apples at 35 cents"}),)),
        Reply(calls=(("transfer_to_orders", {}),)),
    )
    return said[len(results)]


async def test_a_team_answers_together(model: tuple[ScriptedModel, str], orders: str, tmp_path: Path) -> None:
    script, url = model
    script.script = script_of
    script.models.append("gpt-4.1-2025-04-14")
    runner = code_runner.build_app()
    async with AsyncExitStack() as services:
        articles = search.build_app(search.read_corpus(EXAMPLES / "search/corpus.jsonl"))
        await services.enter_async_context(runner.router.lifespan_context(runner))
        addresses = {
            "http://search": await services.enter_async_context(served(articles)),
            "http://code-runner": await services.enter_async_context(served(runner)),
        }
        pod = Pod(tmp_path, config_of("team/agent.yaml", url, addresses))
        async with running(pod):
            answer = await pod.ask("What do 12 apples cost with delivery? Order them, please.")

    assert answer["choices"][0]["message"]["content"] == "Placed."
    assert answer["evolving_agents"]["agent_path"] == ["support", "orders"]
    (episode,) = pod.episodes()
    assert [(call.agent, call.name) for call in episode.tool_calls] == [
        ("librarian", "searchArticles"),
        ("", "librarian"),
        ("analyst", "run_python"),
        ("", "analyst"),
        ("", "transfer_to_orders"),
        ("orders", "place_order"),
    ]
    found, told, printed, cost, _, placed = (call.result or "" for call in episode.tool_calls)
    assert json.loads(found)[0]["id"] == "delivery"
    assert (told, printed, cost) == ("Free above 50 EUR.", "4.2\n", "4.2")
    assert json.loads(placed)["amount"] == 12
    assert rows(orders) == [("Ada", "apples", 12)]
    by_own_model = [body for body in script.requests if body["model"] == "gpt-4.1-2025-04-14"]
    assert {body["messages"][0]["content"][:23] for body in by_own_model} == {"Write a Python program "}
