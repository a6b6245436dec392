"""examples/search: an agent that answers from articles."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from evolving_agent.testing.scripted_model import Reply, ScriptedModel, served
from support.examples import EXAMPLES, config_of, load
from support.pods import Pod, running

search = load("search/search.py")


@pytest.fixture
async def service() -> AsyncIterator[str]:
    async with served(search.build_app(search.read_corpus(EXAMPLES / "search/corpus.jsonl"))) as url:
        yield url


async def test_the_agent_searches_and_reads(
    model: tuple[ScriptedModel, str], service: str, tmp_path: Path
) -> None:
    script, url = model
    config = config_of("search/agent.yaml", url, {"http://search": service})
    async with running(Pod(tmp_path, config)) as pod:
        script.say(
            Reply(calls=(("searchArticles", {"query": "refund on my card", "limit": 2}),)),
            Reply(calls=(("readArticle", {"article": "refunds"}),)),
            Reply(text="Three to five working days (When a refund arrives)."),
        )
        answer = await pod.ask("I sent it back a week ago. Where is my money?")

    assert answer["choices"][0]["message"]["content"].startswith("Three to five")
    found, read = pod.episodes()[0].tool_calls
    articles = json.loads(found.result or "")
    assert (len(articles), articles[0]["id"]) == (2, "refunds")
    assert "bank transfers two" in json.loads(read.result or "")["text"]
    names = [tool["function"]["name"] for tool in script.requests[-1]["tools"]]
    assert names == ["searchArticles", "readArticle"]


async def test_searching_happens_in_a_dry_run_as_well(
    model: tuple[ScriptedModel, str], service: str, tmp_path: Path
) -> None:
    script, url = model
    config = config_of("search/agent.yaml", url, {"http://search": service})
    async with running(Pod(tmp_path, config)) as pod:
        script.say(Reply(calls=(("searchArticles", {"query": "warranty"}),)), Reply(text="Two years."))
        await pod.ask("How long?", **{"X-Evolving-Dry-Run": "true"})

    assert "Warranty on devices" in script.requests[-1]["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("my vase came in pieces, broken", "damaged"),
        ("free delivery from which amount", "delivery"),
        ("forgot my password", "password"),
        ("invoice with VAT", "invoice"),
    ],
)
async def test_the_best_article_comes_first(service: str, query: str, best: str) -> None:
    async with httpx.AsyncClient(base_url=service) as client:
        found = (await client.get("/search", params={"query": query})).json()
        nothing = (await client.get("/search", params={"query": "zebra"})).json()

    assert found[0]["id"] == best
    assert found == sorted(found, key=lambda each: -each["score"])
    assert nothing == []


@pytest.mark.parametrize("path", ["/search", "/search?query=x&limit=99", "/articles/none"])
async def test_what_is_wrong_is_said(service: str, path: str) -> None:
    async with httpx.AsyncClient(base_url=service) as client:
        response = await client.get(path)
    assert response.status_code in (404, 422)
    assert response.json()["error"]
