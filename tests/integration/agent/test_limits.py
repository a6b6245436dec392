"""What a pod takes on, over real HTTP: sizes, waiting, deadlines, and clients that leave."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from evolving_agent.contract.config import Limits, ServedModel
from evolving_agent.testing.scripted_model import Reply
from support.pods import DEADLINE_SECONDS, Pod, eventually, running

HI = [{"role": "user", "content": "Hi"}]
ASK = {"model": "x", "messages": HI}


async def test_beyond_those_that_wait_a_request_is_refused_and_told_when_to_come_back(
    make_pod: Any, upstream: Any
) -> None:
    limits = Limits(max_concurrent_requests=2, max_waiting_requests=1)
    go_on = asyncio.Event()
    async with running(make_pod(limits=limits)) as pod:
        upstream.model.hold(go_on)
        asking = [asyncio.create_task(pod.post("/v1/chat/completions", ASK)) for _ in range(3)]
        await eventually(lambda: in_flight(pod, 3), "three requests in the pod")
        await eventually(lambda: len(upstream.model.requests) == 3, "two of them at the model")

        for stream in (False, True):
            refused = await pod.post("/v1/chat/completions", ASK | {"stream": stream})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "Busy")
            assert refused.headers["Retry-After"] == "1"

        go_on.set()
        answers = await asyncio.gather(*asking)
        assert [answer.status_code for answer in answers] == [200] * 3
        assert await pod.metric('evolving_agent_requests_refused_total{reason="busy"}') == 2
        assert len(pod.episodes()) == 3


async def in_flight(pod: Pod, count: int) -> bool:
    return await pod.metric("evolving_agent_requests_in_flight") == count


async def test_no_more_calls_reach_the_model_at_once_than_the_endpoint_takes(
    make_pod: Any, upstream: Any
) -> None:
    go_on = asyncio.Event()
    model = ServedModel(id="tiny", base_url=f"{upstream.url}/v1", max_concurrent_calls=2)
    async with running(make_pod(model=model)) as pod:
        upstream.model.hold(go_on)
        asking = [asyncio.create_task(pod.post("/v1/chat/completions", ASK)) for _ in range(4)]
        await eventually(lambda: in_flight(pod, 4), "four requests in the pod")
        await eventually(lambda: len(upstream.model.requests) == 3, "the probe and two calls")
        assert len(upstream.model.requests) == 3

        go_on.set()
        assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_what_is_too_long_is_refused_by_name(make_pod: Any, path: str) -> None:
    limits = Limits(max_request_bytes=10_000, max_input_tokens=1_000)
    async with running(make_pod(limits=limits)) as pod:

        def body(length: int) -> dict[str, Any]:
            text = "x" * length
            return (
                {"input": text} if path.endswith("responses") else {"messages": [HI[0] | {"content": text}]}
            )

        fits, long, large = [await pod.post(path, body(length)) for length in (3_000, 5_000, 20_000)]

        assert [fits.status_code, long.status_code, large.status_code] == [200, 400, 413]
        error = long.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["param"] == next(iter(body(1)))
        assert "agent.limits.maxInputTokens" in error["message"]
        assert "agent.limits.maxRequestBytes" in large.json()["error"]["message"]


async def test_the_number_of_model_calls_in_a_run_is_bounded(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod(limits=Limits(max_model_calls=2))) as pod:
        upstream.model.script = lambda _: Reply(text="again", calls=(("unknown", {}),))

        answer = await pod.ask("Hi")

        assert answer["evolving_agents"]["error"] == (
            "TooManyTurns: no final answer after 2 calls of the model"
        )
        assert len(upstream.model.requests) == 3


async def test_a_content_type_that_is_no_json_is_refused(make_pod: Any) -> None:
    async with running(make_pod()) as pod, httpx.AsyncClient(base_url=pod.url) as http:
        refused = await http.post("/v1/chat/completions", files={"file": b"x"})
        wrong_method = await http.get("/v1/chat/completions")

    assert (refused.status_code, wrong_method.status_code) == (415, 405)
    assert "multipart/form-data" in refused.json()["error"]["message"]


async def test_a_rate_limit_that_outlasts_the_deadline_is_told_on_at_once(
    make_pod: Any, upstream: Any
) -> None:
    async with running(make_pod()) as pod:
        upstream.model.say(Reply(status=429, headers={"Retry-After": "3600"}))

        refused = await pod.post("/v1/chat/completions", ASK)

        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "3600")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert len(upstream.model.requests) == 2  # the probe, and one refusal


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_wants_max_completion_tokens_gets_them(
    make_pod: Any, upstream: Any, stream: bool
) -> None:
    def picky(body: dict[str, Any]) -> Reply:
        if "max_tokens" in body:
            return Reply(status=400, code="unsupported_parameter", text="use max_completion_tokens")
        return Reply(text="taken")

    upstream.model.script = picky
    async with running(make_pod()) as pod:
        answer = await pod.post("/v1/chat/completions", ASK | {"max_tokens": 7, "stream": stream})

        assert answer.status_code == 200
        asked = upstream.model.requests[-1]
        assert (asked["max_completion_tokens"], "max_tokens" in asked) == (7, False)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_the_call_of_the_model(
    make_pod: Any, upstream: Any, path: str, stream: bool
) -> None:
    async with running(make_pod()) as pod:
        upstream.model.say(Reply(text="one two three", piece_seconds=60) if stream else Reply(seconds=60))
        body = {"model": "x", "messages": HI, "input": "Hi", "stream": stream}
        leaving = asyncio.create_task(pod.post(path, body))
        await eventually(lambda: len(upstream.model.requests) == 2, "the call of the model")
        assert upstream.model.aborted == 0

        leaving.cancel()

        await eventually(lambda: upstream.model.aborted == 1, "the model's server sees its client leave")
        labels = 'arm="active",model="tiny",outcome="cancelled",revision="support-00000001"'
        await eventually(
            lambda: pod.metric(f"evolving_agent_requests_total{{{labels}}}"), "the run is cancelled"
        )
        assert await pod.metric("evolving_agent_requests_in_flight") == 0
        assert pod.episodes() == []


async def test_a_client_that_leaves_while_it_waits_gives_its_place_to_others(
    make_pod: Any, upstream: Any
) -> None:
    go_on = asyncio.Event()
    async with running(make_pod(limits=Limits(max_concurrent_requests=1, max_waiting_requests=1))) as pod:
        upstream.model.hold(go_on)
        first = asyncio.create_task(pod.post("/v1/chat/completions", ASK))
        await eventually(lambda: len(upstream.model.requests) == 2, "the first request at the model")
        waiting = asyncio.create_task(pod.post("/v1/chat/completions", ASK))
        await eventually(lambda: in_flight(pod, 2), "the second one waits")
        waiting.cancel()
        await eventually(lambda: in_flight(pod, 1), "its place is free")

        third = asyncio.create_task(pod.post("/v1/chat/completions", ASK))
        await eventually(lambda: in_flight(pod, 2), "the third one waits")
        go_on.set()
        assert [(await answer).status_code for answer in (first, third)] == [200, 200]


async def test_a_request_waits_no_longer_than_its_deadline(make_pod: Any, upstream: Any) -> None:
    limits = Limits(max_concurrent_requests=1, request_timeout_seconds=1)
    async with running(make_pod(limits=limits)) as pod:
        upstream.model.script = lambda _: Reply(text="late", seconds=60)

        answers = await asyncio.gather(*(pod.post("/v1/chat/completions", ASK) for _ in range(2)))

        assert [answer.status_code for answer in answers] == [504, 504]
        assert len(upstream.model.requests) == 2  # the second one never got its turn


async def test_a_body_that_never_ends_is_given_up(make_pod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolving_agent.runtime.request_body.BODY_SECONDS", 0.3)
    async with running(make_pod()) as pod:
        host, port = pod.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()

        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_SECONDS)
        writer.close()

        assert head.startswith(b"HTTP/1.1 408")
