"""Clients that people have work unchanged: the official one, LangChain's, curl."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

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


class Forecast(BaseModel):
    """Tells the weather."""

    city: str
    rain: bool


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


@pytest.mark.parametrize("responses", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
async def test_langchain_runs_its_own_tools_around_the_agent(
    make_pod: Any, upstream: Any, responses: bool, streamed: bool
) -> None:
    own = BuiltinTool(type="BuiltIn", name=BuiltinName.RECALL)
    async with running(make_pod(tools=(own,))) as pod:
        upstream.model.say(
            Reply(calls=(("recall", {"query": "Oslo"}),)),
            Reply(calls=(("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"}))),
            Reply(text="It rains."),
        )
        chat = langchain(pod, use_responses_api=responses, streaming=streamed).bind_tools([weather])
        said: list[Any] = [HumanMessage("Is it raining?")]

        called = await chat.ainvoke(said)
        assert [call["args"] for call in called.tool_calls] == [{"city": "Oslo"}, {"city": "Rome"}]
        said += [called, *[await weather.ainvoke(call) for call in called.tool_calls]]
        answered = await chat.ainvoke(said)

        assert answered.text == "It rains."
        sent = upstream.model.requests[-1]["messages"]
        assert [message["content"] for message in sent if message["role"] == "tool"] == [
            *("nothing is remembered about this", "rain in Oslo", "rain in Rome"),
        ]


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
async def test_langchain_gets_structured_output_by_each_of_its_methods(
    make_pod: Any, upstream: Any, method: Any
) -> None:
    async with running(make_pod()) as pod:
        given = {"city": "Oslo", "rain": True}
        by_call = method == "function_calling"
        upstream.model.say(Reply(calls=(("Forecast", given),)) if by_call else Reply(text=json.dumps(given)))

        asked = langchain(pod).with_structured_output(Forecast, method=method)

        assert await asked.ainvoke("Rain in Oslo? Answer in JSON.") == Forecast(city="Oslo", rain=True)
        sent = upstream.model.requests[-1]
        if by_call:
            assert sent["tool_choice"] == {"type": "function", "function": {"name": "Forecast"}}


def loop_of_tools(url: str) -> tuple[str, str | None]:
    """The synchronous client: a streamed call, and the answer to its result."""
    said: list[Any] = [{"role": "user", "content": "Rain?"}]
    tools: list[Any] = [openai.pydantic_function_tool(Forecast, name="weather")]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        ask: Any = {"model": "x", "messages": said, "tools": tools}
        deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(**ask, stream=True)]
        pieces = [call for delta in deltas for call in delta.tool_calls or ()]
        arguments = "".join(piece.function.arguments or "" for piece in pieces)
        function = {"name": "weather", "arguments": arguments}
        call = {"id": pieces[0].id, "type": "function", "function": function}
        result = {"role": "tool", "tool_call_id": call["id"], "content": "rain"}
        said += [{"role": "assistant", "tool_calls": [call]}, result]
        answer = client.chat.completions.create(**ask)
    return arguments, answer.choices[0].message.content


async def test_the_official_client_runs_a_loop_of_tools_synchronously(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod:
        upstream.model.say(Reply(calls=(("weather", {"city": "Oslo"}),)), Reply(text="It rains."))

        arguments, answer = await asyncio.to_thread(loop_of_tools, pod.url)

        assert json.loads(arguments) == {"city": "Oslo"}
        assert answer == "It rains."
        assert upstream.model.requests[-1]["tools"][0]["function"]["strict"] is True


async def test_curl_sees_the_call_and_the_end_of_a_stream(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod:
        upstream.model.say(Reply(calls=(("weather", {"city": "Oslo"}),)))
        offer = {"type": "function", "function": {"name": "weather"}}
        messages = [{"role": "user", "content": "Rain?"}]
        body = json.dumps({"stream": True, "messages": messages, "tools": [offer]})

        lines = (await curl(f"{pod.url}/v1/chat/completions", "-d", body)).split("\n\n")

        choices = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-2]]
        assert [choice["finish_reason"] for choice in choices] == [None, None, None, "tool_calls"]
        begun, given = (choice["delta"]["tool_calls"][0] for choice in choices[1:3])
        assert (begun["index"], begun["function"]["name"]) == (0, "weather")
        assert begun["id"].startswith("call_")
        assert json.loads(given["function"]["arguments"]) == {"city": "Oslo"}
