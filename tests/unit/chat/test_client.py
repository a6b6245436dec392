"""Answers are read as OpenAI's own client reads them, whatever is in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from evolving_agent.chat.client import Client

DELTA = {"role": "assistant", "content": "Hello"}
PIECE = {
    "id": "c1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "tiny",
    "choices": [{"index": 0, "delta": DELTA, "finish_reason": None}],
}
CALL = {"index": 0, "id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def piece(delta: dict[str, Any]) -> dict[str, Any]:
    return PIECE | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def client(of: Callable[..., openai.AsyncOpenAI], answer: bytes) -> openai.AsyncOpenAI:
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(200, content=answer, headers={"content-type": "application/json"})
    )
    http = httpx2.AsyncClient(transport=transport)
    return of(base_url="http://model/v1", api_key="any", http_client=http)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(PIECE, id="as the API has it"),
        pytest.param(piece({"tool_calls": [CALL]}), id="a call of a tool"),
        pytest.param(PIECE | {"choices": [], "usage": USAGE}, id="usage at the end"),
        pytest.param(piece(DELTA | {"reasoning_content": "hm"}), id="a field that the API does not have"),
        pytest.param({"choices": [{"delta": DELTA}]}, id="fields left out"),
        pytest.param(PIECE | {"created": None, "usage": {"prompt_tokens": "3"}}, id="other types"),
        pytest.param(PIECE | {"choices": [{"index": 0, "delta": DELTA, "finish_reason": "eos"}]}, id="word"),
        pytest.param({"detail": "busy"}, id="something else"),
    ],
)
async def test_a_piece_is_what_the_sdk_makes_of_it(sent: dict[str, Any]) -> None:
    stream = f"data: {json.dumps(sent)}\n\ndata: [DONE]\n\n".encode()

    async def read(of: Callable[..., openai.AsyncOpenAI]) -> list[Any]:
        answer = await client(of, stream).chat.completions.create(model="tiny", messages=[], stream=True)
        return [piece async for piece in answer]

    assert await read(Client) == await read(openai.AsyncOpenAI)


@pytest.mark.parametrize("left_out", [(), ("created", "object"), ("choices",)])
async def test_an_answer_is_what_the_sdk_makes_of_it(left_out: tuple[str, ...]) -> None:
    whole = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "tiny",
        "choices": [{"index": 0, "message": DELTA, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    sent = json.dumps({key: value for key, value in whole.items() if key not in left_out}).encode()

    async def read(of: Callable[..., openai.AsyncOpenAI]) -> Any:
        return await client(of, sent).chat.completions.create(model="tiny", messages=[])

    assert await read(Client) == await read(openai.AsyncOpenAI)
