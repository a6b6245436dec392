"""Tools, specialists, and models that use them badly, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from evolving_agent.chat.endpoint import ModelEndpoint
from evolving_agent.contract.config import Limits, Reflection, ReflectionMode, Specialist, ToolUseBehavior
from evolving_agent.contract.tools import BuiltinTool, HTTPTool, MCPTool
from evolving_agent.runtime.loop import run_agent
from evolving_agent.store.records import ReflectionSource, ToolCall
from evolving_agent.testing.scripted_model import Reply, served
from support.pods import running

SCHEMA = {
    "type": "object",
    "properties": {"team": {"type": "string"}},
    "required": ["team"],
}


@dataclass
class Desk:
    """A web service that the agent's tools call."""

    url: str = ""
    received: list[dict[str, Any]] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        async def route(request: Request) -> Response:
            given = dict(request.query_params) if request.method == "GET" else await request.json()
            self.received.append(given)
            if given["team"] == "nobody":
                return JSONResponse({"error": "no such team"}, status_code=422)
            if given["team"] == "novelists":
                return PlainTextResponse("word " * 100_000)
            return PlainTextResponse(f"routed to {given['team']}")

        return Starlette(routes=[Route("/route", route, methods=["GET", "POST"])])

    def tool(self, **changes: Any) -> HTTPTool:
        return HTTPTool(
            **{
                "type": "HTTP",
                "name": "route_ticket",
                "description": "Routes the ticket to a team.",
                "url": f"{self.url}/route",
                "parameters": SCHEMA,
                **changes,
            }
        )


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    async with served(desk.app) as desk.url:
        yield desk


def call(team: str = "cards", name: str = "route_ticket") -> Reply:
    return Reply(calls=((name, {"team": team}),))


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_an_http_tool_is_called_and_the_model_words_the_answer(
    make_pod: Any, upstream: Any, desk: Desk, method: str
) -> None:
    async with running(make_pod(tools=(desk.tool(method=method),))) as pod:
        upstream.model.say(call(), Reply(text="Your ticket is with the cards team."))

        answer = await pod.ask("My card is lost")

        assert answer["choices"][0]["message"]["content"] == "Your ticket is with the cards team."
        assert answer["evolving_agents"]["tool_calls"] == [
            {"name": "route_ticket", "arguments": {"team": "cards"}}
        ]
        assert desk.received == [{"team": "cards"}]
        (episode,) = pod.episodes()
        assert episode.tool_calls == [
            ToolCall(name="route_ticket", arguments={"team": "cards"}, result="routed to cards")
        ]
        assert episode.tools == upstream.model.requests[1]["tools"]
        assert episode.tools[0]["function"]["parameters"] == SCHEMA
        assert (episode.input_tokens, episode.output_tokens) == (20, 12)


@pytest.mark.parametrize("stream", [False, True])
async def test_with_stop_on_first_tool_the_result_is_the_answer(
    make_pod: Any, upstream: Any, desk: Desk, stream: bool
) -> None:
    behavior = ToolUseBehavior.STOP_ON_FIRST_TOOL
    async with running(make_pod(tools=(desk.tool(),), tool_use_behavior=behavior)) as pod:
        upstream.model.say(call())
        async with pod.client() as client:
            answer: Any = await client.chat.completions.create(
                model="x", messages=[{"role": "user", "content": "lost"}], stream=stream
            )
            text = (
                "".join([chunk.choices[0].delta.content or "" async for chunk in answer])
                if stream
                else answer.choices[0].message.content
            )

        assert text == "routed to cards"
        assert len(upstream.model.requests) == 2  # the probe and one call
        assert pod.episodes()[0].answer == "routed to cards"


