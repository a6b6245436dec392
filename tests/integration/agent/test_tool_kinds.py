"""Each kind of tool over real HTTP, and all that can be wrong with it while the agent keeps serving."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from evolving_agent.contract import env
from evolving_agent.contract.refs import ConfigMapKeyRef, ConfigMapRef, SecretKeyRef
from evolving_agent.contract.tools import (
    HTTPHeader,
    HTTPTool,
    MCPTool,
    MCPTransport,
    ModuleTool,
    OpenAPISource,
)
from evolving_agent.store.records import ToolCall
from evolving_agent.testing.scripted_model import Reply, served
from support.mcp import mcp_server
from support.pods import Pod, PodProcess, eventually, running

TOKEN = "Bearer s3cret"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kubelet would mount."""
    monkeypatch.setenv(env.FILES, str(tmp_path / "files"))
    return tmp_path / "files"


def mount(files: Path, kind: str, name: str, **keys: str) -> None:
    directory = files / kind / name
    directory.mkdir(parents=True, exist_ok=True)
    for key, text in keys.items():
        (directory / key.replace("__", ".")).write_text(text)


def calling(*calls: tuple[str, dict[str, Any]]) -> list[Reply]:
    return [*(Reply(calls=(call,)) for call in calls), Reply(text="Done.")]


async def asked(
    pod: Pod, upstream: Any, *calls: tuple[str, dict[str, Any]], **headers: str
) -> list[ToolCall]:
    """The calls as they are in the log, of a request that was answered."""
    upstream.model.say(*calling(*calls))
    answer = await pod.ask("Help", **headers)
    assert answer["choices"][0]["message"]["content"] == "Done."
    return pod.episodes()[-1].tool_calls


def offered(upstream: Any) -> list[str]:
    return [tool["function"]["name"] for tool in upstream.model.requests[-1].get("tools", [])]


# --- OpenAPI --------------------------------------------------------------------------------------


@dataclass
class Shop:
    """A web service with an OpenAPI document, which wants a token."""

    url: str = ""
    received: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        async def order(request: Request) -> Response:
            self.received.append(
                (request.method, str(request.url.path), dict(request.headers), await request.body())
            )
            if request.headers.get("authorization") != TOKEN:
                return JSONResponse({"error": "who are you?"}, status_code=401)
            return JSONResponse({"order": request.path_params["order"], **dict(request.query_params)})

        async def document(_: Request) -> Response:
            return JSONResponse(self.document())

        async def away(_: Request) -> Response:
            return RedirectResponse("http://localhost:9/stolen", status_code=307)

        async def here(_: Request) -> Response:
            return RedirectResponse("/orders/moved", status_code=302)

        async def picture(_: Request) -> Response:
            return Response(b"\x89PNG", media_type="image/png")

        async def nothing(_: Request) -> Response:
            return Response(status_code=204)

        return Starlette(
            routes=[
                Route("/openapi.json", document),
                Route("/orders/{order}", order, methods=["GET", "PUT"]),
                Route("/away", away, methods=["POST"]),
                Route("/here", here),
                Route("/picture", picture),
                Route("/nothing", nothing),
            ]
        )

    def document(self, **changes: Any) -> dict[str, Any]:
        order = {"name": "order", "in": "path", "required": True, "schema": {"type": "string"}}
        tenant = {"name": "x-tenant", "in": "header", "schema": {"type": "string"}}
        expand = {"name": "expand", "in": "query", "schema": {"type": "boolean"}}
        body = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
        plain = {name: {"get": {"operationId": name}} for name in ("here", "picture", "nothing")}
        return {
            "openapi": "3.1.0",
            "info": {"title": "Shop", "version": "1"},
            "paths": {
                "/orders/{order}": {
                    "parameters": [order, tenant],
                    "get": {"operationId": "getOrder", "summary": "One order", "parameters": [expand]},
                    "put": {"operationId": "changeOrder", "requestBody": body},
                },
                "/away": {"post": {"operationId": "away"}},
                **{f"/{name}": item for name, item in plain.items()},
            },
            **changes,
        }

    def tool(self, **changes: Any) -> HTTPTool:
        return HTTPTool(
            **{
                "type": "HTTP",
                "name": "shop",
                "open_api": OpenAPISource(url=f"{self.url}/openapi.json"),
                "headers": (
                    HTTPHeader(
                        name="Authorization",
                        prefix="Bearer ",
                        secret_key_ref=SecretKeyRef(name="shop", key="token"),
                    ),
                    HTTPHeader(name="X-Tenant", value="north"),
                ),
                **changes,
            }
        )


