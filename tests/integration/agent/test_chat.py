"""Chat over real HTTP: the official client, plain HTTP, streaming, errors."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import request_response

from evolving_agent.contract.config import Limits, ModelAPI, ServedModel
from evolving_agent.contract.tools import BuiltinName, BuiltinTool
from evolving_agent.testing.scripted_model import Reply
from support.pods import eventually, running

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]


async def test_the_official_client_gets_an_answer_and_its_episode_is_logged(
    make_pod: Any, upstream: Any
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(text="Hello there."))

        answer = await client.chat.completions.create(
            model="support", messages=HI, extra_headers={"X-Session-Id": "s-1"}
        )

        assert answer.choices[0].message.content == "Hello there."
        assert answer.choices[0].finish_reason == "stop"
        assert answer.model == "tiny"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 2)
        assert answer.model_extra is not None
        assert answer.model_extra["evolving_agents"] == {
            "revision": "support-00000001",
            "arm": "active",
            "tool_calls": [],
            "agent_path": ["support"],
        }
        (episode,) = pod.episodes()
        assert episode.id == answer.id
        assert (episode.answer, episode.arm, episode.error) == ("Hello there.", "active", None)
        assert (episode.messages, episode.session) == (HI, "s-1")
        assert (episode.input_tokens, episode.output_tokens) == (10, 2)


async def test_the_prompt_is_the_instructions_and_the_conversation_and_nothing_else(
    make_pod: Any, upstream: Any
) -> None:
    async with running(make_pod()) as pod:
        await pod.ask("Where is my card?")

        _probe, sent = upstream.model.requests
        assert sent["messages"] == [
            {"role": "system", "content": "You are a support agent."},
            {"role": "user", "content": "Where is my card?"},
        ]
        assert "tools" not in sent
        (episode,) = pod.episodes()
        assert episode.system == "You are a support agent."
        assert episode.tools == []


async def test_a_conversation_with_all_roles_and_parts_reaches_the_model(
    make_pod: Any, upstream: Any
) -> None:
    conversation = [
        {"role": "system", "content": "Answer in French."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Weather"}, {"type": "text", "text": "please"}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "user", "content": "And tomorrow?"},
    ]
    async with running(make_pod()) as pod:
        response = await pod.post("/v1/chat/completions", {"model": "x", "messages": conversation})

        assert response.status_code == 200
        sent = upstream.model.requests[-1]["messages"]
        assert sent[0]["content"] == "You are a support agent.\n\nAnswer in French."
        assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool", "user"]
        assert sent[2]["tool_calls"][0]["function"]["name"] == "weather"
        assert sent[3] == {"role": "tool", "tool_call_id": "c1", "content": "sunny"}


async def test_a_streamed_answer_comes_in_pieces_with_usage_and_is_logged_before_its_end(
    make_pod: Any, upstream: Any
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(text="one two three four"))

        stream = await client.chat.completions.create(
            model="support", messages=HI, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]

        pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert "".join(piece or "" for piece in pieces) == "one two three four"
        assert len([piece for piece in pieces if piece]) == 4
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 4
        (episode,) = pod.episodes()
        assert (episode.id, episode.answer) == (chunks[0].id, "one two three four")
        assert (episode.input_tokens, episode.output_tokens) == (10, 4)


async def test_the_first_piece_does_not_wait_for_the_rest(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(text="now later", piece_seconds=0.2))
        stream = await client.chat.completions.create(model="support", messages=HI, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content == "now":
                break

        assert pod.episodes() == []  # the run goes on
        rest = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(rest) == " later"


async def test_a_client_that_hangs_up_ends_the_run(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod:
        upstream.model.say(Reply(text="too late", seconds=60))
        async with httpx.AsyncClient() as http:
            with pytest.raises(httpx.ReadTimeout):
                await http.post(
                    f"{pod.url}/v1/chat/completions", json={"model": "x", "messages": HI}, timeout=0.3
                )

        labels = 'arm="active",model="tiny",outcome="cancelled",revision="support-00000001"'
        await eventually(
            lambda: pod.metric(f"evolving_agent_requests_total{{{labels}}}"), "the run is cancelled"
        )
        assert await pod.metric("evolving_agent_requests_in_flight") == 0


async def test_a_client_that_leaves_a_stream_ends_the_run(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(text="one two three four", piece_seconds=0.5))
        stream = await client.chat.completions.create(model="support", messages=HI, stream=True)
        await anext(aiter(stream))
        await stream.close()

        await eventually(lambda: upstream.model.aborted == 1, "the model's server sees its client leave")
        labels = 'arm="active",model="tiny",outcome="cancelled",revision="support-00000001"'
        await eventually(
            lambda: pod.metric(f"evolving_agent_requests_total{{{labels}}}"), "the run is cancelled"
        )
        assert pod.episodes() == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_that_takes_too_long_is_ended_and_logged(
    make_pod: Any, upstream: Any, stream: bool
) -> None:
    async with running(make_pod(limits=Limits(request_timeout_seconds=1))) as pod:
        upstream.model.say(Reply(text="too late", seconds=60))
        response = await pod.post("/v1/chat/completions", {"model": "x", "messages": HI, "stream": stream})

        assert response.status_code == 504
        assert response.json()["error"]["message"] == "no answer within 1 s"
        (episode,) = pod.episodes()
        assert episode.error == "Timeout: no answer within 1 s"


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (Reply(status=401, text="bad key"), 502, "Unauthorized"),
        (Reply(status=400, text="too long"), 400, "UpstreamError"),
        (Reply(status=404, code="model_not_found"), 502, "ModelNotFound"),
    ],
)
async def test_a_failing_model_gives_a_clear_error_in_openais_shape(
    make_pod: Any, upstream: Any, reply: Reply, status: int, code: str
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(reply)
        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(model="support", messages=HI)

        assert raised.value.status_code == status
        assert raised.value.code == code
        assert "tiny" in raised.value.message
        (episode,) = pod.episodes()
        assert episode.error is not None
        assert episode.error.startswith(code)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_stumbles_is_asked_again(make_pod: Any, upstream: Any, stream: bool) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(status=503), Reply(status=429, headers={"Retry-After": "0.01"}))

        answer: Any = await client.chat.completions.create(model="support", messages=HI, stream=stream)

        if stream:
            pieces = [chunk.choices[0].delta.content or "" async for chunk in answer]
            assert "".join(pieces) == "echo: Hi"
        else:
            assert answer.choices[0].message.content == "echo: Hi"
        assert len(upstream.model.requests) == 4  # the probe, two refusals, the answer


async def test_a_streamed_request_to_a_missing_model_fails_with_a_status(
    make_pod: Any, upstream: Any
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.models.clear()
        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(model="support", messages=HI, stream=True)

        assert raised.value.status_code == 502


async def test_a_stream_that_breaks_off_ends_with_an_error_event(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(text="one two three four", breaks_off=True))
        stream = await client.chat.completions.create(model="support", messages=HI, stream=True)
        with pytest.raises(openai.APIError, match="tiny"):
            [chunk async for chunk in stream]

        (episode,) = pod.episodes()
        assert episode.error is not None
        assert episode.error.startswith(("ModelUnreachable", "UpstreamError"))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "x"}, "messages"),
        ({"model": "x", "messages": []}, "messages"),
        ({"model": "x", "messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"model": "x", "messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"model": "x", "messages": HI, "n": 2}, "n"),
        ({"model": "x", "messages": HI, "functions": [{"name": "old"}]}, "functions"),
    ],
)
async def test_a_malformed_request_is_refused_with_the_place(make_pod: Any, body: Any, param: str) -> None:
    async with running(make_pod()) as pod:
        response = await pod.post("/v1/chat/completions", body)

        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert await pod.metric('evolving_agent_requests_refused_total{reason="invalid"}') == 1
        assert pod.episodes() == []


async def test_what_is_not_json_too_long_or_unknown_is_refused(make_pod: Any) -> None:
    async with running(make_pod()) as pod, httpx.AsyncClient(base_url=pod.url) as http:
        broken = await http.post("/v1/chat/completions", content=b"{")
        long = await http.post("/v1/chat/completions", content=b" " * (4 * 2**20 + 1))
        unknown = await http.get("/v1/nothing")

    assert [broken.status_code, long.status_code, unknown.status_code] == [400, 413, 404]
    assert all("message" in response.json()["error"] for response in (broken, long, unknown))


async def test_sampling_of_the_request_and_limits_of_the_spec_reach_the_model(
    make_pod: Any, upstream: Any
) -> None:
    model = ServedModel(
        id="tiny", base_url=f"{upstream.url}/v1", max_output_tokens=50, temperature_percent=70
    )
    async with running(make_pod(model=model)) as pod, pod.client() as client:
        await client.chat.completions.create(model="x", messages=HI, max_tokens=80)
        await client.chat.completions.create(model="x", messages=HI, max_completion_tokens=20, temperature=0)

    own, asked = upstream.model.requests[1:]
    assert (own["max_tokens"], own["temperature"]) == (50, 0.7)
    assert (asked["max_tokens"], asked["temperature"]) == (20, 0)


async def test_what_else_a_client_may_wish_reaches_a_model_that_knows_it(
    make_pod: Any, upstream: Any
) -> None:
    wishes: Any = {"seed": 7, "stop": ["END", "\n\n"], "frequency_penalty": 0.5, "presence_penalty": -1}
    plain: Any = {"user": "ada", "store": True, "service_tier": "auto", "logprobs": False, "n": 1}
    by_responses = ServedModel(id="tiny", base_url=f"{upstream.url}/v1", api="Responses")
    for model in (None, by_responses):
        changes = {} if model is None else {"model": model}
        async with running(make_pod(**changes)) as pod, pod.client() as client:
            ask: Any = {"model": "x", "messages": HI}
            answer = await client.chat.completions.create(**ask, **wishes, **plain, reasoning_effort="low")
            assert answer.choices[0].message.content == "echo: Hi"
            await client.chat.completions.create(**ask, stop="END")

    _probe, chat, one_stop, _probe, responses, _ = upstream.model.requests
    assert {name: chat[name] for name in wishes} == wishes
    assert one_stop["stop"] == "END"
    assert not wishes.keys() & responses.keys()
    assert not plain.keys() & chat.keys()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_responses_api_of_an_endpoint_serves_too(
    make_pod: Any, upstream: Any, stream: bool
) -> None:
    """Whole and streamed, with a call of a tool before the answer."""
    model = ServedModel(id="tiny", base_url=f"{upstream.url}/v1", api="Responses", max_output_tokens=50)
    tool = BuiltinTool(type="BuiltIn", name=BuiltinName.RECALL)
    async with running(make_pod(model=model, tools=(tool,))) as pod, pod.client() as client:
        upstream.model.say(
            Reply(status=503, headers={"Retry-After": "0"}),
            Reply(calls=(("recall", {"query": "cards"}),)),
            Reply(text="by the other API"),
        )

        answer: Any = await client.chat.completions.create(model="x", messages=HI, stream=stream)
        if stream:
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in answer])
        else:
            text = answer.choices[0].message.content

        assert text == "by the other API"
        _probe, _refused, _call, last = upstream.model.requests
        assert [item.get("type") for item in last["input"][1:]] == ["function_call", "function_call_output"]
        assert last["max_output_tokens"] == 50
        (episode,) = pod.episodes()
        assert [call.name for call in episode.tool_calls] == ["recall"]
        assert (episode.input_tokens, episode.output_tokens) == (20, 10)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", list(ModelAPI))
@pytest.mark.parametrize("said", ["<html>Welcome</html>", "{}", '{"choices": [{}]}'])
async def test_a_server_that_speaks_another_language_is_named(
    make_pod: Any, upstream: Any, said: str, api: ModelAPI, stream: bool
) -> None:
    """A base URL that leads to some web server, or to some other API."""
    kind = "application/json" if said.startswith("{") else "text/html"

    async def welcome(_: Request) -> Response:
        return Response(said, media_type=kind)

    pod = make_pod(model=ServedModel(id="tiny", base_url=f"{upstream.url}/v1", api=api))
    async with running(pod):
        for route in upstream.model.app.routes:
            if route.path in ("/v1/chat/completions", "/v1/responses"):
                route.app = request_response(welcome)

        answer = await pod.post("/v1/chat/completions", {"model": "x", "messages": HI, "stream": stream})

        assert answer.status_code == 502
        assert upstream.url in answer.json()["error"]["message"]


async def test_models_lists_the_agent_and_the_model_that_it_serves(make_pod: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        assert [model.id async for model in client.models.list()] == ["support", "tiny"]


async def test_metrics_carry_revision_model_and_arm(make_pod: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        await pod.ask("Hi")
        async for _ in await client.chat.completions.create(model="x", messages=HI, stream=True):
            pass

        labels = 'arm="active",model="tiny",{}revision="support-00000001"'
        ok = labels.format('outcome="ok",')
        assert await pod.metric(f"evolving_agent_requests_total{{{ok}}}") == 2
        plain = labels.format("")
        assert await pod.metric(f"evolving_agent_request_seconds_count{{{plain}}}") == 2
        assert await pod.metric(f"evolving_agent_first_token_seconds_count{{{plain}}}") == 1
        assert await pod.metric("evolving_agent_ready") == 1
        assert await pod.metric('evolving_agent_log_records_total{kind="episode"}') == 2
        tokens = f'arm="active",direction="input",{labels.format("").split(",", 1)[1]}'
        assert await pod.metric(f"evolving_agent_tokens_total{{{tokens}}}") == 20


async def test_answers_are_valid_json_lines_for_jq(make_pod: Any) -> None:
    async with running(make_pod()) as pod:
        await pod.ask("line\nbreak")

        (path,) = pod.store.episode_files
        (line,) = path.read_text().splitlines()
        assert json.loads(line)["type"] == "episode"
