"""What a pod tells an OpenTelemetry receiver, and what it keeps to itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from mcp.server.mcpserver import Context, MCPServer
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from evolving_agent.contract.config import MemoryType, ModelAPI, ServedModel
from evolving_agent.contract.tools import HTTPTool, MCPTool
from evolving_agent.runtime.tracing import CAPTURE_CONTENT, ENDPOINTS
from evolving_agent.testing.scripted_model import Reply, ScriptedModel, served
from support.mcp import mcp_server
from support.otlp import receiving
from support.pods import DEADLINE_SECONDS, Pod
from support.sudden_death import pod_process

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "my account is 12345"
LOOKUP = HTTPTool(
    type="HTTP",
    name="lookup",
    description="Looks something up.",
    method="GET",
    url="http://127.0.0.1:9/nobody-listens",
    parameters={"type": "object", "properties": {}},
)


async def ask(pod: Pod, *, stream: bool) -> str:
    body = {"model": "x", "stream": stream, "messages": [{"role": "user", "content": SECRET}]}
    headers = {"traceparent": CALLER, "baggage": "customer=12345", "X-Session-Id": "s-1"}
    async with httpx.AsyncClient(timeout=DEADLINE_SECONDS) as http:
        response = await http.post(f"{pod.url}/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == 200
    return response.text


async def test_a_request_is_a_tree_of_spans(make_pod: Any, upstream: Any) -> None:
    pod = make_pod(tools=(LOOKUP,), memory=MemoryType.DISABLED)
    pod.write_config()
    with receiving() as receiver:
        environment = {ENDPOINTS[0]: receiver.url, "EVOLVING_DRAIN_ACCEPT_SECONDS": "0"}
        async with pod_process(pod, **environment) as process:
            await process.until_ready()
            for stream in (False, True):
                upstream.model.say(Reply(text=None, calls=(("lookup", {}),)), Reply(text="nothing found"))
                await ask(pod, stream=stream)
            assert await process.terminate() == 0  # what is not sent yet is sent before it ends
            log = process.log()

    spans = receiver.spans
    assert {span.trace for span in spans} == {CALLER.split("-")[1]}
    for request in receiver.named("POST /v1/chat"):
        assert request.parent == CALLER.split("-")[2]
        assert request.attributes["http.response.status_code"] == 200
        (agent,) = (span for span in spans if span.parent == request.id)
        assert agent.name == "invoke_agent support"
        assert agent.attributes["gen_ai.conversation.id"] == "s-1"
        assert agent.attributes["gen_ai.response.id"].startswith("chatcmpl-support-0-")
        children = [span for span in spans if span.parent == agent.id]
        assert [span.name for span in children] == ["chat tiny", "execute_tool lookup", "chat tiny"]
        model, tool, _ = children
        assert model.attributes["gen_ai.operation.name"] == "chat"
        assert model.attributes["server.address"] == "127.0.0.1"
        assert model.attributes["gen_ai.usage.output_tokens"] > 0
        spent = sum(span.attributes.get("gen_ai.usage.input_tokens", 0) for span in children)
        assert agent.attributes["gen_ai.usage.input_tokens"] == spent
        assert tool.attributes["gen_ai.tool.name"] == "lookup"
        assert (tool.failed, tool.attributes["error.type"]) == (True, "tool_error")
    assert len(receiver.named("POST /v1/chat")) == 2
    assert len(spans) == 2 * 5
    assert spans[0].resource["service.name"] == "support"
    assert spans[0].resource["k8s.pod.name"] == "support-0"
    assert SECRET not in json.dumps([span.attributes for span in spans])
    assert SECRET not in log


@dataclass
class Downstream:
    """A model, a web service and an MCP server, and what each is told of the trace."""

    model: ScriptedModel = field(default_factory=ScriptedModel)
    model_url: str = ""
    tools: tuple[HTTPTool | MCPTool, ...] = ()
    told: dict[str, list[dict[str, str]]] = field(
        default_factory=lambda: {"model": [], "http": [], "mcp": []}
    )

    def spans_of(self, who: str) -> list[str]:
        """The IDs of the callers' spans; all in the trace of the test's caller."""
        told = [headers["traceparent"].split("-") for headers in self.told[who] if "traceparent" in headers]
        assert {trace for _, trace, _, _ in told} <= {CALLER.split("-")[1]}
        return [span for _, _, span, _ in told]

    def _noted(self, who: str, app: ASGIApp) -> ASGIApp:
        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            self.told[who].append(dict(Headers(scope=scope)))
            await app(scope, receive, send)

        return noting

    @classmethod
    @asynccontextmanager
    async def listening(cls) -> AsyncIterator[Downstream]:
        self, server = cls(), MCPServer("tickets")

        @server.tool()
        def open_ticket(context: Context) -> str:
            """Opens a ticket."""
            meta = context.request_context.meta or {}
            self.told["mcp"].append({key: str(value) for key, value in meta.items()})
            return "ticket 1"

        async with (
            served(self._noted("model", self.model.app)) as self.model_url,
            served(self._noted("http", PlainTextResponse("found"))) as http_url,
            mcp_server(server.streamable_http_app()) as port,
        ):
            tickets = MCPTool(type="MCP", name="tickets", url=f"http://127.0.0.1:{port}/mcp")
            self.tools = (LOOKUP.model_copy(update={"url": http_url}), tickets)
            yield self

    async def serve_requests(self, make_pod: Any, api: ModelAPI, **environment: str) -> None:
        """One whole answer and one in pieces; each calls both tools."""
        model = ServedModel(id="tiny", base_url=f"{self.model_url}/v1", api=api)
        pod = make_pod(tools=self.tools, memory=MemoryType.DISABLED, model=model)
        pod.write_config()
        async with pod_process(pod, EVOLVING_DRAIN_ACCEPT_SECONDS="0", **environment) as process:
            await process.until_ready()
            for stream in (False, True):
                asking = Reply(text=None, calls=(("lookup", {}), ("open_ticket", {})))
                self.model.say(asking, Reply(text="nothing found"))
                await ask(pod, stream=stream)
            assert await process.terminate() == 0


@pytest.mark.parametrize("api", list(ModelAPI))
async def test_models_and_tools_are_told_of_the_trace(make_pod: Any, api: ModelAPI) -> None:
    async with Downstream.listening() as downstream:
        with receiving() as receiver:
            await downstream.serve_requests(make_pod, api, **{ENDPOINTS[0]: receiver.url})

    assert downstream.spans_of("model") == [span.id for span in receiver.named("chat tiny")]
    assert downstream.spans_of("http") == [span.id for span in receiver.named("execute_tool lookup")]
    assert len(downstream.spans_of("http")) == len(downstream.spans_of("mcp")) == 2
    assert len(downstream.spans_of("model")) == 4
    # what else the caller says beside its trace stays here
    assert not any("baggage" in headers for told in downstream.told.values() for headers in told)


async def test_without_tracing_nobody_is_told_anything(make_pod: Any) -> None:
    async with Downstream.listening() as downstream:
        await downstream.serve_requests(make_pod, ModelAPI.CHAT_COMPLETIONS)

    assert all(downstream.told.values())
    assert not any(downstream.spans_of(who) for who in downstream.told)


async def test_what_is_said_is_told_to_those_who_ask_for_it(make_pod: Any) -> None:
    pod = make_pod()
    pod.write_config()
    with receiving() as receiver:
        environment = {
            ENDPOINTS[0]: receiver.url,
            CAPTURE_CONTENT: "true",
            "OTEL_SERVICE_NAME": "bank-support",
            "EVOLVING_DRAIN_ACCEPT_SECONDS": "0",
        }
        async with pod_process(pod, **environment) as process:
            await process.until_ready()
            await ask(pod, stream=False)
            assert await process.terminate() == 0
            log = process.log()

    (agent,) = receiver.named("invoke_agent support")
    asked = json.loads(agent.attributes["gen_ai.input.messages"])
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": SECRET}]}]
    assert f"echo: {SECRET}" in agent.attributes["gen_ai.output.messages"]
    assert agent.resource["service.name"] == "bank-support"
    (told,) = (line for line in map(json.loads, log.splitlines()) if line["message"] == "said")
    assert (told["messages"][0]["content"], told["answer"]) == (SECRET, f"echo: {SECRET}")


async def test_a_receiver_that_is_away_costs_no_request(make_pod: Any) -> None:
    pod = make_pod()
    pod.write_config()
    environment = {
        ENDPOINTS[0]: "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "EVOLVING_DRAIN_ACCEPT_SECONDS": "0",
    }
    async with pod_process(pod, **environment) as process:
        await process.until_ready()
        assert "echo" in await ask(pod, stream=False)
        assert "echo" in await ask(pod, stream=True)
        assert await process.terminate() == 0