async def test_text_before_a_tool_call_and_after_it_are_streamed_apart(
    make_pod: Any, upstream: Any, desk: Desk
) -> None:
    async with running(make_pod(tools=(desk.tool(),))) as pod, pod.client() as client:
        upstream.model.say(
            Reply(text="One moment.", calls=(("route_ticket", {"team": "cards"}),)), Reply(text="Done.")
        )
        stream = await client.chat.completions.create(
            model="x", messages=[{"role": "user", "content": "lost"}], stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert text == "One moment.\n\nDone."
        assert pod.episodes()[0].answer == "Done."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("spoilt", "error"),
    [
        (Reply(calls=(("make_coffee", {"team": "x"}),)), "there is no tool 'make_coffee'"),
        (Reply(calls=(("route_ticket", '{"team": '),)), "are not JSON"),
        (Reply(calls=(("route_ticket", "[1]"),)), "must be a JSON object"),
        (Reply(calls=(("route_ticket", {}),)), "needs team"),
        (Reply(calls=(("route_ticket", '{"team": "\\ud800", "x":'),)), "are not JSON"),
    ],
)
async def test_a_spoilt_tool_call_is_told_to_the_model_which_tries_again(
    make_pod: Any, upstream: Any, desk: Desk, *, spoilt: Reply, error: str, stream: bool
) -> None:
    async with running(make_pod(tools=(desk.tool(),))) as pod, pod.client() as client:
        upstream.model.say(spoilt, call(), Reply(text="Done."))

        answer: Any = await client.chat.completions.create(
            model="x", messages=[{"role": "user", "content": "lost"}], stream=stream
        )
        if stream:
            assert [chunk async for chunk in answer]

        (episode,) = pod.episodes()
        assert (episode.answer, episode.error) == ("Done.", None)
        first, second = episode.tool_calls
        assert first.error is not None
        assert error in first.error
        assert second.result == "routed to cards"
        assert desk.received == [{"team": "cards"}]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_made_up_tool_ends_a_stop_on_first_tool_run_with_the_text_beside_it(
    make_pod: Any, upstream: Any, desk: Desk, stream: bool
) -> None:
    behavior = ToolUseBehavior.STOP_ON_FIRST_TOOL
    async with running(make_pod(tools=(desk.tool(),), tool_use_behavior=behavior)) as pod:
        upstream.model.say(Reply(text="I will help.", calls=(("make_coffee", {}),)))
        response = await pod.post(
            "/v1/chat/completions",
            {"model": "x", "messages": [{"role": "user", "content": "lost"}], "stream": stream},
        )

        assert response.status_code == 200
        (episode,) = pod.episodes()
        assert episode.answer == "I will help."
        assert [made_up.name for made_up in episode.tool_calls] == ["make_coffee"]
        assert len(upstream.model.requests) == 2
        labels = 'arm="active",model="tiny",outcome="error",revision="support-00000001",tool="(unknown)"'
        assert await pod.metric(f"evolving_agent_tool_calls_total{{{labels}}}") == 1


async def test_a_model_that_never_stops_calling_still_gets_its_request_answered(
    make_pod: Any, upstream: Any, desk: Desk
) -> None:
    async with running(make_pod(tools=(desk.tool(),))) as pod:
        upstream.model.script = lambda _: Reply(text="Again!", calls=(("route_ticket", {"team": "cards"}),))

        answer = await pod.ask("lost")

        assert answer["choices"][0]["message"]["content"] == "Again!"
        assert answer["evolving_agents"]["error"].startswith("TooManyTurns")
        assert len(desk.received) == Limits().max_model_calls
        assert pod.episodes()[0].error == answer["evolving_agents"]["error"]


@pytest.mark.parametrize("nothing", [Reply(text=""), Reply(text=None)])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_says_nothing_gives_an_empty_answer(
    make_pod: Any, upstream: Any, nothing: Reply, stream: bool
) -> None:
    async with running(make_pod()) as pod:
        upstream.model.say(nothing)
        response = await pod.post(
            "/v1/chat/completions",
            {"model": "x", "messages": [{"role": "user", "content": "Hi"}], "stream": stream},
        )

        assert response.status_code == 200
        assert pod.episodes()[0].answer == ""
        assert len(upstream.model.requests) == 2


