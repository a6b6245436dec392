"""A client's own tools: offered beside the agent's, called by the model, executed by the client."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import openai
import pytest

from evolving_agent.contract.config import (
    Limits,
    MemoryType,
    ModelAPI,
    Reflection,
    ReflectionMode,
    ServedModel,
    Specialist,
)
from evolving_agent.contract.tools import BuiltinName, BuiltinTool
from evolving_agent.testing.scripted_model import Reply
from support.pods import eventually, running

ASK: Any = {"model": "x", "messages": [{"role": "user", "content": "Is it raining in Oslo?"}]}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather of a city", "parameters": PARAMETERS},
}
# the same as the Responses API spells it
FLAT_WEATHER: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}
RECALL = BuiltinTool(type="BuiltIn", name=BuiltinName.RECALL)
OSLO = ("weather", {"city": "Oslo"})


def offered(request: dict[str, Any]) -> list[str]:
    return [tool.get("function", tool)["name"] for tool in request.get("tools", ())]


def result_of(call: Any, said: str = "rain") -> Any:
    return {"role": "tool", "tool_call_id": call.id, "content": said}


async def test_a_call_of_a_clients_tool_comes_back_and_its_result_is_answered(
    make_pod: Any, upstream: Any
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(text="Let me see.", calls=(OSLO,)), Reply(text="It rains."))

        called = await client.chat.completions.create(**ASK, tools=[WEATHER])
        choice = called.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Let me see."
        assert choice.message.tool_calls is not None
        (call,) = choice.message.tool_calls
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Oslo"})

        history = [*ASK["messages"], choice.message, result_of(call)]
        answered = await client.chat.completions.create(model="x", messages=history, tools=[WEATHER])

        assert answered.choices[0].message.content == "It rains."
        assert answered.choices[0].finish_reason == "stop"
        first, second = upstream.model.requests[1:]
        assert [offered(first), offered(second)] == [["weather"], ["weather"]]
        assert first["tools"][0]["function"]["parameters"] == PARAMETERS
        assert [message["role"] for message in second["messages"][1:]] == ["user", "assistant", "tool"]
        assert second["messages"][2]["tool_calls"][0]["id"] == second["messages"][3]["tool_call_id"]


@pytest.mark.parametrize("api", list(ModelAPI))
@pytest.mark.parametrize("calls", [(OSLO,), (OSLO, ("weather", {"city": "Rome"}))])
async def test_calls_are_streamed_as_deltas(make_pod: Any, upstream: Any, api: ModelAPI, calls: Any) -> None:
    model = ServedModel(id="tiny", base_url=f"{upstream.url}/v1", api=api)
    async with running(make_pod(model=model)) as pod, pod.client() as client:
        upstream.model.say(Reply(calls=calls))

        asking: Any = client.chat.completions.stream(**ASK, tools=[WEATHER])
        async with asking as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_completion()

        assert "tool_calls.function.arguments.delta" in kinds
        assert final.choices[0].finish_reason == "tool_calls"
        made = final.choices[0].message.tool_calls
        assert [json.loads(call.function.arguments) for call in made] == [given for _, given in calls]
        assert len({call.id for call in made}) == len(calls)
        assert len(upstream.model.requests) == 2  # the probe, and one call of the model


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("continued_by", ["previous_response_id", "full input"])
async def test_responses_end_in_function_calls_and_go_on_with_their_outputs(
    make_pod: Any, upstream: Any, stream: bool, continued_by: str
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(
            Reply(text="Let me see.", calls=(OSLO, ("weather", {"city": "Rome"}))), Reply(text="It rains.")
        )
        ask: Any = {"model": "x", "tools": [FLAT_WEATHER]}
        question: Any = {"role": "user", "content": "Is it raining?"}

        if stream:
            asking: Any = client.responses.stream(**ask, input=[question])
            async with asking as events:
                kinds = [event.type async for event in events]
                called = await events.get_final_response()
            assert kinds.count("response.function_call_arguments.done") == 2
        else:
            called = await client.responses.create(**ask, input=[question])
        message, *calls = called.output
        assert message.content[0].text == "Let me see."
        assert [json.loads(call.arguments)["city"] for call in calls] == ["Oslo", "Rome"]
        assert [tool.name for tool in called.tools] == ["weather"]

        outputs: list[Any] = [
            {"type": "function_call_output", "call_id": call.call_id, "output": "rain"} for call in calls
        ]
        if continued_by == "full input":
            said: list[Any] = [
                question,
                *(item.model_dump(exclude_none=True) for item in called.output),
                *outputs,
            ]
            answered = await client.responses.create(**ask, input=said, store=False)
        else:
            answered = await client.responses.create(**ask, input=outputs, previous_response_id=called.id)

        assert answered.output_text == "It rains."
        sent = upstream.model.requests[-1]
        assert sent["tools"][0]["function"]["strict"] is True
        roles = [message["role"] for message in sent["messages"]]
        assert roles == ["system", "user", "assistant", "tool", "tool"]
        assert sent["messages"][2]["content"] == "Let me see."
        assert [call["id"] for call in sent["messages"][2]["tool_calls"]] == [call.call_id for call in calls]
        shown = await client.responses.retrieve(called.id)
        assert [item.type for item in shown.output] == ["message", "function_call", "function_call"]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_agent_did_itself_is_known_when_the_client_goes_on(
    make_pod: Any, upstream: Any, beside: bool, stream: bool
) -> None:
    """The agent's own call comes before the client's, or in the same answer: it is made once."""
    own = ("recall", {"query": "umbrella"})
    replies = [Reply(calls=(OSLO, own))] if beside else [Reply(calls=(own,)), Reply(calls=(OSLO,))]
    one, other = make_pod("support-0", tools=(RECALL,)), make_pod("support-1", tools=(RECALL,))
    async with running(one), running(other), one.client() as client, other.client() as other_client:
        upstream.model.say(*replies, Reply(text="Take one."))

        if stream:
            asking: Any = client.chat.completions.stream(**ASK, tools=[WEATHER])
            async with asking as events:
                called = await events.get_final_completion()
        else:
            called = await client.chat.completions.create(**ASK, tools=[WEATHER])
            assert called.model_extra is not None
            assert called.model_extra["evolving_agents"]["tool_calls"][0]["name"] == "recall"
        message = called.choices[0].message
        assert [call.function.name for call in message.tool_calls] == ["weather"]

        plain = {"role": "assistant", "tool_calls": [call.model_dump() for call in message.tool_calls]}
        history = [*ASK["messages"], plain, result_of(message.tool_calls[0])]
        answered = await other_client.chat.completions.create(model="x", messages=history, tools=[WEATHER])

        assert answered.choices[0].message.content == "Take one."
        sent = upstream.model.requests[-1]["messages"][1:]
        calls = [call["function"]["name"] for each in sent for call in each.get("tool_calls", ())]
        assert sorted(calls) == ["recall", "weather"]
        results = {each["tool_call_id"]: each["content"] for each in sent if each["role"] == "tool"}
        assert sorted(results.values()) == ["nothing is remembered about this", "rain"]
        made, final = one.episodes()[0], other.episodes()[-1]
        assert [call["function"]["name"] for call in made.client_calls] == ["weather"]
        assert [call.name for call in made.tool_calls] == ["recall"]
        assert (final.tool_calls, final.client_calls) == ([], [])
        assert [each["role"] for each in final.messages] == [each["role"] for each in sent]


@pytest.mark.parametrize("repeats_the_call", [False, True])
async def test_a_session_knows_the_call_whether_its_client_repeats_it_or_not(
    make_pod: Any, upstream: Any, repeats_the_call: bool
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        named: Any = {"extra_headers": {"X-Session-Id": "s"}, "tools": [WEATHER], "model": "x"}
        await client.chat.completions.create(messages=[{"role": "user", "content": "Hi"}], **named)
        upstream.model.say(Reply(calls=(OSLO,)), Reply(text="It rains."))
        called = await client.chat.completions.create(messages=ASK["messages"], **named)
        message = called.choices[0].message
        assert message.tool_calls is not None

        new: Any = [message] if repeats_the_call else []
        await client.chat.completions.create(messages=[*new, result_of(message.tool_calls[0])], **named)
        await client.chat.completions.create(messages=[{"role": "user", "content": "Thanks"}], **named)

        roles = [message["role"] for message in upstream.model.requests[-1]["messages"]]
        assert roles == [
            *("system", "user", "assistant", "user", "assistant", "tool", "assistant", "user"),
        ]


async def test_a_call_that_is_left_open_is_named(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(calls=(OSLO,)))
        called = await client.responses.create(model="x", input="Rain?", tools=[FLAT_WEATHER])

        with pytest.raises(openai.BadRequestError, match="no output for the call of weather"):
            await client.responses.create(model="x", input="And?", previous_response_id=called.id)
        with pytest.raises(openai.BadRequestError, match="no message before it made"):
            await client.chat.completions.create(
                model="x", messages=[{"role": "tool", "tool_call_id": "c", "content": "x"}]
            )


async def test_without_memory_the_client_itself_carries_its_calls(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod(tools=(RECALL,), memory=MemoryType.DISABLED)) as pod, pod.client() as client:
        upstream.model.say(
            Reply(calls=(("recall", {"query": "x"}),)), Reply(calls=(OSLO,)), Reply(text="It rains.")
        )
        called = await client.chat.completions.create(**ASK, tools=[WEATHER])
        message = called.choices[0].message
        assert message.tool_calls is not None

        history: Any = [*ASK["messages"], message, result_of(message.tool_calls[0])]
        answered = await client.chat.completions.create(model="x", messages=history, tools=[WEATHER])

        assert answered.choices[0].message.content == "It rains."
        assert [each["role"] for each in upstream.model.requests[-1]["messages"][1:]] == [
            *("user", "assistant", "tool"),
        ]


@pytest.mark.parametrize("api", list(ModelAPI))
@pytest.mark.parametrize(
    ("choice", "sent_as"),
    [
        ("auto", (None, None)),
        ("required", ("required", "required")),
        (
            {"type": "function", "function": {"name": "web_search"}},
            (
                {"type": "function", "function": {"name": "web_search"}},
                {"type": "function", "name": "web_search"},
            ),
        ),
    ],
)
async def test_the_choice_of_tools_reaches_the_model(
    make_pod: Any, upstream: Any, api: ModelAPI, choice: Any, sent_as: Any
) -> None:
    """Also of a function that has the name of a tool of OpenAI's own."""
    tool: Any = {"type": "function", "function": {"name": "web_search"}}
    model = ServedModel(id="tiny", base_url=f"{upstream.url}/v1", api=api)
    async with running(make_pod(model=model, tools=(RECALL,))) as pod, pod.client() as client:
        upstream.model.say(Reply(calls=(("web_search", {}),)))
        called = await client.chat.completions.create(
            **ASK, tools=[tool], tool_choice=choice, parallel_tool_calls=False
        )

        assert called.choices[0].finish_reason == "tool_calls"
        sent = upstream.model.requests[-1]
        assert sent.get("tool_choice") == sent_as[api is ModelAPI.RESPONSES]
        assert sent["parallel_tool_calls"] is False
        assert offered(sent) == ["recall", "web_search"]