@pytest.fixture
async def shop(files: Path) -> AsyncIterator[Shop]:
    mount(files, env.FILES_SECRETS, "shop", token="s3cret\n")
    shop = Shop()
    async with served(shop.app) as shop.url:
        yield shop


async def test_operations_of_a_document_are_offered_and_called(
    make_pod: Any, upstream: Any, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(make_pod(tools=(shop.tool(),))) as pod:
        read, changed = await asked(
            pod,
            upstream,
            ("getOrder", {"order": "a 7", "expand": True}),
            ("changeOrder", {"order": "7", "x-tenant": "south", "body": {"lines": 3}}),
        )

        assert json.loads(read.result or "") == {"order": "a 7", "expand": "true"}
        assert changed.error is None
        assert offered(upstream) == ["getOrder", "changeOrder", "away", "here", "picture", "nothing"]
        method, path, headers, body = shop.received[1]
        assert (method, path, json.loads(body)) == ("PUT", "/orders/7", {"lines": 3})
        assert len(headers["idempotency-key"]) == 32
        assert headers["x-tenant"] == "north"  # the spec's word, not the model's
        assert "idempotency-key" not in shop.received[0][2]
        assert "s3cret" not in str(pod.episodes()[0]) + caplog.text + json.dumps(pod.config.to_wire())


async def test_a_changed_secret_is_read_without_a_restart_and_a_missing_one_costs_the_call(
    make_pod: Any, upstream: Any, shop: Shop, files: Path
) -> None:
    mount(files, env.FILES_SECRETS, "shop", token="old")
    document = ConfigMapKeyRef(name="api", key="shop.json")
    mount(files, env.FILES_CONFIG_MAPS, "api", shop__json=json.dumps(shop.document()))
    tool = shop.tool(url=shop.url, open_api=OpenAPISource(config_map_key_ref=document))
    async with running(make_pod(tools=(tool,))) as pod:
        (refused,) = await asked(pod, upstream, ("getOrder", {"order": "7"}))
        mount(files, env.FILES_SECRETS, "shop", token="s3cret")
        (read,) = await asked(pod, upstream, ("getOrder", {"order": "7"}))
        (files / env.FILES_SECRETS / "shop" / "token").unlink()
        (missing,) = await asked(pod, upstream, ("getOrder", {"order": "7"}))

    assert refused.error is not None
    assert "401" in refused.error
    assert read.result == '{"order":"7"}'
    assert missing.error is not None
    assert "Secret shop is not there or has no key 'token'" in missing.error


async def test_a_call_never_leaves_the_described_origin(make_pod: Any, upstream: Any, shop: Shop) -> None:
    async with running(make_pod(tools=(shop.tool(),))) as pod:
        away, here, up = await asked(pod, upstream, ("away", {}), ("here", {}), ("getOrder", {"order": ".."}))

        assert away.error is not None
        assert "leads to localhost, outside of" in away.error
        assert here.result == '{"order":"moved"}'
        assert up.error == "order cannot be '..'"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"servers": [{"url": "http://169.254.169.254/latest"}]}, "names the server http://169.254.169.254"),
        ({"openapi": "2.0"}, "convert it to OpenAPI 3"),
        ({"paths": {}}, "offers no operation"),
    ],
)
async def test_a_document_that_cannot_be_used_leaves_the_agent_serving(
    make_pod: Any, upstream: Any, shop: Shop, changes: dict[str, Any], problem: str
) -> None:
    good = shop.document
    shop.document = lambda **_: good(**changes)  # type: ignore[method-assign] # the server's next word
    async with running(make_pod(tools=(shop.tool(),))) as pod:
        assert await asked(pod, upstream) == []

        assert offered(upstream) == []
        (told,) = (await pod.get("/readyz")).json()["problems"]
        assert problem in told
        assert await pod.metric('evolving_agent_tool_usable{tool="shop"}') == 0


async def test_results_are_text_and_only_as_long_as_the_spec_says(
    make_pod: Any, upstream: Any, shop: Shop
) -> None:
    tool = shop.tool(max_result_bytes=256)
    async with running(make_pod(tools=(tool,))) as pod:
        picture, nothing, long = await asked(
            pod, upstream, ("picture", {}), ("nothing", {}), ("getOrder", {"order": "ü" * 200})
        )

        assert picture.error == "shop answered 200 with image/png, which is no text"
        assert nothing.result == "done (204)"
        assert long.cut
        assert long.result is not None
        assert long.result.endswith("… (cut: only the first 256 bytes are shown)")
        assert len(long.result.encode()) < 320
        labels = 'arm="active",model="tiny",outcome="cut",revision="support-00000001",tool="getOrder"'
        assert await pod.metric(f"evolving_agent_tool_calls_total{{{labels}}}") == 1


