"""What a pod tells an OpenTelemetry receiver, and what it keeps to itself."""

from __future__ import annotations

import json
from typing import Any

import httpx

from evolving_agent.contract.config import MemoryType
from evolving_agent.contract.tools import HTTPTool
from evolving_agent.runtime.tracing import CAPTURE_CONTENT, ENDPOINTS
from evolving_agent.testing.scripted_model import Reply
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
    headers = {"traceparent": CALLER, "X-Session-Id": "s-1"}
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
