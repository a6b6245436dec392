"""Answers in the form that a client asks for: any JSON object, or one that fits its schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from evolving_agent.contract.config import (
    ModelAPI,
    Reflection,
    ReflectionMode,
    ServedModel,
    Specialist,
    ToolUseBehavior,
)
from evolving_agent.contract.tools import BuiltinName, BuiltinTool
from evolving_agent.testing.scripted_model import Reply
from support.pods import eventually, running

HI: Any = [{"role": "user", "content": "Where is my card?"}]
SCHEMA = {
    "type": "object",
    "properties": {"team": {"type": "string"}},
    "required": ["team"],
    "additionalProperties": False,
}
NAMED = {"name": "ticket", "schema": SCHEMA, "strict": True}
IN_CHAT: Any = {"type": "json_schema", "json_schema": NAMED}
IN_RESPONSES: Any = {"type": "json_schema", **NAMED}
RECALL = BuiltinTool(type="BuiltIn", name=BuiltinName.RECALL)


class Ticket(BaseModel):
    team: str
    urgent: bool


TICKET = Reply(text='{"team": "cards", "urgent": true}')


def served(upstream: Any, api: ModelAPI) -> ServedModel:
    return ServedModel(id="tiny", base_url=f"{upstream.url}/v1", api=api)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_official_client_parses_an_answer_into_its_own_model(
    make_pod: Any, upstream: Any, stream: bool
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(TICKET, TICKET)
        ask: Any = {"model": "x", "messages": HI, "response_format": Ticket}
        if stream:
            chat: Any = client.chat.completions.stream(**ask)
            async with chat as events:
                parsed = (await events.get_final_completion()).choices[0].message.parsed
            responses: Any = client.responses.stream(model="x", input=HI, text_format=Ticket)
            async with responses as events:
                also = (await events.get_final_response()).output_parsed
        else:
            parsed = (await client.chat.completions.parse(**ask)).choices[0].message.parsed
            also = (await client.responses.parse(model="x", input=HI, text_format=Ticket)).output_parsed

        assert parsed == also == Ticket(team="cards", urgent=True)
        of_chat, of_responses = upstream.model.requests[1:]
        assert of_chat["response_format"]["json_schema"]["strict"] is True
        assert of_chat["response_format"] == of_responses["response_format"]
        first, _ = pod.episodes()
        assert first.answer_format == of_chat["response_format"]
        assert first.error is None


@pytest.mark.parametrize("api", list(ModelAPI))
@pytest.mark.parametrize("given", [{"type": "json_object"}, IN_CHAT])
async def test_a_format_reaches_the_model_of_either_api_as_it_was_given(
    make_pod: Any, upstream: Any, api: ModelAPI, given: Any
) -> None:
    async with running(make_pod(model=served(upstream, api), tools=(RECALL,))) as pod, pod.client() as client:
        upstream.model.say(Reply(calls=(("recall", {"query": "card"}),)), Reply(text='{"team": "cards"}'))
        answer = await client.chat.completions.create(model="x", messages=HI, response_format=given)

        assert json.loads(answer.choices[0].message.content or "") == {"team": "cards"}
        for sent in upstream.model.requests[1:]:  # the model decides itself which of its answers is the last
            if api is ModelAPI.CHAT_COMPLETIONS:
                assert sent["response_format"] == given
            else:
                assert sent["text"]["format"] == {"type": given["type"], **given.get("json_schema", {})}


async def test_a_text_format_of_responses_is_echoed_and_plain_requests_carry_none(
    make_pod: Any, upstream: Any
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(text='{"team": "cards"}'))
        formatted: Any = await client.responses.create(model="x", input="Hi", text={"format": IN_RESPONSES})
        plain: Any = await client.responses.create(model="x", input="Hi", text={"format": {"type": "text"}})

        assert formatted.text.format.name == "ticket"
        assert plain.text.format.type == "text"
        first, second = upstream.model.requests[1:]
        assert first["response_format"] == IN_CHAT
        assert "response_format" not in second


async def test_a_specialist_that_is_asked_answers_in_text_and_one_that_takes_over_in_the_format(
    make_pod: Any, upstream: Any
) -> None:
    asked = Specialist(name="billing", description="Invoices", instructions="Settle.", mode="Tool")
    over = Specialist(name="cards", description="Cards", instructions="Find.")
    async with running(make_pod(specialists=(asked, over))) as pod, pod.client() as client:
        upstream.model.say(
            Reply(calls=(("billing", {"input": "x"}),)),
            Reply(text="Paid."),
            Reply(calls=(("transfer_to_cards", {}),)),
            Reply(text="{}"),
        )
        await client.chat.completions.create(model="x", messages=HI, response_format=IN_CHAT)

        with_format = ["response_format" in request for request in upstream.model.requests[1:]]
        assert with_format == [True, False, True, True]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", ["It is with the cards team.", "[1]"])
async def test_an_answer_that_is_no_json_comes_as_it_is_and_is_told(
    make_pod: Any, upstream: Any, stream: bool, said: str
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(text=said))
        ask: Any = {"model": "x", "messages": HI, "response_format": {"type": "json_object"}}
        if stream:
            chunks = [chunk async for chunk in await client.chat.completions.create(**ask, stream=True)]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            told = chunks[-1].model_extra
        else:
            answer = await client.chat.completions.create(**ask)
            text, told = answer.choices[0].message.content, answer.model_extra

        assert text == said
        assert told["evolving_agents"]["error"].startswith("AnswerFormat: the client asked for")
        (episode,) = pod.episodes()
        assert (episode.error or "").startswith("AnswerFormat")


@pytest.mark.parametrize("stream", [False, True])
async def test_words_before_a_tools_call_spoil_a_stream_but_no_whole_answer(
    make_pod: Any, upstream: Any, stream: bool
) -> None:
    async with running(make_pod(tools=(RECALL,))) as pod, pod.client() as client:
        upstream.model.say(Reply(text="Hm.", calls=(("recall", {"query": "x"}),)), Reply(text='{"a": 1}'))
        ask: Any = {"model": "x", "messages": HI, "response_format": {"type": "json_object"}}
        answer: Any = await client.chat.completions.create(**ask, stream=stream)
        if stream:
            assert [chunk async for chunk in answer]

        (episode,) = pod.episodes()
        assert (episode.error is not None) == stream
        assert episode.answer == '{"a": 1}'


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_stays_a_refusal(make_pod: Any, upstream: Any, stream: bool) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        no = Reply(refusal="I cannot help with that.")
        upstream.model.say(no, no)
        if stream:
            chat: Any = client.chat.completions.stream(model="x", messages=HI)
            async with chat as events:
                message = (await events.get_final_completion()).choices[0].message
            responses: Any = client.responses.stream(model="x", input=HI, text_format=Ticket)
            async with responses as events:
                response = await events.get_final_response()
        else:
            ask: Any = {"model": "x", "messages": HI, "response_format": Ticket}
            message = (await client.chat.completions.parse(**ask)).choices[0].message
            assert message.parsed is None
            response = await client.responses.parse(model="x", input=HI, text_format=Ticket)

        assert (message.refusal, message.content or "") == ("I cannot help with that.", "")
        (part,) = response.output[0].content
        assert (part.type, part.refusal) == ("refusal", "I cannot help with that.")
        assert {episode.error for episode in pod.episodes()} == {"Refused: the model refused to answer"}


async def test_a_tools_result_that_ends_the_run_is_looked_at_too(make_pod: Any, upstream: Any) -> None:
    behavior = ToolUseBehavior.STOP_ON_FIRST_TOOL
    async with running(make_pod(tools=(RECALL,), tool_use_behavior=behavior)) as pod, pod.client() as client:
        upstream.model.say(Reply(calls=(("recall", {"query": "x"}),)))
        await client.chat.completions.create(model="x", messages=HI, response_format={"type": "json_object"})

        (episode,) = pod.episodes()
        assert (episode.error or "").startswith("AnswerFormat")


async def test_a_schema_that_the_server_refuses_is_the_clients_error_and_not_the_reflections(
    make_pod: Any, upstream: Any
) -> None:
    """A client's bad schema must not make the agent believe that its server takes none."""
    reflection = Reflection(mode=ReflectionMode.AFTER_RUN)
    async with running(make_pod(reflection=reflection)) as pod:
        upstream.model.say(Reply(status=400, text="Invalid schema for response_format 'ticket'"))
        refused = await pod.post(
            "/v1/chat/completions", {"model": "x", "messages": HI, "response_format": IN_CHAT}
        )
        assert refused.status_code == 400
        assert "Invalid schema for response_format" in refused.json()["error"]["message"]

        upstream.model.say(Reply(text="Hello."), Reply(text='{"score": 90}'))
        await pod.ask("Hi")
        await eventually(lambda: len(pod.reflections()) == 1, "the reflection")
        assert upstream.model.requests[-1]["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"type": "xml"}, "response_format"),
        ({}, "response_format"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, "response_format.json_schema.name"),
        (
            {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
            "response_format.json_schema.name",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "objekt"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"title": "x" * 70_000}}},
            "response_format.json_schema.schema",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": [], "strict": True}},
            "response_format.json_schema.schema",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": 1}},
            "response_format.json_schema.strict",
        ),
    ],
)
async def test_a_format_that_is_none_is_refused_with_its_place(
    make_pod: Any, upstream: Any, given: Any, param: str
) -> None:
    async with running(make_pod()) as pod:
        chat = await pod.post(
            "/v1/chat/completions", {"model": "x", "messages": HI, "response_format": given}
        )
        flat = {**given, **given.get("json_schema", {})}
        flat.pop("json_schema", None)
        responses = await pod.post("/v1/responses", {"model": "x", "input": "Hi", "text": {"format": flat}})

        assert (chat.status_code, chat.json()["error"]["param"]) == (400, param)
        place = param.replace("response_format.json_schema", "text.format").replace(
            "response_format", "text.format"
        )
        place = "text.format.name" if given == {"type": "json_schema"} else place
        assert (responses.status_code, responses.json()["error"]["param"]) == (400, place)
        assert len(upstream.model.requests) == 1  # the probe