async def test_a_request_that_comes_again_gives_its_writes_the_same_key(
    make_pod: Any, upstream: Any, shop: Shop
) -> None:
    change = ("changeOrder", {"order": "7", "body": {}})
    async with running(make_pod(tools=(shop.tool(),))) as pod:
        for request in ("r1", "r1", "r2", ""):
            await asked(pod, upstream, change, **{env.REQUEST_KEY_HEADER: request})
        await asked(pod, upstream, change, change)

    keys = [headers["idempotency-key"] for _, _, headers, _ in shop.received]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5  # r1, r2, one without a name, and two calls of one run that are equal


async def test_functions_of_one_name_are_offered_once_unless_a_prefix_tells_them_apart(
    make_pod: Any, upstream: Any, shop: Shop
) -> None:
    wanted = OpenAPISource(url=f"{shop.url}/openapi.json", operations=("getOrder", "nothing"))
    tools = (
        shop.tool(open_api=wanted),
        shop.tool(name="same", open_api=wanted),
        shop.tool(name="other", open_api=wanted, name_prefix="eu_"),
    )
    async with running(make_pod(tools=tools)) as pod:
        await asked(pod, upstream)

        assert offered(upstream) == ["getOrder", "nothing", "eu_getOrder", "eu_nothing"]


# --- Module ---------------------------------------------------------------------------------------

ORDERS = '''
"""Orders."""
import asyncio, time
from dataclasses import dataclass
from typing import Literal

@dataclass
class Line:
    article: str
    amount: int = 1

def price(article: str, amount: int = 1, currency: Literal["EUR", "USD"] = "EUR") -> dict[str, float | str]:
    """What an article costs.

    Args:
        article: Number of the article.
        amount: How many.
    """
    return {"article": article, "total": 2.5 * amount, "currency": currency}

async def order(lines: list[Line], idempotency_key: str) -> str:
    """Orders articles."""
    await asyncio.sleep(0)
    return f"{idempotency_key}: {sum(line.amount for line in lines)}"

def broken(article: str) -> str:
    """Fails."""
    raise LookupError(f"no article {article}")

def slow() -> str:
    """Takes its time."""
    time.sleep(3600)
    return "late"

def huge() -> str:
    """Says much."""
    return "word " * 1_000_000

def leaves() -> str:
    """Wants the process to end."""
    raise SystemExit(3)

def quiet() -> None:
    """Says nothing."""

def _hidden() -> str:
    return "hidden"
'''


def orders(**changes: Any) -> ModuleTool:
    config_map = ConfigMapRef(name="orders")
    return ModuleTool(
        **{"type": "Module", "name": "orders", "module": "orders", "config_map_ref": config_map, **changes}
    )


async def test_functions_of_a_mounted_module_are_offered_and_called(
    make_pod: Any, upstream: Any, files: Path
) -> None:
    mount(files, env.FILES_CONFIG_MAPS, "orders", orders__py=ORDERS)
    async with running(make_pod(tools=(orders(),))) as pod:
        priced, ordered, nothing = await asked(
            pod,
            upstream,
            ("price", {"article": "A1", "amount": 2}),
            ("order", {"lines": [{"article": "A1", "amount": 2}, {"article": "B"}]}),
            ("quiet", {}),
        )

        assert json.loads(priced.result or "") == {"article": "A1", "total": 5.0, "currency": "EUR"}
        key, _, amount = (ordered.result or "").partition(": ")
        assert (len(key), amount) == (32, "3")
        assert nothing.result == "done"
        assert offered(upstream) == ["price", "order", "broken", "slow", "huge", "leaves", "quiet"]
        schemas = {
            tool["function"]["name"]: tool["function"] for tool in upstream.model.requests[-1]["tools"]
        }
        assert schemas["price"]["description"] == "What an article costs."
        properties = schemas["price"]["parameters"]["properties"]
        assert properties["article"]["description"] == "Number of the article."
        assert properties["currency"]["enum"] == ["EUR", "USD"]
        assert schemas["price"]["parameters"]["required"] == ["article"]
        assert list(schemas["order"]["parameters"]["properties"]) == ["lines"]


