"""The API server itself: a thin transport on the `kubernetes` package's configuration."""

from __future__ import annotations

import inspect
import json
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import Configuration

from evolving_operator.api import names
from evolving_operator.cluster.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Unavailable,
)
from evolving_operator.cluster.kinds import Kind, kind_of
from evolving_operator.core.plan import Manifest, ObjectRef

Raw = dict[str, Any]
# verb, HTTP code ("error" where there was none), seconds
RequestObserver = Callable[[str, str, float], None]

_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_JSON = "application/json"
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
_LIST_CHUNK = 500
_CONNECTIONS = 32


@dataclass(frozen=True)
class Connection:
    """Where the API server is and how it knows us, whoever asks: the gateway, or the watches."""

    configuration: Configuration

    @staticmethod
    async def load() -> Connection:
        """The Pod's own ServiceAccount or, outside a cluster, the kubeconfig that $KUBECONFIG names."""
        configuration = Configuration()
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
            kubernetes_config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
        else:
            await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
        return Connection(configuration)

    @property
    def server(self) -> str:
        return str(self.configuration.host)

    @property
    def ca_path(self) -> str | None:
        return self.configuration.ssl_ca_cert or None

    @property
    def certificate_path(self) -> str | None:
        return self.configuration.cert_file or None

    @property
    def private_key_path(self) -> str | None:
        return self.configuration.key_file or None

    @property
    def is_insecure(self) -> bool:
        return not self.configuration.verify_ssl

    async def authorization(self) -> tuple[str, str] | None:
        """Scheme and credentials of now: a projected token is renewed under us, and read again in time."""
        configuration = self.configuration
        if configuration.refresh_api_key_hook is not None:
            renewed = configuration.refresh_api_key_hook(configuration)
            if inspect.isawaitable(renewed):
                await renewed
        token = configuration.api_key.get("BearerToken") or configuration.api_key.get("authorization")
        if token:
            return "Bearer", token.split()[-1]
        if configuration.username and configuration.password:
            scheme, _, value = aiohttp.encode_basic_auth(
                configuration.username, configuration.password
            ).partition(" ")
            return scheme, value
        return None

    def tls_context(self) -> ssl.SSLContext:
        """Trusts the cluster's CA, and shows the client certificate where the kubeconfig has one."""
        context = ssl.create_default_context(cafile=self.ca_path)
        if self.certificate_path:
            context.load_cert_chain(self.certificate_path, self.private_key_path)
        if self.is_insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class LiveGateway:
    """A `Gateway` to a real API server. An async context manager: it holds a connection pool."""

    def __init__(self, connection: Connection, observe: RequestObserver = lambda *_: None) -> None:
        self._connection = connection
        self._observe = observe
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        is_tls = self._connection.server.startswith("https")
        connector = aiohttp.TCPConnector(
            limit=_CONNECTIONS, ssl=self._connection.tls_context() if is_tls else False
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=_TIMEOUT,
            headers={"User-Agent": names.FIELD_MANAGER, "Accept": _JSON},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def apply(self, manifest: Manifest) -> Raw:
        return await self._patch("apply", manifest, None)

    async def apply_status(self, manifest: Manifest) -> Raw:
        return await self._patch("apply_status", manifest, "status")

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
        answer = await self._request("delete", "DELETE", kind.path(ref.namespace, ref.name), body=options)
        return answer if "resourceVersion" in answer.get("metadata", {}) else None

    async def list_all(self, kind: Kind, namespace: str | None) -> tuple[list[Raw], str]:
        items: list[Raw] = []
        query = {"limit": str(_LIST_CHUNK)}
        if kind.selector:
            query["labelSelector"] = kind.selector
        while True:
            page = await self._request("list", "GET", kind.path(namespace), query=query)
            for item in page["items"]:
                items.append({"apiVersion": kind.api_version, "kind": kind.kind, **item})
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return items, page["metadata"]["resourceVersion"]

    async def read(self, kind: Kind, namespace: str, name: str) -> Raw:
        return await self._request("read", "GET", kind.path(namespace, name))

    async def replace(self, manifest: Manifest) -> Raw:
        kind, metadata = kind_of(manifest["apiVersion"], manifest["kind"]), manifest["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"])
        return await self._request("replace", "PUT", path, body=manifest)

    async def _patch(self, verb: str, manifest: Manifest, subresource: str | None) -> Raw:
        kind, metadata = kind_of(manifest["apiVersion"], manifest["kind"]), manifest["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"], subresource)
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        return await self._request(verb, "PATCH", path, query=query, body=manifest, content_type=_APPLY)

    async def _request(
        self,
        verb: str,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Raw | None = None,
        content_type: str = _JSON,
    ) -> Raw:
        if self._session is None:
            raise RuntimeError("the gateway is used outside its `async with` block")
        headers = {"Content-Type": content_type}
        if (credentials := await self._connection.authorization()) is not None:
            headers["Authorization"] = " ".join(credentials)
        started, code = time.monotonic(), "error"
        try:
            async with self._session.request(
                method,
                self._connection.server + path,
                params=query,
                data=None if body is None else json.dumps(body),
                headers=headers,
            ) as response:
                code, payload = str(response.status), await response.read()
                if response.status >= 400:
                    raise translated(f"{method} {path}", response.status, payload, response.headers)
                answer: Raw = json.loads(payload)
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{method} {path}: {error or type(error).__name__}") from error
        finally:
            self._observe(verb, code, time.monotonic() - started)


def translated(what: str, code: int, payload: bytes, headers: Any) -> ClusterError:
    """The error that an HTTP answer means. `payload` is a metav1.Status, or whatever a proxy sent."""
    try:
        status = json.loads(payload)
        message, reason = status.get("message", ""), status.get("reason", "")
        details = status.get("details") or {}
    except (ValueError, AttributeError):
        message, reason, details = payload[:200].decode(errors="replace"), "", {}
    text = f"{what}: {message or code}"
    match code:
        case 409:
            return AlreadyExists(text) if reason == "AlreadyExists" else Conflict(text)
        case 404 | 410:
            return NotFound(text)
        case 400 | 413 | 415 | 422:
            causes = details.get("causes") or ()
            fields = tuple(cause.get("field", "") for cause in causes if cause.get("field"))
            return Invalid(message or text, fields)
        case 403:
            return Forbidden(message or text)
        case _:  # 401 too: a token that has just expired is renewed before the next request
            waits = headers.get("Retry-After", "") or str(details.get("retryAfterSeconds", ""))
            return Unavailable(text, float(waits) if waits.isdigit() else None)
