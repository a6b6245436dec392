"""Clients that people have work unchanged: the official one, LangChain's, curl."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from evolving_agent.contract.tools import BuiltinName, BuiltinTool
from evolving_agent.testing.scripted_model import Reply
from support.pods import Pod, running


def langchain(pod: Pod, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{pod.url}/v1", api_key=SecretStr("any"), model="support", **more)


@pytest.mark.parametrize("responses", [False, True])
async def test_langchain_asks_and_streams_with_usage(make_pod: Any, upstream: Any, responses: bool) -> None:
    async with running(make_pod()) as pod:
        chat = langchain(pod, use_responses_api=responses, stream_usage=True)
        history = [HumanMessage("One"), AIMessage("Yes?"), HumanMessage("Two")]

        whole = await chat.ainvoke(history)
        pieces = [piece async for piece in chat.astream("Three")]

        assert whole.text == "echo: Two"
        assert whole.usage_metadata is not None
        assert whole.usage_metadata["input_tokens"] == 10
        assert "".join(piece.text for piece in pieces) == "echo: Three"
        assert sum(piece.usage_metadata["input_tokens"] for piece in pieces if piece.usage_metadata) == 10
        sent = upstream.model.requests[1]["messages"]
        assert [message["content"] for message in sent[1:]] == ["One", "Yes?", "Two"]


async def curl(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "curl", "--silent", "--show-error", "--no-buffer", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@pytest.mark.parametrize("headers", [["-H", "Content-Type: application/json"], []])
async def test_curl_gets_an_answer_with_and_without_a_content_type(make_pod: Any, headers: list[str]) -> None:
    async with running(make_pod()) as pod:
        body = json.dumps({"model": "x", "messages": [{"role": "user", "content": "Hi"}]})

        answer = json.loads(await curl(f"{pod.url}/v1/chat/completions", *headers, "-d", body))

        assert answer["choices"][0]["message"]["content"] == "echo: Hi"
        assert answer["object"] == "chat.completion"


async def test_curl_sees_server_sent_events(make_pod: Any) -> None:
    async with running(make_pod()) as pod:
        body = json.dumps({"stream": True, "messages": [{"role": "user", "content": "Hi"}]})

        lines = (await curl(f"{pod.url}/v1/chat/completions", "-d", body)).split("\n\n")

        assert lines[-2:] == ["data: [DONE]", ""]
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert all("usage" not in chunk for chunk in chunks)  # nobody asked for it


async def test_an_answer_that_needed_tools_tells_which(make_pod: Any, upstream: Any) -> None:
    tool = BuiltinTool(type="BuiltIn", name=BuiltinName.RECALL)
    async with running(make_pod(tools=(tool,))) as pod, pod.client() as client:
        upstream.model.say(Reply(calls=(("recall", {"query": "cards"}),)), Reply(text="Nothing."))

        answer = await client.chat.completions.create(
            model="x", messages=[{"role": "user", "content": "What of cards?"}]
        )

        assert answer.choices[0].message.content == "Nothing."
        assert answer.choices[0].message.tool_calls is None  # the agent's own, already done
        assert answer.model_extra is not None
        assert answer.model_extra["evolving_agents"]["tool_calls"] == [
            {"name": "recall", "arguments": {"query": "cards"}}
        ]


async def test_a_client_finds_its_request_by_the_id_it_gave(
    make_pod: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        ask: Any = {"model": "x", "messages": [{"role": "user", "content": "Hi"}]}
        given = await client.chat.completions.create(**ask, extra_headers={"X-Request-Id": "mine-1"})
        made = await client.chat.completions.create(**ask, extra_headers={"X-Request-Id": "<no id>"})
        with pytest.raises(openai.NotFoundError) as raised:
            await client.responses.retrieve("resp_unknown")

    assert given._request_id == "mine-1"
    assert (made._request_id or "").startswith("req_")
    assert (raised.value.request_id or "").startswith("req_")