async def test_functions_that_fail_hang_or_say_too_much_cost_their_call_only(
    make_pod: Any, upstream: Any, files: Path
) -> None:
    mount(files, env.FILES_CONFIG_MAPS, "orders", orders__py=ORDERS)
    async with running(make_pod(tools=(orders(timeout_seconds=1),))) as pod:
        raised, hung, long, left, unfit = await asked(
            pod,
            upstream,
            ("broken", {"article": "A1"}),
            ("slow", {}),
            ("huge", {}),
            ("leaves", {}),
            ("price", {"article": "A1", "amount": "many"}),
        )

    assert raised.error == "broken failed: LookupError: no article A1"
    assert hung.error == "slow did not answer within 1 s"
    assert long.cut
    assert left.error is not None
    assert "SystemExit(3)" in left.error
    assert unfit.error is not None
    assert "amount: Input should be a valid integer" in unfit.error


async def test_a_function_that_hangs_does_not_keep_the_pod_from_ending(
    make_pod: Any, upstream: Any, files: Path
) -> None:
    mount(files, env.FILES_CONFIG_MAPS, "orders", orders__py=ORDERS)
    pod = make_pod(tools=(orders(timeout_seconds=1),))
    pod.write_config()
    process = await PodProcess.start(pod, EVOLVING_DRAIN_ACCEPT_SECONDS="0")
    try:
        await process.until_ready()
        (hung,) = await asked(pod, upstream, ("slow", {}))
        assert hung.error == "slow did not answer within 1 s"

        assert await process.terminate() == 0
    finally:
        await process.kill()


async def test_halves_of_characters_break_nothing(make_pod: Any, upstream: Any, files: Path) -> None:
    source = "def echo(text: str) -> str:\n  return text + chr(0xD800)\n"
    mount(files, env.FILES_CONFIG_MAPS, "orders", orders__py=source)
    async with running(make_pod(tools=(orders(),))) as pod:
        upstream.model.say(
            Reply(calls=(("echo", '{"text": "\\ud83d\\ude00 \\udfff"}'),)), Reply(text="Done.")
        )
        await pod.ask("Help")

    (made,) = pod.episodes()[0].tool_calls
    assert (made.arguments, made.result) == ({"text": "😀 ?"}, "😀 ??")


async def test_entries_that_share_a_module_wait_for_its_import(
    make_pod: Any, upstream: Any, files: Path
) -> None:
    source = f"import time\ntime.sleep(0.2)\n{ORDERS}"
    mount(files, env.FILES_CONFIG_MAPS, "orders", orders__py=source)
    names = ("price", "order", "broken", "quiet")
    async with running(make_pod(tools=tuple(orders(name=n, functions=(n,)) for n in names))) as pod:
        await asked(pod, upstream)

        assert offered(upstream) == list(names)


async def test_a_dry_run_executes_no_function_that_writes(make_pod: Any, upstream: Any, files: Path) -> None:
    mount(files, env.FILES_CONFIG_MAPS, "orders", orders__py=ORDERS)
    tools = (
        orders(functions=("price",), effect="Read"),
        orders(name="writes", functions=("broken",)),
    )
    async with running(make_pod(tools=tools)) as pod:
        upstream.model.say(*calling(("price", {"article": "A"}), ("broken", {"article": "A"})))
        await pod.ask("Help", **{env.DRY_RUN_HEADER: "true"})

    results = [m["content"] for m in upstream.model.requests[-1]["messages"] if m["role"] == "tool"]
    assert results == [
        '{"article":"A","total":2.5,"currency":"EUR"}',
        "ok (dry run: not executed)",
    ]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import a_package_that_is_not_there", "ModuleNotFoundError"),
        ("def price(:", "SyntaxError"),
        ("raise SystemExit(1)", "SystemExit(1)"),
    ],
)
async def test_a_module_that_cannot_be_imported_leaves_the_agent_serving(
    make_pod: Any, upstream: Any, files: Path, source: str, problem: str
) -> None:
    mount(files, env.FILES_CONFIG_MAPS, "orders", orders__py=source)
    async with running(make_pod(tools=(orders(),))) as pod:
        assert await asked(pod, upstream) == []

        assert offered(upstream) == []
        (told,) = (await pod.get("/readyz")).json()["problems"]
        assert problem in told


async def test_a_function_that_cannot_be_described_leaves_the_others_offered(
    make_pod: Any, upstream: Any, files: Path
) -> None:
    source = (
        "import socket\ndef good() -> str:\n  return 'x'\ndef bad(it: socket.socket) -> str:\n  return 'y'\n"
    )
    mount(files, env.FILES_CONFIG_MAPS, "orders", orders__py=source)
    async with running(make_pod(tools=(orders(functions=("good", "bad", "missing")),))) as pod:
        (good,) = await asked(pod, upstream, ("good", {}))

        assert good.result == "x"
        assert offered(upstream) == ["good"]


