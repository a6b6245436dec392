"""The transport, against an HTTP server that answers as the API server does."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientConnectionError, web
from aiohttp.test_utils import TestServer

from evolving_operator.api import names
from evolving_operator.cluster.connection import Connection
from evolving_operator.cluster.credentials import Fixed, TokenFile
from evolving_operator.cluster.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    NotServed,
    Outdated,
    Unanswered,
    Unavailable,
    WebhookFailed,
)
from evolving_operator.cluster.kinds import OWNED, Kind
from evolving_operator.cluster.live import LiveGateway
from evolving_operator.cluster.records import ListPart
from evolving_operator.core.plan import ObjectRef

SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"}}
AGENT = {
    "apiVersion": names.API_VERSION,
    "kind": names.AGENT_KIND,
    "metadata": {"name": "a", "namespace": "default"},
}
SERVICES = next(kind for kind in OWNED if kind.kind == "Service")
JOBS = next(kind for kind in OWNED if kind.kind == "Job")


class Script:
    """What the server is asked, and what it is to answer."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[Any] = []
        self.answers: list[web.Response] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        self.bodies.append(await request.text())
        return self.answers.pop(0)

    def say(self, body: Any, status: int = 200, **headers: str) -> None:
        self.answers.append(web.json_response(body, status=status, headers=headers))


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def connection(script: Script) -> AsyncIterator[Connection]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.handle)
    async with TestServer(app) as server:
        yield Connection(str(server.make_url("")).rstrip("/"))


@pytest.fixture
async def gateway(connection: Connection) -> AsyncIterator[LiveGateway]:
    async with LiveGateway(connection) as gateway:
        yield gateway


async def test_apply_is_a_forced_server_side_apply(gateway: LiveGateway, script: Script) -> None:
    script.say({"metadata": {"resourceVersion": "7"}})

    stored = await gateway.apply(SERVICE)

    request = script.requests[0]
    assert stored["metadata"]["resourceVersion"] == "7"
    assert (request.method, request.path) == ("PATCH", "/api/v1/namespaces/default/services/s")
    assert request.headers["Content-Type"] == "application/apply-patch+yaml"
    assert request.query == {"fieldManager": names.FIELD_MANAGER, "force": "true"}


async def test_a_deletion_means_that_very_object(gateway: LiveGateway, script: Script) -> None:
    script.say({"kind": "Status", "metadata": {}})

    assert await gateway.delete(ObjectRef("batch/v1", "Job", "default", "j", "uid-1")) is None

    assert script.requests[0].path == "/apis/batch/v1/namespaces/default/jobs/j"
    assert json.loads(script.bodies[0])["preconditions"] == {"uid": "uid-1"}


async def listed(gateway: LiveGateway, kind: Kind) -> list[ListPart]:
    return [part async for part in gateway.listed(kind, None)]


async def test_a_list_is_asked_for_as_a_whole_and_read_in_parts(gateway: LiveGateway, script: Script) -> None:
    """With `limit`, the API server would read most of it from etcd."""
    names_of_all = [f"job-{number:04}" for number in range(2000)]
    metadata = [
        {"name": name, "namespace": "n", "uid": name, "resourceVersion": "5"} for name in names_of_all
    ]
    whole = {"metadata": {"resourceVersion": "9"}, "items": [{"metadata": item} for item in metadata]}
    script.answers.append(web.Response(body=msgspec.json.encode(whole), content_type="application/json"))

    parts = await listed(gateway, JOBS)

    assert [record.key[2] for part in parts for record in part.records] == names_of_all
    assert len(parts) > 2
    assert [part.version for part in parts] == [*[""] * (len(parts) - 1), "9"]
    assert script.requests[0].path == "/apis/batch/v1/jobs"
    assert dict(script.requests[0].query) == {"labelSelector": names.LABEL_AGENT}


