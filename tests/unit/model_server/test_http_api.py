"""The model server's HTTP API, asked by OpenAI's own client; only the model behind it is scripted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionToolParam

from evolving_model_server.app import create_app
from evolving_model_server.inference import Generation
from support.scripted_engine import ScriptedEngine

BASE = "tiny"
ROUTE: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "route",
        "parameters": {"type": "object", "properties": {"team": {"type": "string"}}},
    },
}
CLOSE: ChatCompletionToolParam = {"type": "function", "function": {"name": "close"}}
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


def say_what_was_asked(generation: Generation) -> str:
    """Calls a tool when the user says "route me", else greets."""
    if generation.schema is not None:
        return '{"team": "cards"}'
    if generation.choices:
        return generation.choices[-1]
    return (
        'Sure.\n<tool_call> route {"team": "cards"}' if "route me" in generation.prompt else "Hello, world!"
    )


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(say_what_was_asked)


@pytest.fixture
async def http(engine: ScriptedEngine, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(engine, BASE, tmp_path, queue_limit=2)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server/v1") as client:
        yield client


@pytest.fixture
def client(http: httpx.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url="http://server/v1", api_key="none", http_client=cast("Any", http), max_retries=0
    )


def add_adapter(root: Path, name: str, content: str = "weights") -> Path:
    file = root / name / "adapter.gguf"
    file.parent.mkdir()
    file.write_text(content)
    return file


async def test_an_answer_in_one_piece(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    done = await client.chat.completions.create(model=BASE, messages=HELLO)

    assert done.choices[0].message.content == "Hello, world!"
    assert done.choices[0].message.tool_calls is None
    assert done.choices[0].finish_reason == "stop"
    assert done.usage is not None
    assert done.usage.completion_tokens == len("Hello, world!")
    assert done.usage.prompt_tokens == len(engine.asked[0].prompt)


async def test_an_answer_in_a_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=BASE, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    assert chunks[0].choices[0].delta.role == "assistant"
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == "Hello, world!"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len("Hello, world!")
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_of_a_tool(client: openai.AsyncOpenAI, stream: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": "route me"}]
    done: ChatCompletion
    if stream:
        async with client.chat.completions.stream(model=BASE, messages=messages, tools=[ROUTE]) as events:
            done = await events.get_final_completion()
    else:
        done = await client.chat.completions.create(model=BASE, messages=messages, tools=[ROUTE])

    choice = done.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is not None
    assert choice.message.content.strip() == "Sure."
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("route", {"team": "cards"})


async def test_tool_choice_none_offers_no_tool(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    done = await client.chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": "route me"}], tools=[ROUTE], tool_choice="none"
    )

    assert done.choices[0].message.tool_calls is None
    assert "<tool_call>" in (done.choices[0].message.content or "")
    assert "Tools:" not in engine.asked[0].prompt


@pytest.mark.parametrize(
    ("tool_choice", "called"),
    [("required", "close"), ({"type": "function", "function": {"name": "route"}}, "route")],
)
async def test_a_demanded_call_is_made_whatever_the_model_would_say(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, tool_choice: Any, called: str
) -> None:
    done = await client.chat.completions.create(
        model=BASE, messages=HELLO, tools=[ROUTE, CLOSE], tool_choice=tool_choice
    )

    assert done.choices[0].message.tool_calls is not None
    [call] = done.choices[0].message.tool_calls
    assert call.type == "function"
    assert call.function.name == called
    assert engine.asked[-1].schema is not None
    assert engine.asked[-1].prompt.endswith(f"<tool_call> {called} ")


TEAM = {"type": "object", "properties": {"team": {"type": "string"}}, "required": ["team"]}


@pytest.mark.parametrize(
    ("wanted", "bound"),
    [
        ({"type": "json_schema", "json_schema": {"name": "team", "schema": TEAM}}, TEAM),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "text"}, None),
    ],
)
async def test_an_answer_is_kept_to_the_format_that_the_client_asks_for(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, wanted: Any, bound: Any
) -> None:
    done = await client.chat.completions.create(model=BASE, messages=HELLO, response_format=wanted)

    assert engine.asked[-1].schema == bound
    assert done.choices[0].message.content == ("Hello, world!" if bound is None else '{"team": "cards"}')


async def test_a_model_that_may_call_tools_is_not_bound_to_a_format(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    wanted: Any = {"type": "json_object"}
    await client.chat.completions.create(model=BASE, messages=HELLO, tools=[ROUTE], response_format=wanted)

    assert engine.asked[-1].schema is None


async def test_a_format_without_its_schema_is_refused(client: openai.AsyncOpenAI) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "team"}}
    with pytest.raises(openai.BadRequestError, match=r"json_schema.schema is missing") as refused:
        await client.chat.completions.create(model=BASE, messages=HELLO, response_format=wanted)

    assert refused.value.param == "response_format"


async def test_arguments_that_the_limit_cuts_off_are_no_call(client: openai.AsyncOpenAI) -> None:
    done = await client.chat.completions.create(
        model=BASE, messages=HELLO, tools=[ROUTE], tool_choice="required", max_completion_tokens=5
    )

    assert done.choices[0].finish_reason == "length"
    assert done.choices[0].message.tool_calls is None


@pytest.mark.parametrize("stream", [False, True])
async def test_the_answer_ends_before_a_stop_string(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, stream: bool
) -> None:
    asked: dict[str, Any] = {"model": BASE, "messages": HELLO, "stop": [", w", "!"]}
    if stream:
        chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        done = await client.chat.completions.create(**asked)
        said = done.choices[0].message.content or ""

    assert said == "Hello"


async def test_the_beginning_of_a_stop_string_alone_is_kept(client: openai.AsyncOpenAI) -> None:
    done = await client.chat.completions.create(model=BASE, messages=HELLO, stop="!?")

    assert done.choices[0].message.content == "Hello, world!"


async def test_sampling_settings_reach_the_model(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    await client.chat.completions.create(model=BASE, messages=HELLO)
    await client.chat.completions.create(
        model=BASE, messages=HELLO, temperature=0.5, top_p=0.25, seed=7, max_tokens=3
    )

    plain, chosen = engine.asked
    assert (plain.temperature, plain.top_p, plain.seed, plain.max_tokens) == (0.0, 1.0, None, 256)
    assert (chosen.temperature, chosen.top_p, chosen.seed, chosen.max_tokens) == (0.5, 0.25, 7, 3)


async def test_an_adapter_is_served_as_soon_as_its_directory_is_there(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, tmp_path: Path
) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        await client.chat.completions.create(model="tiny-2", messages=HELLO)
    file = add_adapter(tmp_path, "tiny-2")
    await client.chat.completions.create(model="tiny-2", messages=HELLO)

    assert refused.value.code == "model_not_found"
    assert refused.value.param == "model"
    assert engine.asked[0].adapter == file
    assert [model.id async for model in client.models.list()] == [BASE, "tiny-2"]


async def test_adapters_are_loaded_and_unloaded_as_with_vllm(
    http: httpx.AsyncClient, engine: ScriptedEngine, tmp_path: Path
) -> None:
    file = add_adapter(tmp_path, "tiny-2")
    wanted = {"lora_name": "tiny-2", "lora_path": str(tmp_path / "tiny-2")}

    loaded = [await http.post("/load_lora_adapter", json=wanted) for _ in range(2)]
    assert [answer.status_code for answer in loaded] == [200, 200]
    assert engine.loaded == {file}

    unloaded = [await http.post("/unload_lora_adapter", json={"lora_name": "tiny-2"}) for _ in range(2)]
    assert [answer.status_code for answer in unloaded] == [200, 404]
    assert engine.loaded == set()


async def test_an_adapter_that_cannot_be_loaded_is_refused(http: httpx.AsyncClient, tmp_path: Path) -> None:
    add_adapter(tmp_path, "bad", content="broken")

    refused = await http.post("/load_lora_adapter", json={"lora_name": "bad"})
    asked = await http.post("/chat/completions", json={"model": "bad", "messages": HELLO})

    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_adapter")
    assert (asked.status_code, asked.json()["error"]["code"]) == (500, "invalid_adapter")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools.0.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [ROUTE], "tool_choice": {"type": "function", "function": {"name": "nope"}}},
            "tool_choice",
        ),
        ({"model": None}, "model"),
        ({"stop": 5}, "stop"),
    ],
)
async def test_a_bad_request_is_refused_by_the_field(
    http: httpx.AsyncClient, engine: ScriptedEngine, change: dict[str, Any], param: str
) -> None:
    refused = await http.post("/chat/completions", json={"model": BASE, "messages": HELLO} | change)

    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert engine.asked == []


async def test_other_bad_requests_keep_the_shape_of_errors(http: httpx.AsyncClient) -> None:
    no_json = await http.post("/chat/completions", content=b"{")
    too_large = await http.post("/chat/completions", content=b" " * (1 << 20) + b"x")
    unknown_path = await http.get("/nowhere")
    wrong_method = await http.get("/chat/completions")

    answers = [no_json, too_large, unknown_path, wrong_method]
    assert [answer.status_code for answer in answers] == [400, 413, 404, 405]
    assert all(answer.json()["error"]["message"] for answer in answers)


async def test_a_prompt_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    app = create_app(ScriptedEngine(say_what_was_asked, context=20), BASE, tmp_path, queue_limit=2)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server/v1") as http:
        for stream in (False, True):
            asked = {"model": BASE, "messages": HELLO, "stream": stream}
            refused = await http.post("/chat/completions", json=asked)

            assert refused.status_code == 400
            assert refused.json()["error"]["code"] == "context_length_exceeded"


async def test_health_and_metrics(http: httpx.AsyncClient) -> None:
    await http.post("/chat/completions", json={"model": BASE, "messages": HELLO})
    await http.post("/chat/completions", json={"model": "unknown", "messages": HELLO})

    assert (await http.get("http://server/health")).json() == {"status": "ok"}
    page = (await http.get("http://server/metrics")).text
    assert 'evolving_model_requests_total{model="tiny",status="200"} 1.0' in page
    assert 'evolving_model_tokens_total{kind="completion",model="tiny"} 13.0' in page
    assert "unknown" not in page
