"""The API server as tests see it: their own client, so that no proof leans on the code that it proves."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

Raw = dict[str, Any]

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
GONE = 0  # the code of an ApiError where there was no answer
_MANAGER = "evolving-tests"
_GOODBYE_SECONDS = 0.25
_EVENT_BYTES = 4 << 20  # of one watch event
_PATHS = {
    "evolvingagents": "/apis/evolvingagents.io/v1alpha1",
    "agentrevisions": "/apis/evolvingagents.io/v1alpha1",
    "deployments": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
    "poddisruptionbudgets": "/apis/policy/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "cronjobs": "/apis/batch/v1",
    "jobs": "/apis/batch/v1",
    "leases": "/apis/coordination.k8s.io/v1",
    "events": "/apis/events.k8s.io/v1",
    "storageclasses": "/apis/storage.k8s.io/v1",
}


class ApiError(Exception):
    """The API server said no. `fields` are the paths that it named."""

    def __init__(self, code: int, message: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.fields = fields


@dataclass(frozen=True)
class Target:
    """Where an API server is, and how it knows its administrator."""

    server: str
    tls: ssl.SSLContext

    @staticmethod
    def of(kubeconfig: Path) -> Target:
        """The current context of a kubeconfig that has its certificates in it."""
        config = yaml.safe_load(kubeconfig.read_text())
        (context,) = (item for item in config["contexts"] if item["name"] == config["current-context"])
        cluster = next(
            item["cluster"] for item in config["clusters"] if item["name"] == context["context"]["cluster"]
        )
        user = next(item["user"] for item in config["users"] if item["name"] == context["context"]["user"])
        tls = ssl.create_default_context(cadata=_decoded(cluster["certificate-authority-data"]))
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
            pair.write(_decoded(user["client-certificate-data"]) + _decoded(user["client-key-data"]))
            pair.flush()
            tls.load_cert_chain(pair.name)
        return Target(cluster["server"], tls)


@dataclass
class ApiClient:
    """An async context manager. Every method raises ApiError."""

    target: Target
    _session: aiohttp.ClientSession = field(init=False)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=64, ssl=self.target.tls),
            timeout=aiohttp.ClientTimeout(total=30),
            read_bufsize=_EVENT_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await close(self._session)

    async def get(self, namespace: str, plural: str, name: str) -> Raw | None:
        """None where there is no such object."""
        try:
            return await self.request("GET", path(namespace, plural, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def list(self, namespace: str | None, plural: str, selector: str = "") -> list[Raw]:
        query = {"labelSelector": selector} if selector else {}
        answer = await self.request("GET", path(namespace, plural), query=query)
        kind = {"apiVersion": answer["apiVersion"], "kind": answer["kind"].removesuffix("List")}
        return [{**kind, **item} for item in answer["items"]]

    async def create(self, namespace: str, plural: str, manifest: Raw) -> Raw:
        return await self.request("POST", path(namespace, plural), manifest)

    async def apply(self, namespace: str, plural: str, manifest: Raw, manager: str = _MANAGER) -> Raw:
        """Server-side apply of the whole object."""
        query = {"fieldManager": manager, "force": "true"}
        target = path(namespace, plural, manifest["metadata"]["name"])
        return await self.request("PATCH", target, manifest, query=query, content_type=APPLY)

    async def merge(self, namespace: str, plural: str, name: str, patch: Raw) -> Raw:
        """A merge patch; `name` may end in a subresource: `support/scale`."""
        return await self.request("PATCH", path(namespace, plural, name), patch, content_type=MERGE)

    async def delete(self, namespace: str, plural: str, name: str) -> None:
        """Gone already is as good."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        try:
            await self.request("DELETE", path(namespace, plural, name), options)
        except ApiError as error:
            if error.code != 404:
                raise

    async def is_ready(self) -> bool:
        """Whether the API server says that it is."""
        url = f"{self.target.server}/readyz"
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=2)) as answer:
                return answer.status == 200
        return False

    async def watch(self, plural: str, selector: str) -> AsyncIterator[tuple[str, Raw]]:
        """Events of all namespaces, what is there already first; ends when the server ends it."""
        query = {"watch": "1", "labelSelector": selector, "resourceVersion": "0"}
        forever = aiohttp.ClientTimeout(total=None)
        url = self.target.server + path(None, plural)
        async with self._session.get(url, params=query, timeout=forever) as answer:
            async for line in answer.content:
                event = json.loads(line)
                yield event["type"], event["object"]

    async def request(
        self,
        method: str,
        target: str,
        body: Raw | None = None,
        *,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Raw:
        try:
            async with self._session.request(
                method,
                self.target.server + target,
                params=query,
                data=None if body is None else json.dumps(body),
                headers={"Content-Type": content_type},
            ) as answer:
                code, text = answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(GONE, f"{type(error).__name__}: {error}") from error
        if code < 400:
            payload: Raw = json.loads(text)
            return payload
        status: Raw = json.loads(text) if text.startswith(b"{") else {"message": text.decode()}
        causes = (status.get("details") or {}).get("causes") or ()
        fields = tuple(cause["field"] for cause in causes if cause.get("field"))
        raise ApiError(code, status.get("message", ""), fields)


async def close(session: aiohttp.ClientSession) -> None:
    """As aiohttp advises: TLS connections end in the event loop, a moment after the session."""
    await session.close()
    await asyncio.sleep(_GOODBYE_SECONDS)


def path(namespace: str | None, plural: str, name: str = "") -> str:
    """The URL's path; of all namespaces without one."""
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{_PATHS.get(plural, '/api/v1')}{scope}/{plural}" + (f"/{name}" if name else "")


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()
