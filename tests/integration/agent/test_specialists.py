"""Specialists: handed over to, or asked as tools, each with its own instructions, tools and model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from evolving_agent.contract import env
from evolving_agent.contract.config import Endpoint, ServedModel, Specialist, SpecialistMode, SpecialistModel
from evolving_agent.contract.refs import SecretKeyRef
from evolving_agent.contract.tools import HTTPTool
from evolving_agent.curation.choose import choose_example
from evolving_agent.curation.examples import Example
from evolving_agent.testing.scripted_model import Reply, ScriptedModel, served
from support.pods import running

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}


def specialist(name: str = "billing", mode: SpecialistMode = SpecialistMode.TOOL, **more: Any) -> Specialist:
    return Specialist(
        name=name, description=f"Knows about {name}.", instructions=f"You are {name}.", mode=mode, **more
    )


def ask(name: str, question: str = "What does Ada owe?") -> Reply:
    return Reply(calls=((name, {"input": question}),))


class Ledger:
    """Counts what is asked of it."""

    def __init__(self) -> None:
        self.asked = 0

    @property
    def app(self) -> Starlette:
        async def balance(_: Request) -> Response:
            self.asked += 1
            return PlainTextResponse("40 EUR")

        return Starlette(routes=[Route("/balance", balance, methods=["GET", "POST"])])

    def tool(self, url: str, method: str) -> HTTPTool:
        return HTTPTool(
            type="HTTP",
            name="balance",
            description="What is owed.",
            method=method,
            url=f"{url}/balance",
            parameters=NO_ARGUMENTS,
        )


async def test_a_specialist_is_asked_and_the_agent_words_the_answer(make_pod: Any, upstream: Any) -> None:
    ledger = Ledger()
    async with served(ledger.app) as url:
        billing = specialist(tools=(ledger.tool(url, "GET"),))
        async with running(make_pod(specialists=(billing,))) as pod:
            upstream.model.say(
                ask("billing"),
                Reply(calls=(("balance", {}),)),
                Reply(text="40 EUR are open."),
                Reply(text="Ada owes 40 EUR."),
            )
            answer = await pod.ask("How much is it?")

    assert answer["choices"][0]["message"]["content"] == "Ada owes 40 EUR."
    assert answer["evolving_agents"]["agent_path"] == ["support"]
    main, first, second, last = upstream.model.requests[1:]
    assert [tool["function"]["name"] for tool in main["tools"]] == ["billing"]
    assert [message["content"] for message in first["messages"]] == ["You are billing.", "What does Ada owe?"]
    assert [tool["function"]["name"] for tool in second["tools"]] == ["balance"]
    assert last["messages"][-1]["content"] == "40 EUR are open."
    (episode,) = pod.episodes()
    assert [(call.agent, call.name, call.result) for call in episode.tool_calls] == [
        ("billing", "balance", "40 EUR"),
        ("", "billing", "40 EUR are open."),
    ]
    assert episode.system == "You are a support agent."
    assert (episode.input_tokens, episode.output_tokens) == (40, 10 + 4 + 4)
    assert ledger.asked == 1


async def test_what_a_specialist_called_is_not_taught_to_the_agent(make_pod: Any, upstream: Any) -> None:
    ledger = Ledger()
    async with served(ledger.app) as url:
        tool = ledger.tool(url, "GET")
        async with running(make_pod(tools=(tool,), specialists=(specialist(tools=(tool,)),))) as pod:
            upstream.model.say(
                ask("billing"),
                Reply(calls=(("balance", {}),)),
                Reply(text="40 EUR."),
                Reply(text="It is 40 EUR."),
            )
            answer = await pod.ask("How much is it?")
            await pod.post("/v1/feedback", {"completion_id": answer["id"], "thumbs": "up"})

    (episode,) = pod.episodes()
    example = choose_example(episode, pod.reflections(), min_score=70)
    assert isinstance(example, Example)
    target = example.target
    assert (target.tool_name, target.tool_arguments) == ("billing", {"input": "What does Ada owe?"})


async def test_in_a_dry_run_a_specialist_is_asked_and_its_writes_are_stubbed(
    make_pod: Any, upstream: Any
) -> None:
    ledger = Ledger()
    async with served(ledger.app) as url:
        billing = specialist(tools=(ledger.tool(url, "POST"),))
        async with running(make_pod(specialists=(billing,))) as pod:
            upstream.model.say(
                ask("billing"), Reply(calls=(("balance", {}),)), Reply(text="Stubbed."), Reply(text="Done.")
            )
            await pod.ask("How much is it?", **{env.DRY_RUN_HEADER: "true"})

    assert ledger.asked == 0
    assert upstream.model.requests[-2]["messages"][-1]["content"] == "ok (dry run: not executed)"


@pytest.mark.parametrize("mode", SpecialistMode)
async def test_a_specialist_has_its_own_model_whatever_the_agent_learned(
    make_pod: Any, upstream: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: SpecialistMode
) -> None:
    monkeypatch.setenv(env.FILES, str(tmp_path))
    (tmp_path / env.FILES_SECRETS / "lawyers").mkdir(parents=True)
    (tmp_path / env.FILES_SECRETS / "lawyers" / "key").write_text("s3cret")
    elsewhere = ScriptedModel(lambda _: Reply(text="It is legal."), models=("lawyer-7b",))
    upstream.model.models.append("trained")
    async with served(elsewhere.app) as url:
        endpoint = Endpoint(base_url=f"{url}/v1", api_key_secret_ref=SecretKeyRef(name="lawyers", key="key"))
        law = specialist("law", mode, model=SpecialistModel(name="lawyer-7b", endpoint=endpoint))
        second = specialist("tax", mode, model=SpecialistModel(name="tiny"))
        trained = ServedModel(id="trained", base_url=f"{upstream.url}/v1")
        async with running(make_pod(specialists=(law, second), model=trained)) as pod:
            prefix = "transfer_to_" if mode is SpecialistMode.HANDOFF else ""
            upstream.model.say(ask(f"{prefix}law"))
            await pod.ask("May I?")
            upstream.model.say(ask(f"{prefix}tax"))
            await pod.ask("And the tax?")

    assert [request["model"] for request in elsewhere.requests] == ["lawyer-7b"]
    assert {request["model"] for request in upstream.model.requests} == {"trained", "tiny"}
    for_tax = [request for request in upstream.model.requests if request["model"] == "tiny"]
    assert [request["messages"][0]["content"] for request in for_tax] == ["You are tax."]


async def test_a_specialist_that_cannot_answer_is_told_to_the_agent(
    make_pod: Any, upstream: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(env.FILES, str(tmp_path))
    gone = Endpoint(base_url=f"{upstream.url}/v1", api_key_secret_ref=SecretKeyRef(name="gone", key="key"))
    law = specialist("law", model=SpecialistModel(name="lawyer", endpoint=gone))
    unknown = specialist("tax", model=SpecialistModel(name="not-served"))
    async with running(make_pod(specialists=(law, unknown))) as pod:
        upstream.model.say(ask("law"), ask("tax"))
        upstream.model.script = lambda _: Reply(text="I cannot say.")
        answer = await pod.ask("May I?")

    assert answer["choices"][0]["message"]["content"] == "I cannot say."
    first, second = pod.episodes()[0].tool_calls
    assert "the Secret gone is not there" in (first.error or "")
    assert "does not exist" in (second.error or "")


async def test_a_specialist_that_never_ends_is_cut_short(make_pod: Any, upstream: Any) -> None:
    def script(body: dict[str, Any]) -> Reply:
        if body["messages"][0]["content"] == "You are billing.":
            return Reply(calls=(("make_coffee", {}),))
        return Reply(text="Nobody knows.") if body["messages"][-1]["role"] == "tool" else ask("billing")

    upstream.model.script = script
    async with running(make_pod(specialists=(specialist(),))) as pod:
        answer = await pod.ask("How much is it?")

        assert answer["choices"][0]["message"]["content"] == "Nobody knows."
        assert "billing could not answer: Max turns" in (pod.episodes()[0].tool_calls[-1].error or "")
        labels = 'arm="active",model="tiny",outcome="error",revision="support-00000001",tool="(unknown)"'
        assert await pod.metric(f"evolving_agent_tool_calls_total{{{labels}}}") > 0
