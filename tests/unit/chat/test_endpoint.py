"""What an endpoint's failures are called, and how they are met: real HTTP to a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from evolving_agent.chat.endpoint import Completion, Endpoints, ModelEndpoint, ModelError
from evolving_agent.contract.config import ModelAPI, ServedModel
from evolving_agent.testing.scripted_model import Reply, ScriptedModel, served

HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
async def url(model: ScriptedModel) -> AsyncIterator[str]:
    async with served(model.app) as url:
        yield f"{url}/v1"


@pytest.mark.parametrize("api", list(ModelAPI))
async def test_an_answer_and_what_it_cost(model: ScriptedModel, url: str, api: ModelAPI) -> None:
    async with ModelEndpoint(url) as endpoint:
        model.say(Reply(text="a b c d e"))
        assert await endpoint.complete("tiny", HI, max_tokens=5, api=api) == Completion("a b c d e", 10, 5)


@pytest.mark.parametrize(
    ("reply", "reason", "permanent"),
    [
        (Reply(status=401), "Unauthorized", True),
        (Reply(status=403), "Unauthorized", True),
        (Reply(status=404, code="model_not_found"), "ModelNotFound", True),
        (Reply(status=429), "RateLimited", False),
        (Reply(status=429, code="insufficient_quota"), "RateLimited", True),
        (Reply(status=400), "UpstreamError", True),
        (Reply(status=500), "UpstreamError", False),
        (Reply(status=503), "UpstreamError", False),
    ],
)
async def test_an_errors_reason_and_whether_waiting_helps(
    model: ScriptedModel, url: str, reply: Reply, reason: str, permanent: bool
) -> None:
    async with ModelEndpoint(url, max_retries=0) as endpoint:
        model.say(reply)
        with pytest.raises(ModelError) as raised:
            await endpoint.complete("tiny", HI, max_tokens=5)

    assert (raised.value.reason, raised.value.permanent) == (reason, permanent)
    assert raised.value.status == reply.status
    assert url in raised.value.message
    assert "'tiny'" in raised.value.message


async def test_a_server_that_is_not_there() -> None:
    async with ModelEndpoint("http://127.0.0.1:9/v1", max_retries=0) as endpoint:
        with pytest.raises(ModelError, match=r"cannot connect to http://127.0.0.1:9/v1") as raised:
            await endpoint.probe("tiny")

    assert (raised.value.reason, raised.value.permanent) == ("ModelUnreachable", False)


async def test_a_server_that_does_not_answer_in_time(model: ScriptedModel, url: str) -> None:
    async with ModelEndpoint(url, max_retries=0, timeout_seconds=0.2) as endpoint:
        model.say(Reply(seconds=30))
        with pytest.raises(ModelError, match="did not answer in time") as raised:
            await endpoint.probe("tiny")

    assert raised.value.reason == "ModelUnreachable"


async def test_a_probe_asks_once_and_for_one_token(model: ScriptedModel, url: str) -> None:
    async with ModelEndpoint(url) as endpoint:
        model.say(Reply(status=503))
        with pytest.raises(ModelError):
            await endpoint.probe("tiny")

    (asked,) = model.requests
    assert asked["max_tokens"] == 1


async def test_no_more_calls_run_at_once_than_allowed(model: ScriptedModel, url: str) -> None:
    running, most = 0, 0

    async with ModelEndpoint(url, max_concurrency=3) as endpoint:

        async def call() -> None:
            nonlocal running, most
            async with endpoint.calling("tiny"):
                running += 1
                most = max(most, running)
                await asyncio.sleep(0)
                running -= 1

        await asyncio.gather(*(call() for _ in range(20)))

    assert most == 3


async def test_one_endpoint_for_one_base_url() -> None:
    async with Endpoints("key") as endpoints:
        first = endpoints.of(ServedModel(id="tiny", base_url="http://a/v1"))
        assert endpoints.of(ServedModel(id="other", base_url="http://a/v1")) is first
        assert endpoints.of(ServedModel(id="tiny", base_url="http://b/v1")) is not first
        assert endpoints.of(ServedModel(id="tiny", base_url="http://a/v1", timeout_seconds=5)) is not first
        assert first.client.api_key == "key"


async def test_the_key_is_sent_and_a_placeholder_where_none_is_needed(
    model: ScriptedModel, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of somebody else")
    keys: list[Any] = []
    for key in ("secret", None):
        async with ModelEndpoint(url, key) as endpoint:
            keys.append(endpoint.client.api_key)
    assert keys == ["secret", "no-key-needed"]


async def test_what_the_endpoint_asks_to_wait_is_told_on(model: ScriptedModel, url: str) -> None:
    async with ModelEndpoint(url, max_retries=0) as endpoint:
        model.say(Reply(status=429, headers={"Retry-After": "17"}))
        with pytest.raises(ModelError) as raised:
            await endpoint.complete("tiny", HI, max_tokens=5)

    assert raised.value.retry_after == 17


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_a_passing_failure_is_asked_again_and_a_lasting_one_is_not(
    model: ScriptedModel, url: str, status: int
) -> None:
    async with ModelEndpoint(url) as endpoint:
        model.say(Reply(status=status, headers={"Retry-After": "0"}), Reply(text="at last"))
        assert (await endpoint.complete("tiny", HI, max_tokens=5)).text == "at last"

        model.say(Reply(status=400), Reply(text="never asked"))
        with pytest.raises(ModelError):
            await endpoint.complete("tiny", HI, max_tokens=5)

    assert len(model.requests) == 3


async def test_a_model_that_wants_max_completion_tokens_gets_them(model: ScriptedModel, url: str) -> None:
    model.script = only_completion_tokens
    async with ModelEndpoint(url) as endpoint:
        await endpoint.probe("tiny")
        await endpoint.complete("tiny", HI, max_tokens=5)

    refused, *taken = model.requests
    assert "max_tokens" in refused
    assert [asked.get("max_completion_tokens") for asked in taken] == [1, 5]


SCHEMA = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


async def test_an_answer_is_asked_for_in_a_form(model: ScriptedModel, url: str) -> None:
    async with ModelEndpoint(url) as endpoint:
        await endpoint.complete("tiny", HI, max_tokens=5, schema=SCHEMA)
        await endpoint.complete("tiny", HI, max_tokens=5, api=ModelAPI.RESPONSES, schema=SCHEMA)

    chat, responses = model.requests
    named = {"name": "answer", "strict": True, "schema": SCHEMA}
    assert chat["response_format"] == {"type": "json_schema", "json_schema": named}
    assert responses["text"] == {"format": {"type": "json_schema", **named}}


async def test_a_server_that_takes_no_schema_is_asked_without(model: ScriptedModel, url: str) -> None:
    def without_schema(body: dict[str, Any]) -> Reply:
        if "response_format" in body:
            return Reply(status=400, text="This response_format type is unavailable now")
        return Reply(text="{}")

    model.script = without_schema
    async with ModelEndpoint(url) as endpoint:
        for _ in range(2):
            assert (await endpoint.complete("tiny", HI, max_tokens=5, schema=SCHEMA)).text == "{}"

    assert ["response_format" in asked for asked in model.requests] == [True, False, False]


def only_completion_tokens(body: dict[str, Any]) -> Reply:
    """As OpenAI's reasoning models answer."""
    if "max_tokens" in body:
        text = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return Reply(status=400, code="unsupported_parameter", text=text)
    return Reply(text="thought about it")


async def test_a_query_in_the_base_url_goes_with_every_request() -> None:
    seen: list[Request] = []

    async def answer(request: Request) -> Response:
        seen.append(request)
        message = {"role": "assistant", "content": "Hi"}
        return JSONResponse({"id": "1", "choices": [{"index": 0, "message": message}]})

    path = "/openai/deployments/d/chat/completions"
    async with (
        served(Starlette(routes=[Route(path, answer, methods=["POST"])])) as url,
        ModelEndpoint(f"{url}/openai/deployments/d?api-version=2024-10-21", "secret") as endpoint,
    ):
        await endpoint.probe("d")

    (request,) = seen
    assert request.query_params["api-version"] == "2024-10-21"
    assert request.headers["Authorization"] == "Bearer secret"
    assert "api-key" not in request.headers


async def test_azure_gets_its_key_in_its_own_header() -> None:
    async with ModelEndpoint("https://x.openai.azure.com/openai/v1", "secret") as endpoint:
        assert endpoint.client.default_headers["api-key"] == "secret"
