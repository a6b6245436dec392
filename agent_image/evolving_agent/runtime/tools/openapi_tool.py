"""The operations of an OpenAPI document as tools."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx

from evolving_agent.contract.tools import HTTPTool
from evolving_agent.runtime.tools.files import MissingFileError, MountedFiles
from evolving_agent.runtime.tools.http import (
    HTTPConnections,
    HTTPRequest,
    HTTPServer,
    effect_of,
    same_origin,
    write_headers,
)
from evolving_agent.runtime.tools.invocation import RunScope, ToolDefinition, ToolError
from evolving_agent.runtime.tools.openapi import (
    MAX_DOCUMENT_BYTES,
    DocumentError,
    Operation,
    function_name,
    parse_document,
    read_document,
)
from evolving_agent.runtime.tools.openapi_call import request_of
from evolving_agent.runtime.tools.source import SourceError

FETCH_SECONDS = 10.0

logger = logging.getLogger(__name__)


async def openapi_tools(
    tool: HTTPTool, connections: HTTPConnections, files: MountedFiles
) -> list[ToolDefinition]:
    """Raises SourceError."""
    try:
        text = await _document_text(tool, connections, files)
        # parsing takes a large document long enough to be felt by who is being answered
        read = await asyncio.to_thread(lambda: read_document(parse_document(text), _wanted(tool)))
    except DocumentError as error:
        raise SourceError(f"{error} ({_where(tool)})") from error
    for line in read.left_out:
        logger.warning("an operation of %s is not offered: %s", tool.name, line)
    if not read.operations:
        raise SourceError(f"the document offers no operation that can be called ({_where(tool)})")
    server = _server(tool, _base_url(tool, read.servers), connections, files)
    return [_definition(tool, operation, server) for operation in read.operations]


async def _document_text(tool: HTTPTool, connections: HTTPConnections, files: MountedFiles) -> str:
    source = tool.open_api
    if source is None:
        raise ValueError(f"{tool.name} has no document")
    if source.config_map_key_ref is not None:
        ref = source.config_map_key_ref
        try:
            return await asyncio.to_thread(lambda: files.config_map(ref.name, ref.key).read_text())
        except (MissingFileError, OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{error} ({_where(tool)})") from error
    url = source.url or ""
    # the tool's credentials are for its server, which another origin's document is not
    headers = tool.headers if tool.url is None or same_origin(url, tool.url) else ()
    document = HTTPServer(tool.name, url, headers, MAX_DOCUMENT_BYTES, connections, files)
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            return await document.fetch(HTTPRequest("GET", url))
    except TimeoutError as error:
        raise SourceError(f"{url} did not answer within {FETCH_SECONDS:g} s") from error
    except ToolError as error:
        raise SourceError(f"the document could not be fetched: {error}") from error


def _base_url(tool: HTTPTool, servers: tuple[str, ...]) -> str:
    """The spec's word, or the document's first server if it is where the document came from.

    Otherwise whoever writes the document could send the agent, with its credentials, wherever they like.
    """
    if tool.url is not None:
        return tool.url
    source = (tool.open_api.url if tool.open_api is not None else None) or ""
    base = str(httpx.URL(source).join(servers[0] if servers else "/"))
    if not same_origin(base, source):
        raise SourceError(f"the document of {tool.name} names the server {base}: set `url` to allow it")
    return base


def _server(tool: HTTPTool, base_url: str, connections: HTTPConnections, files: MountedFiles) -> HTTPServer:
    return HTTPServer(tool.name, base_url, tool.headers, tool.max_result_bytes, connections, files)


def _definition(tool: HTTPTool, operation: Operation, server: HTTPServer) -> ToolDefinition:
    effect = effect_of(operation.method, tool.effect)
    name = function_name(tool.name_prefix + operation.name)

    async def call(arguments: dict[str, Any], scope: RunScope) -> str:
        headers = write_headers(effect, scope, name, arguments)
        return await server.fetch(request_of(operation, server.base_url, arguments, headers))

    return ToolDefinition(
        name=name,
        description=operation.description,
        parameters=operation.schema,
        effect=effect,
        timeout_seconds=tool.timeout_seconds,
        call=call,
        max_result_bytes=tool.max_result_bytes,
    )


def _wanted(tool: HTTPTool) -> tuple[str, ...]:
    return tool.open_api.operations if tool.open_api is not None else ()


def _where(tool: HTTPTool) -> str:
    source = tool.open_api
    if source is not None and source.config_map_key_ref is not None:
        ref = source.config_map_key_ref
        return f"key {ref.key!r} of the ConfigMap {ref.name}"
    return source.url or "" if source is not None else ""