async def test_only_allowed_tools_are_offered(make_pod: Any, upstream: Any) -> None:
    """The client's list of tools stays as it was, for its prompt cache."""
    flat_choice: Any = {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "weather"}]}
    async with running(make_pod(tools=(RECALL,))) as pod, pod.client() as client:
        await client.chat.completions.create(
            **ASK, tools=[WEATHER, tool("route")], tool_choice=allowed("required", "route")
        )
        await client.responses.create(
            model="x",
            input="Is it raining?",
            tools=[FLAT_WEATHER, {"type": "function", "name": "route", "parameters": {}, "strict": False}],
            tool_choice=flat_choice,
        )

        of_chat, of_responses = upstream.model.requests[1:]
        assert (offered(of_chat), of_chat["tool_choice"]) == (["recall", "route"], "required")
        assert (offered(of_responses), of_responses.get("tool_choice")) == (["recall", "weather"], None)


async def test_with_the_choice_none_only_the_agents_own_are_offered(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod(tools=(RECALL,))) as pod, pod.client() as client:
        await client.chat.completions.create(**ASK, tools=[WEATHER], tool_choice="none")

        assert offered(upstream.model.requests[-1]) == ["recall"]
        assert "tool_choice" not in upstream.model.requests[-1]


async def test_a_specialist_that_takes_over_may_call_them_too_and_a_hand_off_beside_waits(
    make_pod: Any, upstream: Any
) -> None:
    billing = Specialist(name="billing", description="Invoices", instructions="You settle invoices.")
    transfer: Any = ("transfer_to_billing", {})
    async with running(make_pod(specialists=(billing,))) as pod, pod.client() as client:
        upstream.model.say(Reply(calls=(transfer,)), Reply(calls=(OSLO,)), Reply(calls=(transfer, OSLO)))

        over = await client.chat.completions.create(**ASK, tools=[WEATHER])
        beside = await client.chat.completions.create(**ASK, tools=[WEATHER])

        assert [over.choices[0].finish_reason, beside.choices[0].finish_reason] == ["tool_calls"] * 2
        assert offered(upstream.model.requests[2]) == ["weather"]
        assert len(upstream.model.requests) == 4
        first, second = pod.episodes()
        assert (first.agent_path, second.agent_path) == (["support", "billing"], ["support"])
        assert second.tool_calls[0].error == "put off: tools of the client were called beside it"


