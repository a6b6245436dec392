"""The API server itself: a thin transport over HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from evolving_operator.api import names
from evolving_operator.cluster.connection import CONNECT_SECONDS, Connection
from evolving_operator.cluster.credentials import CredentialsError
from evolving_operator.cluster.errors import (
    AlreadyExists,
    ClusterError,
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
from evolving_operator.cluster.kinds import Kind, kind_of
from evolving_operator.cluster.listing import ListReader
from evolving_operator.cluster.records import GarbledError, ListPart
from evolving_operator.core.plan import Manifest, ObjectRef

Raw = dict[str, Any]
# verb, HTTP code ("error" where there was none), seconds
RequestObserver = Callable[[str, str, float], None]

_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_MERGE = "application/merge-patch+json"
_JSON = "application/json"
_JSON_PATCH = "application/json-patch+json"
_METADATA = f"{_JSON};g=meta.k8s.io;v=v1;as=PartialObjectMetadata"
_SECONDS = 30.0  # for one request
_GONE, _INTERNAL_ERROR, _NOT_YET = 410, 500, 503
_UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, CredentialsError)
_ONE_REQUEST = aiohttp.ClientTimeout(_SECONDS, sock_connect=CONNECT_SECONDS)
# A list of many thousands takes its time, of which the API server gives it a minute; it is never silent.
_ONE_LIST = aiohttp.ClientTimeout(120, sock_connect=CONNECT_SECONDS, sock_read=_SECONDS)
# How server-side apply says, with status 500, that an object does not fit its kind's schema: a wrong type;
# where the object is there already, a text that is no quantity.
_MISFITS = ("failed to create typed patch object", "failed to convert new object")
# What the API server says of admission webhooks and policies. One that denies may choose its status: a
# webhook any, 409 and 500 included; a policy 401, as if the operator's token were at its end.
_ADMISSION_DENIES = re.compile(
    r'admission webhook "[^"]*" denied the request'
    r"|ValidatingAdmissionPolicy '[^']*' with binding '[^']*' denied request"
)
_WEBHOOK_FAILS = "failed calling webhook"


class _Cause(msgspec.Struct):
    field: str = ""


class _Details(msgspec.Struct):
    name: str = ""
    causes: list[_Cause] | None = None
    retryAfterSeconds: int = 0  # noqa: N815 - as the API names it


class _Failure(msgspec.Struct):
    """A metav1.Status, as far as it is read."""

    message: str = ""
    reason: str = ""
    details: _Details | None = None


_ANSWER = msgspec.json.Decoder(Raw)
_FAILURE = msgspec.json.Decoder(_Failure)


class LiveGateway:
    """A `Gateway` to a real API server. An async context manager: it holds a connection pool."""

    def __init__(self, connection: Connection, observe: RequestObserver = lambda *_: None) -> None:
        self._connection = connection
        self._observe = observe
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = self._connection.session()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def apply(self, manifest: Manifest) -> Raw:
        return await self._patch("apply", manifest, None)

    async def apply_new(self, manifest: Manifest) -> Raw:
        # The API server looks at a version only where there is an object to compare it with, and none has
        # this one any more.
        metadata = manifest["metadata"] | {"resourceVersion": "1"}
        return await self._patch("apply", manifest | {"metadata": metadata}, None)

    async def find(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        query = {"fieldSelector": f"metadata.name={name}"}
        items = (await self._request("list", "GET", kind.path(namespace), query=query))["items"]
        return {"apiVersion": kind.api_version, "kind": kind.kind, **items[0]} if items else None

    async def overwrite(self, manifest: Manifest) -> Raw:
        kind, metadata = kind_of(manifest["apiVersion"], manifest["kind"]), manifest["metadata"]
        path, query = (
            kind.path(metadata["namespace"], metadata["name"]),
            {"fieldManager": names.FIELD_MANAGER},
        )
        return await self._request(
            "overwrite", "PATCH", path, query=query, body=manifest, content_type=_MERGE, name=metadata["name"]
        )

    async def apply_status(self, manifest: Manifest) -> Raw:
        stored = await self._patch("apply_status", manifest, "status")
        wanted = _with_conditions_of_others(manifest, stored)
        if stored.get("status") == wanted:
            return stored
        # What others wrote into it, and is to be absent, an apply leaves there: a person's patch, a backup.
        kind, metadata = kind_of(manifest["apiVersion"], manifest["kind"]), stored["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"], "status")
        version = {"op": "add", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]}
        return await self._request(
            "overwrite_status",
            "PATCH",
            path,
            query={"fieldManager": names.FIELD_MANAGER},
            body=[version, {"op": "add", "path": "/status", "value": wanted}],
            content_type=_JSON_PATCH,
            name=metadata["name"],
        )

    async def create(self, manifest: Manifest) -> Raw:
        kind, metadata = kind_of(manifest["apiVersion"], manifest["kind"]), manifest["metadata"]
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._request(
            "create", "POST", kind.path(metadata["namespace"]), query=query, body=manifest
        )

    async def delete(self, ref: ObjectRef) -> Raw | None:
        kind = kind_of(ref.api_version, ref.kind)
        options: Raw = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if ref.uid is not None:
            options["preconditions"] = {"uid": ref.uid}
        path = kind.path(ref.namespace, ref.name)
        answer = await self._request("delete", "DELETE", path, body=options, name=ref.name)
        return answer if "resourceVersion" in answer.get("metadata", {}) else None

    async def listed(self, kind: Kind, namespace: str | None) -> AsyncIterator[ListPart]:
        """The list, parsed for the cache while it arrives. Raises ClusterError.

        Asked for as a whole, which the API server sends from its memory. Pages, from the second one on, it
        reads from etcd where nothing has changed for some minutes: that takes it three times as long.
        """
        path, reader = kind.path(namespace), ListReader(kind)
        accept = f"{_METADATA}List" if kind.bare else _JSON
        async with self._answer(
            f"GET {path}",
            "GET",
            path,
            query=_selection(kind),
            accept=accept,
            limits=_ONE_LIST,
            verb="list",
        ) as response:
            async for chunk in response.content.iter_any():
                if records := reader.feed(chunk):
                    yield ListPart(records)
        try:
            yield reader.end()
        except GarbledError as error:
            raise Unavailable(f"list {path}: {error}") from error

    async def lines(
        self, kind: Kind, namespace: str | None, version: str, *, seconds: int, silent: float
    ) -> AsyncIterator[bytes]:
        """Watch from the version on, for `seconds`. Unavailable where nothing comes for `silent` of them."""
        path = kind.path(namespace)
        query = _selection(kind) | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        limits = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=silent)
        accept, rest = _METADATA if kind.bare else _JSON, b""
        asked = self._answer(f"watch {path}", "GET", path, query=query, accept=accept, limits=limits)
        async with asked as response:
            async for chunk in response.content.iter_any():
                *complete, rest = (rest + chunk).split(b"\n")
                for line in complete:
                    yield line

    async def serves(self, kind: Kind) -> bool:
        """Whether discovery tells of the kind. An API server that starts learns of its groups one by one."""
        groups = (await self._request("discover", "GET", "/apis")).get("groups") or ()
        if kind.group not in {group["name"] for group in groups}:
            return False
        try:
            found = await self._request("discover", "GET", f"/apis/{kind.api_version}")
        except NotServed:
            return False
        return kind.plural in {resource["name"] for resource in found.get("resources") or ()}

    async def read(self, kind: Kind, namespace: str, name: str) -> Raw:
        return await self._request("read", "GET", kind.path(namespace, name), name=name)

    async def replace(self, manifest: Manifest) -> Raw:
        kind, metadata = kind_of(manifest["apiVersion"], manifest["kind"]), manifest["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"])
        return await self._request("replace", "PUT", path, body=manifest, name=metadata["name"])

    async def _patch(self, verb: str, manifest: Manifest, subresource: str | None) -> Raw:
        kind, metadata = kind_of(manifest["apiVersion"], manifest["kind"]), manifest["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"], subresource)
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        # An apply of an object makes it where there is none: only its status can be missed.
        name = metadata["name"] if subresource is not None else None
        return await self._request(
            verb, "PATCH", path, query=query, body=manifest, content_type=_APPLY, name=name
        )

    @property
    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the gateway is used outside its `async with` block")
        return self._session

    async def _request(
        self,
        verb: str,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Raw | list[Raw] | None = None,
        content_type: str = _JSON,
        name: str | None = None,
    ) -> Raw:
        """`name`: of the object that has to be there."""
        what = f"{method} {path}"
        asked = self._answer(
            what, method, path, query=query, body=body, content_type=content_type, verb=verb, name=name
        )
        async with asked as response:
            text = await response.read()
        try:
            return _ANSWER.decode(text)
        except ValueError as error:  # of msgspec, or of a text that is no UTF-8
            raise Unanswered(f"{what}: that is no answer of an API server: {error}") from error

    @asynccontextmanager
    async def _answer(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Raw | list[Raw] | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        limits: aiohttp.ClientTimeout = _ONE_REQUEST,
        verb: str | None = None,
        name: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer without an error, to be read inside. Raises ClusterError, of the reading too.

        Observed where it has a verb: how long a watch lasts tells nothing.
        """
        headers = {"Content-Type": content_type, "Accept": accept}
        started, code = time.monotonic(), "error"
        try:
            async with self._opened.request(
                method,
                self._connection.server + path,
                params=query,
                data=None if body is None else msgspec.json.encode(body),
                headers=headers,
                timeout=limits,
                allow_redirects=False,  # an API server sends nobody elsewhere
            ) as response:
                code = str(response.status)
                if response.status >= 300:
                    payload = await response.read()
                    raise translated(what, response.status, payload, response.headers, name)
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError, CredentialsError) as error:
            code = "error"
            is_unsent = isinstance(error, _UNSENT)
            raise (Unavailable if is_unsent else Unanswered)(
                f"{what}: {error or type(error).__name__}"
            ) from error
        finally:
            if verb is not None:
                self._observe(verb, code, time.monotonic() - started)


