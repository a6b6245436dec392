"""Sessions over real HTTP: the agent keeps what was said, on whichever pod, and who answers."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from evolving_agent.contract.config import MemoryType, ServedModel, Sessions, Traffic, TrafficShare
from support.pods import Pod, a_config, eventually, running

HI: list[Any] = [{"role": "user", "content": "Hi"}]


def said_to(upstream: Any) -> list[str]:
    """What the model was sent last, without the agent's instructions."""
    return [message["content"] for message in upstream.model.requests[-1]["messages"][1:]]


async def test_a_client_sends_only_what_is_new_and_any_pod_knows_the_rest(
    make_pod: Any, upstream: Any
) -> None:
    one, other = make_pod("support-0"), make_pod("support-1")
    async with running(one), running(other):
        await one.ask("One", **{"X-Session-Id": "s"})
        await other.ask("Elsewhere", **{"X-Session-Id": "t"})
        await other.ask("Two", **{"X-Session-Id": "s"})

        assert said_to(upstream) == ["One", "echo: One", "Two"]
        assert [message["content"] for message in other.episodes()[-1].messages] == said_to(upstream)
        await one.ask("Three")
        assert said_to(upstream) == ["Three"]


async def test_a_streamed_answer_belongs_to_its_session(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        named = {"X-Session-Id": "s"}
        stream: Any = await client.chat.completions.create(
            model="x", messages=HI, stream=True, extra_headers=named
        )
        assert [chunk async for chunk in stream]

        await pod.ask("More", **named)

        assert said_to(upstream) == ["Hi", "echo: Hi", "More"]


@pytest.mark.parametrize(
    "fields",
    [{"metadata": {"session_id": "s"}}, {"conversation": "s"}, {"conversation": {"id": "s"}}],
)
async def test_a_session_is_named_by_the_apis_own_fields_too(
    make_pod: Any, upstream: Any, fields: Any
) -> None:
    async with running(make_pod()) as pod:
        await pod.ask("Hi", **{"X-Session-Id": "s"})

        response = await pod.post("/v1/responses", {"model": "x", "input": "More", **fields})
        assert response.status_code == 200
        assert said_to(upstream) == ["Hi", "echo: Hi", "More"]

        if "metadata" in fields:
            chat = {"model": "x", "messages": [{"role": "user", "content": "Even more"}], **fields}
            assert (await pod.post("/v1/chat/completions", chat)).status_code == 200
            assert said_to(upstream) == ["Hi", "echo: Hi", "More", "echo: More", "Even more"]


async def test_a_client_that_keeps_the_history_itself_is_not_told_it_twice(
    make_pod: Any, upstream: Any
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        named = {"X-Session-Id": "s"}
        await client.chat.completions.create(model="x", messages=HI, extra_headers=named)
        mine: list[Any] = [
            *HI,
            {"role": "assistant", "content": "My own version"},
            {"role": "user", "content": "More"},
        ]

        await client.chat.completions.create(model="x", messages=mine, extra_headers=named)

        assert said_to(upstream) == ["Hi", "My own version", "More"]


async def test_a_clients_system_text_is_for_one_request(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        named = {"X-Session-Id": "s"}
        system: Any = {"role": "system", "content": "Answer in French."}
        await client.chat.completions.create(model="x", messages=[system, *HI], extra_headers=named)
        await pod.ask("More", **named)

        sent = upstream.model.requests[-1]["messages"]
        assert sent[0] == {"role": "system", "content": "You are a support agent."}
        assert said_to(upstream) == ["Hi", "echo: Hi", "More"]


async def test_the_oldest_turns_leave_the_prompt_first(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod(sessions=Sessions(max_turns=1))) as pod:
        for text in ("One", "Two", "Three"):
            await pod.ask(text, **{"X-Session-Id": "s"})

        assert said_to(upstream) == ["Two", "echo: Two", "Three"]


async def test_a_dry_run_reads_the_session_and_leaves_no_trace_in_it(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod:
        named = {"X-Session-Id": "s"}
        await pod.ask("One", **named)
        await pod.ask("Dry", **named, **{"X-Evolving-Dry-Run": "true"})
        assert said_to(upstream) == ["One", "echo: One", "Dry"]

        await pod.ask("Two", **named)
        assert said_to(upstream) == ["One", "echo: One", "Two"]


async def test_without_memory_a_session_is_only_a_name(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod(memory=MemoryType.DISABLED)) as pod:
        for text in ("One", "Two"):
            await pod.ask(text, **{"X-Session-Id": "s"})

        assert said_to(upstream) == ["Two"]
        assert {episode.session for episode in pod.episodes()} == {"s"}


async def test_a_session_that_began_on_stable_stays_there_while_the_canary_grows(
    make_pod: Any, upstream: Any
) -> None:
    pod, candidate = with_candidate(make_pod(), upstream)

    async def arm_of(session: str) -> str:
        answer = await pod.ask("Hi", **{"X-Session-Id": session})
        return str(answer["evolving_agents"]["arm"])

    async with running(pod):
        assert await arm_of("old") == "active"

        await take_over(pod, Traffic(canary=TrafficShare(config=candidate, percent=100)))
        assert await arm_of("new") == "canary"
        assert await arm_of("old") == "active"
        assert (await pod.ask("Hi"))["evolving_agents"]["arm"] == "canary"  # belongs to no session

        await take_over(pod, Traffic(canary=TrafficShare(config=candidate, percent=0)))
        assert await arm_of("new") == "canary"
        assert await arm_of("newer") == "active"

        await take_over(pod, Traffic())  # taken back: nobody stays on a candidate that failed
        assert await arm_of("new") == "active"


async def test_a_chain_of_responses_keeps_its_revision_too(make_pod: Any, upstream: Any) -> None:
    pod, candidate = with_candidate(make_pod(), upstream)
    async with running(pod), pod.client() as client:
        first = await client.responses.create(model="x", input="Hi")
        await take_over(pod, Traffic(canary=TrafficShare(config=candidate, percent=100)))

        second = await client.responses.create(model="x", input="And?", previous_response_id=first.id)
        third = await client.responses.create(model="x", input="New")

        assert (first.model, second.model, third.model) == ("tiny", "tiny", "trained")


async def test_a_conversation_that_cannot_be_read_is_refused_and_others_are_answered(
    make_pod: Any, upstream: Any
) -> None:
    pod = make_pod()
    async with running(pod):
        await pod.ask("Hi", **{"X-Session-Id": "s"})
        damaged = sqlite3.connect(pod.store.session_database)
        damaged.execute("ALTER TABLE turn RENAME TO lost")
        damaged.close()

        refused = await pod.post(
            "/v1/chat/completions", {"model": "x", "messages": HI, "metadata": {"session_id": "s"}}
        )

        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "SessionsUnavailable")
        assert refused.headers["Retry-After"] == "1"
        assert (await pod.ask("Hi"))["choices"][0]["message"]["content"] == "echo: Hi"


async def test_an_answer_that_cannot_be_kept_is_given_and_counted(make_pod: Any) -> None:
    pod = make_pod()
    async with running(pod):
        await pod.ask("Hi", **{"X-Session-Id": "s"})
        other = sqlite3.connect(pod.store.session_database, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        try:
            answer = await pod.ask("More", **{"X-Session-Id": "s"})
        finally:
            other.close()

        assert answer["choices"][0]["message"]["content"] == "echo: More"
        assert await pod.metric('evolving_agent_turns_kept_total{outcome="failed"}') == 1
        assert await pod.metric('evolving_agent_turns_kept_total{outcome="ok"}') == 1


def with_candidate(pod: Pod, upstream: Any) -> tuple[Pod, str]:
    upstream.model.models.append("trained")
    model = ServedModel(id="trained", base_url=f"{upstream.url}/v1")
    candidate = a_config(upstream.url, revision="support-00000002", model=model)
    pod.others.append(candidate)
    return pod, candidate.hash


async def take_over(pod: Pod, traffic: Traffic) -> None:
    applied = 'evolving_agent_config_reloads_total{outcome="applied"}'
    before = await pod.metric(applied)
    pod.write_config(traffic)

    async def reloaded() -> bool:
        return await pod.metric(applied) > before

    await eventually(reloaded, "the reload")