async def test_a_specialist_that_is_asked_is_not_offered_them(make_pod: Any, upstream: Any) -> None:
    billing = Specialist(name="billing", description="Invoices", instructions="Settle.", mode="Tool")
    async with running(make_pod(specialists=(billing,))) as pod, pod.client() as client:
        upstream.model.say(
            Reply(calls=(("billing", {"input": "x"}),)), Reply(text="Paid."), Reply(text="Ok.")
        )

        await client.chat.completions.create(**ASK, tools=[WEATHER])

        assert [offered(request) for request in upstream.model.requests[1:]] == [
            ["billing", "weather"],
            [],
            ["billing", "weather"],
        ]


async def test_the_last_call_of_the_model_still_comes_back(make_pod: Any, upstream: Any) -> None:
    """The run ends at its limit of calls, after the agent's own part of the answer is done."""
    limits = Limits(max_model_calls=1)
    async with running(make_pod(limits=limits, tools=(RECALL,))) as pod, pod.client() as client:
        upstream.model.say(Reply(calls=(("recall", {"query": "x"}), OSLO)))

        called = await client.chat.completions.create(**ASK, tools=[WEATHER])

        assert called.choices[0].finish_reason == "tool_calls"
        (episode,) = pod.episodes()
        assert (episode.error, [call.name for call in episode.tool_calls]) == (None, ["recall"])