async def test_only_metadata_is_asked_for_where_no_more_is_read(gateway: LiveGateway, script: Script) -> None:
    for kind in OWNED:
        script.say({"items": None if kind.bare else [], "metadata": {"resourceVersion": "1"}})
        assert await listed(gateway, kind) == [ListPart([], "1")]

    asked = {
        kind.kind
        for kind, request in zip(OWNED, script.requests, strict=True)
        if "as=Partial" in request.headers["Accept"]
    }
    assert asked == {
        "Service",
        "ServiceAccount",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "CronJob",
    }


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", AlreadyExists),
        (404, "NotFound", NotServed),
        (403, "Forbidden", Forbidden),
        (422, "Invalid", Invalid),
        (400, "BadRequest", Invalid),
        (429, "TooManyRequests", Unavailable),
        (500, "InternalError", Unanswered),
        (502, "", Unanswered),
        (503, "ServiceUnavailable", Unavailable),
        (504, "Timeout", Unanswered),
        (401, "Unauthorized", Unavailable),
    ],
)
async def test_answers_become_errors(
    gateway: LiveGateway, script: Script, code: int, reason: str, expected: type[Exception]
) -> None:
    script.say({"kind": "Status", "reason": reason, "message": "no"}, status=code)

    with pytest.raises(expected) as caught:
        await gateway.apply(SERVICE)

    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"reason": "NotFound", "details": {"name": "s", "kind": "services"}}, NotFound),
        ({"reason": "NotFound", "details": {"name": "default", "kind": "namespaces"}}, NotServed),
        (
            {"reason": "NotFound", "details": {}, "message": "could not find the requested resource"},
            NotServed,
        ),
        ({"details": {"name": "s"}}, NotServed),
        ("404 page not found", NotServed),
    ],
)
async def test_an_object_is_gone_only_by_an_answer_about_it(
    gateway: LiveGateway, script: Script, body: Any, expected: type[Exception]
) -> None:
    """So is answered, too, where a CRD is not served for a moment, or by a gateway that has lost its way."""
    asks: list[Callable[[], Awaitable[Any]]] = [
        lambda: gateway.read(SERVICES, "default", "s"),
        lambda: gateway.replace(SERVICE),
        lambda: gateway.overwrite(SERVICE),
        lambda: gateway.delete(ObjectRef("v1", "Service", "default", "s")),
    ]
    for ask in asks:
        script.say(body, status=404)
        with pytest.raises(expected) as caught:
            await ask()
        assert type(caught.value) is expected


async def test_an_invalid_object_names_its_fields(gateway: LiveGateway, script: Script) -> None:
    details = {"causes": [{"field": "spec.resources"}, {"reason": "x"}]}
    script.say({"reason": "Invalid", "message": "immutable", "details": details}, status=422)

    with pytest.raises(Invalid) as caught:
        await gateway.apply(SERVICE)

    assert caught.value.fields == ("spec.resources",)


async def test_the_server_says_how_long_to_wait(gateway: LiveGateway, script: Script) -> None:
    script.say({"reason": "TooManyRequests"}, status=429, **{"Retry-After": "7"})

    with pytest.raises(Unavailable) as caught:
        await gateway.apply(SERVICE)

    assert caught.value.retry_after == 7


async def test_an_answer_that_is_no_status_is_still_an_error(gateway: LiveGateway, script: Script) -> None:
    script.answers.append(web.Response(text="<html>bad gateway</html>", status=502))

    with pytest.raises(Unanswered, match="bad gateway"):
        await gateway.apply(SERVICE)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>welcome</html>",
        b'{"metadata": {"resour',
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"ok"',
        b"",
    ],
)
async def test_what_no_api_server_would_say_is_a_reason_to_wait(
    gateway: LiveGateway, script: Script, body: bytes
) -> None:
    """A proxy on the way may answer with 200, whatever has become of the request."""
    for ask in (gateway.apply(SERVICE), gateway.serves(JOBS), listed(gateway, JOBS)):
        script.answers.append(web.Response(body=body, content_type="application/json"))
        with pytest.raises(Unavailable):
            await ask
    script.answers.append(web.Response(body=body, content_type="application/json"))
    with pytest.raises(Unanswered):
        await gateway.create(SERVICE)


@pytest.mark.parametrize(
    "status",
    [
        {"message": None, "reason": None, "details": None},
        {"code": 14, "message": "upstream", "details": [{"type": "x"}]},
        {"message": {"text": "no"}, "details": "of no use"},
        {"message": "no", "details": {"causes": [None], "retryAfterSeconds": "soon"}},
        ["no"],
    ],
)
@pytest.mark.parametrize(("code", "expected"), [(422, Invalid), (409, Conflict), (500, Unavailable)])
async def test_an_error_in_a_form_that_nobody_knows_is_still_that_error(
    gateway: LiveGateway, script: Script, status: Any, code: int, expected: type[Exception]
) -> None:
    script.say(status, status=code)

    with pytest.raises(expected):
        await gateway.apply(SERVICE)