async def test_servers_that_give_all_calls_one_id_are_understood(
    make_pod: Any, upstream: Any, desk: Desk
) -> None:
    async with running(make_pod(tools=(desk.tool(),))) as pod:
        upstream.model.say(
            Reply(calls=(("route_ticket", {"team": "a"}), ("route_ticket", {"team": "b"})), call_id="0"),
            Reply(calls=(("route_ticket", {"team": "c"}),), call_id="0"),
            Reply(calls=(("route_ticket", {"team": "d"}),), call_id=""),
            Reply(text="Done."),
        )
        answer = await pod.ask("lost")

        assert answer["choices"][0]["message"]["content"] == "Done."
        assert sorted(given["team"] for given in desk.received) == ["a", "b", "c", "d"]


async def test_failures_and_sizes_of_tools_are_bounded(make_pod: Any, upstream: Any, desk: Desk) -> None:
    dead = desk.tool(name="dead", url="http://127.0.0.1:9/nothing")
    async with running(make_pod(tools=(desk.tool(), dead))) as pod:
        upstream.model.say(call("nobody"), call("novelists"), call(name="dead"), Reply(text="I could not."))
        await pod.ask("lost")

        refused, long, unreachable = pod.episodes()[0].tool_calls
        assert refused.error is not None
        assert "422" in refused.error
        assert "no such team" in refused.error
        assert long.result is not None
        assert len(long.result) < 17_000
        assert unreachable.error is not None
        assert "127.0.0.1:9" in unreachable.error


async def test_a_dry_run_stubs_what_writes_runs_what_reads_and_is_not_logged(
    make_pod: Any, upstream: Any, desk: Desk
) -> None:
    reading = desk.tool(name="look_up", effect="Read", method="GET")
    async with running(make_pod(tools=(desk.tool(), reading))) as pod:
        upstream.model.say(call("cards"), call("loans", "look_up"), Reply(text="Done."))

        answer = await pod.ask("lost", **{"X-Evolving-Dry-Run": "true"})

        assert [made["name"] for made in answer["evolving_agents"]["tool_calls"]] == [
            "route_ticket",
            "look_up",
        ]
        assert desk.received == [{"team": "loans"}]
        assert pod.episodes() == []
        response = await pod.post("/v1/feedback", {"completion_id": answer["id"], "thumbs": "up"})
        assert response.status_code == 404


async def test_a_specialist_takes_a_conversation_over(make_pod: Any, upstream: Any, desk: Desk) -> None:
    billing = Specialist(
        name="billing",
        description="Invoices and refunds",
        instructions="You settle invoices.",
        tools=(desk.tool(),),
    )
    async with running(make_pod(specialists=(billing,))) as pod:
        upstream.model.say(
            Reply(calls=(("transfer_to_billing", {}),)), call("refunds"), Reply(text="Refunded.")
        )
        answer = await pod.ask("I want my money back")

        assert answer["evolving_agents"]["agent_path"] == ["support", "billing"]
        assert answer["choices"][0]["message"]["content"] == "Refunded."
        systems = [request["messages"][0]["content"] for request in upstream.model.requests[1:]]
        assert systems == ["You are a support agent.", "You settle invoices.", "You settle invoices."]
        (episode,) = pod.episodes()
        assert [made.name for made in episode.tool_calls] == ["transfer_to_billing", "route_ticket"]
        assert episode.system == "You are a support agent."
        assert [tool["function"]["name"] for tool in episode.tools] == ["transfer_to_billing"]
        labels = 'arm="active",model="tiny",revision="support-00000001",specialist="billing"'
        assert await pod.metric(f"evolving_agent_handoffs_total{{{labels}}}") == 1