async def test_functions_of_an_installed_module_need_no_config_map(make_pod: Any, upstream: Any) -> None:
    tool = ModuleTool(type="Module", name="text", module="textwrap", functions=("dedent",), effect="Read")
    async with running(make_pod(tools=(tool,))) as pod:
        (made,) = await asked(pod, upstream, ("dedent", {"text": "  a"}))

    assert made.result == "a"


# --- MCP ------------------------------------------------------------------------------------------


def tickets(opened: list[str]) -> MCPServer:
    server = MCPServer("tickets")

    @server.tool()
    def open_ticket(title: str) -> str:
        """Opens a ticket."""
        opened.append(title)
        return f"ticket {len(opened)}"

    @server.tool()
    async def wait(seconds: float) -> str:
        """Takes its time."""
        await asyncio.sleep(seconds)
        return "waited"

    return server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def test_tools_of_an_sse_server_are_called_with_its_headers(
    make_pod: Any, upstream: Any, files: Path
) -> None:
    opened: list[str] = []
    app = tickets(opened).sse_app()
    seen: list[str | None] = []

    async def watching(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(dict(scope["headers"]).get(b"x-tenant", b"").decode())
        await app(scope, receive, send)

    port = free_port()
    tool = MCPTool(
        type="MCP",
        name="tickets",
        url=f"http://127.0.0.1:{port}/sse",
        transport=MCPTransport.SSE,
        functions=("open_ticket", "not_there"),
        name_prefix="desk_",
        headers=(HTTPHeader(name="X-Tenant", value="north"),),
    )
    async with mcp_server(watching, port), running(make_pod(tools=(tool,))) as pod:
        (made,) = await asked(pod, upstream, ("desk_open_ticket", {"title": "lost"}))

        assert made.result == "ticket 1"
        assert offered(upstream) == ["desk_open_ticket"]
        assert set(seen) == {"north"}


async def test_a_server_that_comes_up_late_is_found(make_pod: Any, upstream: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("evolving_agent.runtime.tools.source.FIRST_PAUSE_SECONDS", 0.01)
    opened: list[str] = []
    port = free_port()
    tool = MCPTool(type="MCP", name="tickets", url=f"http://127.0.0.1:{port}/mcp")
    async with running(make_pod(tools=(tool,))) as pod:
        assert await asked(pod, upstream) == []
        assert offered(upstream) == []

        async with mcp_server(tickets(opened).streamable_http_app(), port):

            async def is_offered() -> bool:
                await asked(pod, upstream)
                return "open_ticket" in offered(upstream)

            await eventually(is_offered, "the server's tools")
            assert await pod.metric('evolving_agent_tool_usable{tool="tickets"}') == 1


async def test_a_server_that_dies_and_comes_back_costs_the_calls_in_between(
    make_pod: Any, upstream: Any
) -> None:
    opened: list[str] = []
    port = free_port()
    tool = MCPTool(type="MCP", name="tickets", url=f"http://127.0.0.1:{port}/mcp", timeout_seconds=5)
    ticket = ("open_ticket", {"title": "lost"})
    async with AsyncExitStack() as first:
        await first.enter_async_context(mcp_server(tickets(opened).streamable_http_app(), port))
        async with running(make_pod(tools=(tool,))) as pod:
            (made,) = await asked(pod, upstream, ticket)
            await first.aclose()
            (dead,) = await asked(pod, upstream, ticket)
            async with mcp_server(tickets(opened).streamable_http_app(), port):
                (back,) = await asked(pod, upstream, ticket)

    assert made.result == "ticket 1"
    assert dead.error is not None
    assert "tickets" in dead.error
    assert back.result == "ticket 2"
    assert opened == ["lost", "lost"]  # a call that failed is the model's to repeat, never the runtime's


async def test_a_server_that_is_silent_costs_one_call(make_pod: Any, upstream: Any) -> None:
    opened: list[str] = []
    port = free_port()
    tool = MCPTool(type="MCP", name="tickets", url=f"http://127.0.0.1:{port}/mcp", timeout_seconds=1)
    async with (
        mcp_server(tickets(opened).streamable_http_app(), port),
        running(make_pod(tools=(tool,))) as pod,
    ):
        slow, quick = await asked(
            pod, upstream, ("wait", {"seconds": 3600}), ("open_ticket", {"title": "lost"})
        )

    assert slow.error is not None
    assert "did not answer in time" in slow.error
    assert quick.result == "ticket 1"