@pytest.mark.parametrize("wish", ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", "1e9", "\xb2", ""])
async def test_a_wish_that_is_no_number_of_seconds_is_none(
    gateway: LiveGateway, script: Script, wish: str
) -> None:
    script.say({"reason": "TooManyRequests"}, status=429, **{"Retry-After": wish})

    with pytest.raises(Unavailable):
        await gateway.apply(SERVICE)


async def test_crds_older_than_the_operator_are_told_of(gateway: LiveGateway, script: Script) -> None:
    said = "failed to create typed patch object: .status.rollout.percent: field not declared in schema"
    script.say({"message": said}, status=500)

    with pytest.raises(Unavailable, match=r"rollout\.percent.*the CRDs are older than this operator"):
        await gateway.apply_status(AGENT)


@pytest.mark.parametrize(
    "said",
    [
        "failed to create typed patch object (default/a): .spec.replicas: expected numeric, got string",
        "failed to convert new object (default/a; apps/v1, Kind=Deployment) to proper version: unable to "
        "convert unstructured object to apps/v1, Kind=Deployment: quantities must match the expression",
    ],
)
async def test_what_does_not_fit_a_kinds_schema_is_invalid_though_the_status_is_500(
    gateway: LiveGateway, script: Script, said: str
) -> None:
    script.say({"message": said}, status=500)

    with pytest.raises(Invalid) as caught:
        await gateway.apply(SERVICE)

    assert said in str(caught.value)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 422, 429, 500, 503])
@pytest.mark.parametrize(
    "said",
    [
        'admission webhook "policy.example.com" denied the request: no',
        "services \"s\" is forbidden: ValidatingAdmissionPolicy 'policy.example.com' with binding 'b' denied "
        "request: no",
    ],
    ids=["webhook", "policy"],
)
async def test_who_denies_does_so_with_whatever_status_he_likes(
    gateway: LiveGateway, script: Script, said: str, code: int
) -> None:
    script.say({"reason": "AlreadyExists", "message": said}, status=code)

    with pytest.raises(Forbidden, match=r"policy\.example\.com"):
        await gateway.apply(SERVICE)


async def test_a_webhook_that_does_not_answer_stands_in_the_way_of_its_objects_only(
    gateway: LiveGateway, script: Script
) -> None:
    said = 'Internal error occurred: failed calling webhook "w.example.com": failed to call webhook: refused'
    script.say({"reason": "InternalError", "message": said}, status=500)

    with pytest.raises(WebhookFailed, match=r"w\.example\.com.*Mend the webhook"):
        await gateway.apply(SERVICE)


async def test_nobody_is_followed_elsewhere_and_no_other_is_shown_the_token(
    connection: Connection, script: Script
) -> None:
    elsewhere = Script()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", elsewhere.handle)
    connection = replace(connection, credentials=Fixed.bearer("secret"))
    async with TestServer(app) as server:
        there = str(server.make_url("/login"))
        for _ in range(2):
            script.say({}, status=307, Location=there)
        async with LiveGateway(connection) as gateway, connection.session(lambda *_: None) as kopfs:
            with pytest.raises(Unavailable, match="307"):
                await gateway.read(SERVICES, "default", "s")
            with pytest.raises(ClientConnectionError):
                await kopfs.get(f"{connection.server}/api")
            assert elsewhere.requests == []

            elsewhere.say({})
            await kopfs.get(there)

    assert [request.headers["Authorization"] for request in script.requests] == ["Bearer secret"] * 2
    assert "Authorization" not in elsewhere.requests[0].headers


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, the system's own times hold")
async def test_a_connection_that_has_died_silently_is_found_out(
    connection: Connection, script: Script
) -> None:
    script.answers.append(web.Response(body=b" " * 10_000_000))  # the connection is still its own
    async with connection.session() as session, session.get(connection.server) as answer:
        assert answer.connection is not None
        assert answer.connection.transport is not None
        found = answer.connection.transport.get_extra_info("socket")
        assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert 0 < found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 30_000


async def test_a_request_that_was_cut_off_may_yet_take_effect() -> None:
    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hang_up)
    async with TestServer(app) as server:
        address = str(server.make_url("")).rstrip("/")
        async with LiveGateway(Connection(address)) as gateway:
            with pytest.raises(Unanswered):
                await gateway.create(SERVICE)
    async with LiveGateway(Connection(address)) as gateway:
        with pytest.raises(Unavailable) as caught:
            await gateway.create(SERVICE)
    assert type(caught.value) is Unavailable


async def test_a_kind_is_served_once_discovery_tells_of_it(gateway: LiveGateway, script: Script) -> None:
    script.say({"groups": [{"name": "apps"}]})
    assert not await gateway.serves(JOBS)

    script.say({"groups": [{"name": "apps"}, {"name": "batch"}]})
    script.say({"reason": "NotFound"}, status=404)
    assert not await gateway.serves(JOBS)

    script.say({"groups": [{"name": "batch"}]})
    script.say({"resources": [{"name": "cronjobs"}, {"name": "jobs"}]})
    assert await gateway.serves(JOBS)

    assert script.requests[-1].path == "/apis/batch/v1"


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with LiveGateway(Connection("http://127.0.0.1:9")) as gateway:
        with pytest.raises(Unavailable, match="PATCH"):
            await gateway.apply(SERVICE)