def tool(name: Any = "weather", **more: Any) -> Any:
    return {"type": "function", "function": {"name": name, **more}}


def allowed(mode: str, *names: str) -> Any:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("more", "param", "told"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools", "web_search"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "needs function"),
        ({"tools": [tool("a b")]}, "tools[0].function.name", "64 letters"),
        ({"tools": [tool(parameters={"type": "objekt"})]}, "tools[0].function.parameters", "objekt"),
        ({"tools": [tool(strict="yes")]}, "tools[0].function.strict", "true or false"),
        ({"tools": [tool(), tool()]}, "tools", "two functions"),
        ({"tools": [tool("recall")]}, "tools", "of that name: recall"),
        ({"tools": [tool("transfer_to_billing")]}, "tools", "of that name: transfer_to_billing"),
        ({"tools": [tool(f"t{index}") for index in range(128)]}, "tools", "128"),
        ({"tools": [tool(description="x" * 600_000)]}, "messages", "maxInputTokens"),
        ({"tools": [tool()], "tool_choice": {"type": "allowed_tools"}}, "tool_choice", "must be auto"),
        ({"tools": [tool()], "tool_choice": tool("other")}, "tool_choice", "'other'"),
        ({"tools": [tool()], "tool_choice": allowed("auto", "other")}, "tool_choice", '"other"'),
        ({"tools": [tool()], "tool_choice": allowed("none", "weather")}, "tool_choice", "auto or required"),
        ({"tools": [tool()], "tool_choice": allowed("required")}, "tool_choice", "at least one tool"),
        ({"tool_choice": "required"}, "tool_choice", "at least one tool"),
    ],
)
async def test_what_cannot_be_offered_is_refused_with_its_place(
    make_pod: Any, upstream: Any, more: Any, param: str, told: str
) -> None:
    billing = Specialist(name="billing", description="Invoices", instructions="You settle invoices.")
    async with running(make_pod(tools=(RECALL,), specialists=(billing,))) as pod:
        response = await pod.post("/v1/chat/completions", {**ASK, **more})

        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == param
        assert told in error["message"]
        assert len(upstream.model.requests) == 1  # the probe