def _with_conditions_of_others(manifest: Manifest, stored: Raw) -> Raw:
    """The status as it is to be, in the order in which the API server has the conditions."""
    own: frozenset[str] = names.CONDITIONS[manifest["kind"]]
    status: Raw = manifest["status"]
    ours = {item["type"]: item for item in status.get("conditions", ())}
    there = (stored.get("status") or {}).get("conditions", ())
    kept = [ours.get(item["type"], item) for item in there if item["type"] in ours or item["type"] not in own]
    return {**status, "conditions": kept} if kept else status


def _selection(kind: Kind) -> dict[str, str]:
    return {"labelSelector": kind.selector} if kind.selector else {}


def translated(what: str, code: int, payload: bytes, headers: Any, name: str | None = None) -> ClusterError:
    """The error that an HTTP answer means. `payload` is a metav1.Status, or whatever a proxy sent; `name` is
    that of the object that was asked for.

    A kind that is not served for a moment is answered with 404 too, as is a path that a proxy does not know:
    an object is gone only where the answer is about it.
    """
    try:
        status = _FAILURE.decode(payload)
    except ValueError:
        status = _Failure(payload[:200].decode(errors="replace"))
    message, reason, details = status.message, status.reason, status.details or _Details()
    text = f"{what}: {message or code}"
    match 403 if _ADMISSION_DENIES.search(message) else code:
        case 409:
            return AlreadyExists(text) if reason == "AlreadyExists" else Conflict(text)
        case 404 | 410:
            return _not_there(text, code, (reason, details.name) == ("NotFound", name))
        case 400 | 413 | 415 | 422:
            fields = tuple(cause.field for cause in details.causes or () if cause.field)
            return Invalid(message or text, fields)
        case 403:
            return Forbidden(message or text)
        case 500 if (refusal := _refusal_in_disguise(what, message)) is not None:
            return refusal
        case _:  # 401 too: a token that has just expired is renewed before the next request
            waits = headers.get("Retry-After", "") or str(details.retryAfterSeconds)
            # 503 is said before anything is done; an error later on, or a gateway's, leaves open what was.
            is_open = code >= _INTERNAL_ERROR and code != _NOT_YET
            return (Unanswered if is_open else Unavailable)(text, float(waits) if waits.isdecimal() else None)


def _not_there(text: str, code: int, is_the_object: bool) -> ClusterError:
    if code == _GONE:
        return Outdated(text)
    return NotFound(text) if is_the_object else NotServed(text)


def _refusal_in_disguise(what: str, message: str) -> ClusterError | None:
    """What status 500 stands for although it is about this very object, and not about the server."""
    if _WEBHOOK_FAILS in message:
        return WebhookFailed(f"{message}. Mend the webhook, or take its configuration away")
    if not any(misfit in message for misfit in _MISFITS):
        return None
    if names.GROUP not in what:
        return Invalid(message)  # there is a pod template of the user's in it
    text = f"{what}: {message}; the CRDs are older than this operator: apply those of its version"
    return Unavailable(text)
