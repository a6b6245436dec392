"""The Responses API over real HTTP: the official client, streaming, and continuing on any pod."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from evolving_agent.contract.config import MemoryType
from evolving_agent.testing.scripted_model import Reply
from support.pods import eventually, running

SYSTEM = {"role": "system", "content": "You are a support agent."}


async def test_the_official_client_gets_a_response_and_its_episode_is_logged(
    make_pod: Any, upstream: Any
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(text="Hello there."))

        response = await client.responses.create(
            model="support", input="Hi", instructions="Be brief.", metadata={"case": "7"}
        )

        assert (response.output_text, response.status, response.model) == (
            "Hello there.",
            "completed",
            "tiny",
        )
        assert (response.instructions, response.metadata) == ("Be brief.", {"case": "7"})
        assert response.usage is not None
        assert (response.usage.input_tokens, response.usage.total_tokens) == (10, 12)
        assert upstream.model.requests[-1]["messages"] == [
            {"role": "system", "content": "You are a support agent.\n\nBe brief."},
            {"role": "user", "content": "Hi"},
        ]
        (episode,) = pod.episodes()
        assert episode.answer == "Hello there."
        assert episode.id.removeprefix("chatcmpl-") == response.id.removeprefix("resp_")


async def test_any_pod_continues_a_response_without_its_instructions(make_pod: Any, upstream: Any) -> None:
    one, other = make_pod("support-0"), make_pod("support-1")
    async with (
        running(one),
        running(other),
        one.client() as first_client,
        other.client() as second_client,
    ):
        first = await first_client.responses.create(model="x", input="One", instructions="Be brief.")
        second = await second_client.responses.create(model="x", input="Two", previous_response_id=first.id)
        third = await first_client.responses.create(
            model="x", input=[{"role": "user", "content": "Three"}], previous_response_id=second.id
        )

        assert third.previous_response_id == second.id
        assert upstream.model.requests[-1]["messages"] == [
            SYSTEM,
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "echo: One"},
            {"role": "user", "content": "Two"},
            {"role": "assistant", "content": "echo: Two"},
            {"role": "user", "content": "Three"},
        ]
        episodes = {episode.messages[-1]["content"]: episode for episode in one.episodes()}
        assert [message["content"] for message in episodes["Three"].messages] == [
            *("One", "echo: One", "Two", "echo: Two", "Three")
        ]
        assert len({episode.session for episode in episodes.values()}) == 1  # the chain is one session


async def test_two_continuations_of_one_response_do_not_see_each_other(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        root = await client.responses.create(model="x", input="Root")
        await client.responses.create(model="x", input="Left", previous_response_id=root.id)
        await client.responses.create(model="x", input="Right", previous_response_id=root.id)

        said = [message["content"] for message in upstream.model.requests[-1]["messages"][1:]]
        assert said == ["Root", "echo: Root", "Right"]


async def test_a_response_streams_with_the_apis_events(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(text="one two three"))

        stream: Any = await client.responses.create(model="x", input="Hi", stream=True)
        events = [event async for event in stream]

        assert [event.type for event in events] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            *["response.output_text.delta"] * 3,
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].response.output_text == "one two three"
        assert events[0].response.id == events[-1].response.id


async def test_the_clients_stream_helper_builds_the_response_and_it_can_be_continued(
    make_pod: Any, upstream: Any
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        asking: Any = client.responses.stream(model="x", input="Hi")
        async with asking as stream:
            pieces = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            final = await stream.get_final_response()
        assert "".join(pieces) == final.output_text == "echo: Hi"

        await client.responses.create(model="x", input="More", previous_response_id=final.id)

        assert upstream.model.requests[-1]["messages"][2] == {"role": "assistant", "content": "echo: Hi"}


async def test_a_response_is_shown_again_and_deleted(make_pod: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        response = await client.responses.create(model="x", input="Hi")

        shown = await client.responses.retrieve(response.id)
        assert shown == response

        await client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError, match=response.id.partition("resp_")[2]):
            await client.responses.retrieve(response.id)
        with pytest.raises(openai.BadRequestError) as raised:
            await client.responses.create(model="x", input="And?", previous_response_id=response.id)
        assert (raised.value.code, raised.value.param) == (
            "previous_response_not_found",
            "previous_response_id",
        )


async def test_what_is_not_to_be_stored_is_not(make_pod: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        quiet = await client.responses.create(model="x", input="Hi", store=False)
        dry = await client.responses.create(
            model="x", input="Hi", extra_headers={"X-Evolving-Dry-Run": "true"}
        )

        for response in (quiet, dry):
            assert response.model_extra is not None
            assert response.model_extra["store"] is False
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(response.id)


async def test_feedback_takes_a_responses_id(make_pod: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        response = await client.responses.create(model="x", input="Hi")

        answer = await pod.post("/v1/feedback", {"completion_id": response.id, "thumbs": "up"})

        assert answer.status_code == 201
        await eventually(lambda: len(pod.reflections()) == 1, "the feedback's record")
        assert pod.reflections()[0].episode == pod.episodes()[0].id


async def test_pictures_and_tool_items_reach_the_model(make_pod: Any, upstream: Any) -> None:
    items: list[Any] = [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is it?"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
            ],
        },
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
        {"type": "reasoning", "id": "r1", "summary": []},
    ]
    async with running(make_pod()) as pod, pod.client() as client:
        await client.responses.create(model="x", input=items)

        _system, user, call, output = upstream.model.requests[-1]["messages"]
        assert user["content"][1]["image_url"] == {"url": "data:image/png;base64,AA==", "detail": "low"}
        assert call["tool_calls"][0]["function"]["name"] == "look"
        assert output == {"role": "tool", "tool_call_id": "c1", "content": "a cat"}


async def test_without_memory_responses_are_answered_but_not_continued(make_pod: Any) -> None:
    async with running(make_pod(memory=MemoryType.DISABLED)) as pod, pod.client() as client:
        response = await client.responses.create(model="x", input="Hi")
        assert response.output_text == "echo: Hi"
        assert response.model_extra is not None
        assert response.model_extra["store"] is False

        with pytest.raises(openai.BadRequestError, match="memory"):
            await client.responses.create(model="x", input="And?", previous_response_id=response.id)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "messages"),
        ({"input": "Hi", "background": True}, "background"),
        ({"input": "Hi", "previous_response_id": "a", "conversation": "b"}, "conversation"),
        ({"input": "Hi", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0]"),
        ({"input": "Hi", "max_output_tokens": 0}, "max_output_tokens"),
    ],
)
async def test_a_malformed_request_is_refused_with_the_place(make_pod: Any, body: Any, param: str) -> None:
    async with running(make_pod()) as pod:
        response = await pod.post("/v1/responses", {"model": "x"} | body)

        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert pod.episodes() == []


async def test_a_stream_that_breaks_off_ends_with_a_failed_response(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(text="one two three four", breaks_off=True))

        stream: Any = await client.responses.create(model="x", input="Hi", stream=True)
        events = [event async for event in stream]

        failed, error = events[-2:]
        assert (failed.type, error.type) == ("response.failed", "error")
        assert failed.response.status == "failed"
        assert failed.response.error is not None
        assert "tiny" in failed.response.error.message