async def test_an_unfinished_run_is_marked_and_not_reflected_upon(make_pod: Any, upstream: Any) -> None:
    reflection = Reflection(mode=ReflectionMode.AFTER_RUN)
    async with running(make_pod(reflection=reflection)) as pod, pod.client() as client:
        upstream.model.say(Reply(calls=(OSLO,)), Reply(text="It rains."), Reply(text='{"score": 90}'))
        called = await client.chat.completions.create(**ASK, tools=[WEATHER])
        message = called.choices[0].message
        assert message.tool_calls is not None
        history: Any = [*ASK["messages"], message, result_of(message.tool_calls[0], "rain all day")]
        await client.chat.completions.create(model="x", messages=history, tools=[WEATHER])
        await eventually(lambda: len(pod.reflections()) == 1, "the reflection upon the answer")

        unfinished, finished = pod.episodes()
        assert (unfinished.answer, unfinished.error) == ("", None)
        assert unfinished.client_calls == [message.tool_calls[0].model_dump()]
        assert [tool["function"]["name"] for tool in unfinished.client_tools] == ["weather"]
        assert unfinished.tools == []
        assert pod.reflections()[0].episode == finished.id
        assert "rain all day" in upstream.model.requests[-1]["messages"][1]["content"]
        skipped = 'evolving_agent_reflections_skipped_total{reason="clients_turn"}'
        assert await pod.metric(skipped) == 1
        labels = 'arm="active",model="tiny",revision="support-00000001"'
        assert await pod.metric(f"evolving_agent_client_tool_calls_total{{{labels}}}") == 1


async def test_a_dry_run_offers_them_and_leaves_nothing(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod(tools=(RECALL,))) as pod, pod.client() as client:
        upstream.model.say(Reply(calls=(OSLO,)))
        called = await client.chat.completions.create(
            **ASK, tools=[WEATHER], extra_headers={"X-Evolving-Dry-Run": "true"}
        )

        assert called.choices[0].finish_reason == "tool_calls"
        assert pod.episodes() == []


async def test_where_the_agents_own_calls_are_forgotten_it_is_said_and_not_guessed(
    make_pod: Any, upstream: Any
) -> None:
    """The call goes out all the same; its result is refused while nobody knows what else was done."""
    own = ("recall", {"query": "x"})
    async with running(make_pod(tools=(RECALL,))) as pod, pod.client() as client:
        damaged = sqlite3.connect(pod.store.session_database)
        damaged.execute("ALTER TABLE work RENAME TO lost")
        damaged.close()
        upstream.model.say(Reply(calls=(own, OSLO)))

        called = await client.chat.completions.create(**ASK, tools=[WEATHER])
        message = called.choices[0].message
        assert message.tool_calls is not None
        assert await pod.metric('evolving_agent_turns_kept_total{outcome="failed"}') == 1

        history: Any = [*ASK["messages"], message, result_of(message.tool_calls[0])]
        with pytest.raises(openai.InternalServerError) as raised:
            await client.chat.completions.create(model="x", messages=history, tools=[WEATHER])
        assert (raised.value.status_code, raised.value.code) == (503, "SessionsUnavailable")


async def test_a_stream_that_its_client_leaves_before_a_call_is_cancelled(
    make_pod: Any, upstream: Any
) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(text="one two three", piece_seconds=0.5, calls=(OSLO,)))
        stream = await client.chat.completions.create(**ASK, tools=[WEATHER], stream=True)
        await anext(aiter(stream))
        await stream.close()

        labels = 'arm="active",model="tiny",outcome="cancelled",revision="support-00000001"'
        await eventually(
            lambda: pod.metric(f"evolving_agent_requests_total{{{labels}}}"), "the run is cancelled"
        )
        assert pod.episodes() == []


async def test_arguments_that_are_no_json_are_the_clients_to_see(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(calls=(("weather", '{"city": '),)))

        called = await client.chat.completions.create(**ASK, tools=[WEATHER])

        assert called.choices[0].message.tool_calls is not None
        (call,) = called.choices[0].message.tool_calls
        assert call.type == "function"
        assert call.function.arguments == '{"city": '
