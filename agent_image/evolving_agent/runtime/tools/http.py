"""Calls of HTTP servers: one described call as a tool, and what every HTTP tool keeps to.

The model chooses arguments, never the server: each request stays within the origin that the spec names,
redirects included. Results are text, and bounded while they are read.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx

from evolving_agent.contract.tools import HTTPHeader, HTTPMethod, HTTPTool, ToolEffect
from evolving_agent.runtime.tools.files import MissingFileError, MountedFiles
from evolving_agent.runtime.tools.invocation import RunScope, ToolDefinition, ToolError
from evolving_agent.runtime.tracing import current_span

MAX_ERROR_BODY_CHARS = 500
MAX_REDIRECTS = 5
IDEMPOTENCY_KEY = "Idempotency-Key"
_IN_THE_QUERY = (HTTPMethod.GET, HTTPMethod.DELETE)
_TEXTS = (
    "text/",
    "application/json",
    "application/xml",
    "application/x-ndjson",
    "application/yaml",
    "application/x-yaml",
    "application/vnd.oai.openapi",
)


class HTTPConnections:
    """One pool for all HTTP tools, made at the first call: loading certificates takes a while."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None
        self._making = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def client(self) -> httpx.AsyncClient:
        async with self._making:
            if self._client is None:
                certificates = await asyncio.to_thread(ssl.create_default_context)
                self._client = httpx.AsyncClient(
                    timeout=None,  # noqa: S113 (each call is bounded by its tool's own timeout)
                    follow_redirects=False,
                    verify=certificates,
                )
            return self._client


@dataclass(frozen=True)
class HTTPRequest:
    """What is sent: `json`, `form` or `text` is the body."""

    method: str
    url: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] | None = None
    json: Any = None
    form: Mapping[str, Any] | None = None
    text: str | None = None


@dataclass(frozen=True)
class HTTPServer:
    """The one origin that a tool may call, with the headers that the spec gives it."""

    tool: str
    base_url: str
    headers: tuple[HTTPHeader, ...]
    max_bytes: int
    connections: HTTPConnections
    files: MountedFiles

    async def fetch(self, sent: HTTPRequest) -> str:
        """The body of the answer. Raises ToolError."""
        client = await self.connections.client()
        try:
            headers = httpx.Headers({**current_span().headers(), **(sent.headers or {})})
            if self.headers:  # they win over a document's, however those are spelled
                headers.update(await asyncio.to_thread(self.files.headers, self.headers))
            request = client.build_request(
                sent.method,
                httpx.URL(sent.url).copy_merge_params(list(sent.query)) if sent.query else sent.url,
                headers=headers,
                json=sent.json,
                data=sent.form,
                content=sent.text,
            )
            for _ in range(MAX_REDIRECTS + 1):
                self._stay_within_origin(request.url)
                response = await client.send(request, stream=True)
                try:
                    if (following := response.next_request) is None:
                        return await self._text_of(response)
                    request = following
                finally:
                    await response.aclose()
        except MissingFileError as error:
            raise ToolError(f"{self.tool}: {error}") from error
        except httpx.HTTPError as error:
            # not the error's own words: they may quote a header
            why = str(error) if isinstance(error, httpx.ConnectError) else type(error).__name__
            raise ToolError(f"{self.tool}: {sent.method} {_shown(sent.url)} failed: {why}") from error
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            problem = type(error).__name__
            raise ToolError(f"{self.tool}: no request can be made of these arguments ({problem})") from error
        raise ToolError(f"{self.tool}: more than {MAX_REDIRECTS} redirects")

    def _stay_within_origin(self, url: httpx.URL) -> None:
        if not same_origin(url, self.base_url):
            raise ToolError(
                f"{self.tool}: the call leads to {url.host}, outside of {self.base_url}, and was not made"
            )

    async def _text_of(self, response: httpx.Response) -> str:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind and not (kind.startswith(_TEXTS) or kind.endswith(("+json", "+xml"))):
            raise ToolError(f"{self.tool} answered {response.status_code} with {kind}, which is no text")
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self.max_bytes:  # one byte more shows that there is more
                break
        text = _decoded(bytes(body), response.charset_encoding)
        if not response.is_success:
            raise ToolError(f"{self.tool} answered {response.status_code}: {text[:MAX_ERROR_BODY_CHARS]}")
        return text or f"done ({response.status_code})"


def http_tool(tool: HTTPTool, connections: HTTPConnections, files: MountedFiles) -> ToolDefinition:
    """One described call: arguments travel as the query (GET, DELETE), or as the JSON body.

    A call that writes carries the header Idempotency-Key.
    """
    if tool.url is None or tool.description is None or tool.parameters is None:
        raise ValueError(f"{tool.name} describes no call")  # the API server refuses such a spec
    url, method = tool.url, tool.method or HTTPMethod.POST
    effect = effect_of(method, tool.effect)
    server = HTTPServer(tool.name, url, tool.headers, tool.max_result_bytes, connections, files)

    async def call(arguments: dict[str, Any], scope: RunScope) -> str:
        in_the_query = method in _IN_THE_QUERY
        return await server.fetch(
            HTTPRequest(
                method,
                url,
                query=tuple(in_query(arguments)) if in_the_query else (),
                headers=write_headers(effect, scope, tool.name, arguments),
                json=None if in_the_query else arguments,
            )
        )

    return ToolDefinition(
        name=tool.name_prefix + tool.name,
        description=tool.description,
        parameters=tool.parameters,
        effect=effect,
        timeout_seconds=tool.timeout_seconds,
        call=call,
        max_result_bytes=tool.max_result_bytes,
    )


def effect_of(method: str, effect: ToolEffect | None) -> ToolEffect:
    """What the spec says of a call, or the method: of those, GET alone is sure to change nothing."""
    return effect or (ToolEffect.READ if method == HTTPMethod.GET else ToolEffect.WRITE)


def write_headers(
    effect: ToolEffect, scope: RunScope, name: str, arguments: dict[str, Any]
) -> dict[str, str]:
    if effect is ToolEffect.READ:
        return {}
    return {IDEMPOTENCY_KEY: scope.idempotency_key(name, arguments)}


def in_query(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lists repeat their key; null is left out."""
    pairs: list[tuple[str, str]] = []
    for name, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        pairs += [(name, as_text(each)) for each in values if each is not None]
    return pairs


def as_text(value: Any) -> str:
    """A plain value as it stands in URLs and headers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        raise ToolError("an object or list cannot stand here: give plain values")
    return str(value)


def same_origin(one: httpx.URL | str, other: httpx.URL | str) -> bool:
    """Whether scheme, host and port are the same."""
    return _origin(httpx.URL(one)) == _origin(httpx.URL(other))


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    default = {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, url.port or default


def _shown(url: str) -> str:
    """For people: without query and user, which may hold what nobody should read."""
    return str(httpx.URL(url).copy_with(query=None, fragment=None, userinfo=b""))


def _decoded(body: bytes, charset: str | None) -> str:
    try:
        return body.decode(charset or "utf-8", errors="replace")
    except LookupError:  # a charset that Python does not know
        return body.decode(errors="replace")