async def test_the_agent_records_a_reflection_while_it_runs(make_pod: Any, upstream: Any) -> None:
    reflection = Reflection(mode=ReflectionMode.TOOL)
    async with running(make_pod(reflection=reflection)) as pod:
        said = {"lesson": "Ask for the card number first.", "score": 40, "outcome": "failure"}
        upstream.model.say(Reply(calls=(("record_reflection", said),)), Reply(text="Sorry."))

        answer = await pod.ask("My card is lost")

        (record,) = pod.reflections()
        assert record.source is ReflectionSource.TOOL
        assert record.episode == answer["id"]
        assert (record.lesson, record.score, record.outcome) == (said["lesson"], 40, "failure")
        assert record.query == "My card is lost"


async def test_the_agent_remembers_and_recalls(make_pod: Any, upstream: Any) -> None:
    tools = tuple(BuiltinTool(type="BuiltIn", name=name) for name in ("remember", "recall"))
    async with running(make_pod(tools=tools)) as pod:
        fact = {"subject": "Ada", "predicate": "lives in", "object": "Paris"}
        upstream.model.say(Reply(calls=(("remember", fact),)), Reply(text="Noted."))
        await pod.ask("Ada moved")
        upstream.model.say(
            Reply(calls=(("recall", {"query": "where does Ada live"}),)), Reply(text="In Paris.")
        )
        await pod.ask("And where is she?")

        (recalled,) = pod.episodes()[1].tool_calls
        assert recalled.result == "Ada lives in Paris"


async def test_tools_of_an_mcp_server_are_offered_and_called(make_pod: Any, upstream: Any) -> None:
    server = MCPServer("tickets")
    opened: list[str] = []

    @server.tool()
    def open_ticket(title: str) -> str:
        """Opens a ticket."""
        opened.append(title)
        if not title:
            raise ToolError("a ticket needs a title")
        return f"ticket 7: {title}"

    app = server.streamable_http_app()
    async with app.router.lifespan_context(app), served(app) as url:
        tool = MCPTool(type="MCP", name="tickets", url=f"{url}/mcp")
        async with running(make_pod(tools=(tool,))) as pod:
            upstream.model.say(
                Reply(calls=(("open_ticket", {"title": "lost card"}),)),
                Reply(calls=(("open_ticket", {"title": ""}),)),
                Reply(text="Done."),
            )
            await pod.ask("My card is lost")
            upstream.model.say(Reply(calls=(("open_ticket", {"title": "x"}),)), Reply(text="Dry."))
            await pod.ask("again", **{"X-Evolving-Dry-Run": "true"})

            (episode,) = pod.episodes()
            good, bad = episode.tool_calls
            assert good.result == "ticket 7: lost card"
            assert bad.error is not None
            assert "a ticket needs a title" in bad.error
            assert episode.tools[0]["function"]["name"] == "open_ticket"
            assert opened == ["lost card", ""]


async def test_an_mcp_server_that_is_down_leaves_the_agent_serving(make_pod: Any, upstream: Any) -> None:
    tool = MCPTool(type="MCP", name="tickets", url="http://127.0.0.1:9/mcp", timeout_seconds=2)
    async with running(make_pod(tools=(tool,))) as pod:
        answer = await pod.ask("Hi")

        assert answer["choices"][0]["message"]["content"] == "echo: Hi"
        assert "tools" not in upstream.model.requests[-1]


async def test_evaluation_runs_the_same_loop_dry_and_replays_recorded_results(
    make_pod: Any, upstream: Any, desk: Desk
) -> None:
    config = make_pod(tools=(desk.tool(),)).config
    recorded = ToolCall(name="route_ticket", arguments={"team": "cards"}, result="recorded")
    async with ModelEndpoint(config.model.base_url) as endpoint:
        upstream.model.say(call("cards"), call("loans"), Reply(text="Done."))
        result = await run_agent(
            config,
            [{"role": "user", "content": "lost"}],
            endpoint=endpoint,
            dry_run=True,
            replay=(recorded,),
        )

    assert result.answer == "Done."
    assert [(made.result, made.stubbed) for made in result.tool_calls] == [
        ("recorded", True),
        ("ok (dry run: not executed)", True),
    ]
    assert desk.received == []
    assert json.dumps(result.tools[0])