async def test_a_renewed_token_is_used(connection: Connection, script: Script, tmp_path: Path) -> None:
    now, token = [0.0], tmp_path / "token"
    credentials = TokenFile(token, clock=lambda: now[0])
    async with LiveGateway(replace(connection, credentials=credentials)) as gateway:
        for number, seconds in (("one", 0), ("two", 10), ("three", 61)):
            token.write_text(f"{number}\n")
            now[0] += seconds
            script.say({"metadata": {}})
            await gateway.apply(SERVICE)

    tokens = [request.headers["Authorization"] for request in script.requests]
    assert tokens == ["Bearer one", "Bearer one", "Bearer three"]


async def test_a_token_that_was_refused_is_not_used_again(
    connection: Connection, script: Script, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    async with LiveGateway(replace(connection, credentials=TokenFile(token))) as gateway:
        token.write_text("old")
        script.say({"reason": "Unauthorized"}, status=401)
        with pytest.raises(Unavailable):
            await gateway.apply(SERVICE)
        token.write_text("new")
        script.say({"metadata": {}})
        await gateway.apply(SERVICE)

    assert script.requests[-1].headers["Authorization"] == "Bearer new"


async def test_a_token_that_cannot_be_read_is_a_reason_to_wait(
    connection: Connection, tmp_path: Path
) -> None:
    async with LiveGateway(replace(connection, credentials=TokenFile(tmp_path / "none"))) as gateway:
        with pytest.raises(Unavailable, match="token file"):
            await gateway.apply(SERVICE)


@asynccontextmanager
async def watched(*pieces: bytes) -> AsyncIterator[tuple[LiveGateway, list[web.Request]]]:
    """A gateway to a server that answers a watch with these pieces, and then is silent."""
    requests: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        requests.append(request)
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.01)  # so that it travels by itself
        await asyncio.Event().wait()
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with (
        TestServer(app, handler_cancellation=True, shutdown_timeout=0.1) as server,
        LiveGateway(Connection(str(server.make_url("")).rstrip("/"))) as gateway,
    ):
        yield gateway, requests


async def test_a_watch_brings_lines_however_they_travel_and_silence_ends_it() -> None:
    async with watched(b'{"a": 1}\n{"b"', b": 2}", b"\n", b'{"cut": ') as (gateway, requests):
        lines = gateway.lines(JOBS, "here", "7", seconds=300, silent=0.3)

        assert [await anext(lines), await anext(lines)] == [b'{"a": 1}', b'{"b": 2}']
        with pytest.raises(Unavailable, match="watch /apis/batch/v1/namespaces/here/jobs"):
            await anext(lines)

    assert requests[0].query == {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": "7",
        "timeoutSeconds": "300",
        "labelSelector": names.LABEL_AGENT,
    }


async def test_a_watch_that_is_refused_is_an_error(gateway: LiveGateway, script: Script) -> None:
    script.say({"reason": "Expired", "message": "too old resource version"}, status=410)

    with pytest.raises(Outdated, match="too old"):
        await anext(gateway.lines(JOBS, None, "1", seconds=300, silent=5))


async def test_what_others_wrote_into_a_status_is_taken_out_and_their_conditions_stay(
    gateway: LiveGateway, script: Script
) -> None:
    ready, foreign = {"type": "Ready", "status": "True"}, {"type": "Foo", "status": "True"}
    manifest = AGENT | {"status": {"lastRun": "a", "conditions": [ready]}}
    stored = {
        "metadata": {"name": "a", "namespace": "default", "resourceVersion": "7"},
        "status": {"lastRun": "a", "candidate": {}, "conditions": [{"type": "Stalled"}, foreign, ready]},
    }
    for answer in (stored, {"metadata": {"resourceVersion": "8"}}):
        script.say(answer)

    assert (await gateway.apply_status(manifest))["metadata"]["resourceVersion"] == "8"
    assert script.requests[1].headers["Content-Type"] == "application/json-patch+json"
    version, status = json.loads(script.bodies[1])
    assert (version["path"], version["value"]) == ("/metadata/resourceVersion", "7")
    assert (status["path"], status["value"]) == ("/status", {"lastRun": "a", "conditions": [foreign, ready]})
