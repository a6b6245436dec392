"""From an operation of an OpenAPI document and a model's arguments to an HTTP request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from evolving_agent.runtime.tools.http import HTTPRequest, as_text
from evolving_agent.runtime.tools.invocation import ToolError
from evolving_agent.runtime.tools.openapi import Operation, Parameter, Place

_SEPARATORS = {"spaceDelimited": " ", "pipeDelimited": "|"}


def request_of(
    operation: Operation, base_url: str, arguments: Mapping[str, Any], headers: Mapping[str, str]
) -> HTTPRequest:
    """Raises ToolError for arguments that cannot stand where they belong."""
    path = operation.path
    query: list[tuple[str, str]] = []
    sent = dict(headers)
    for parameter in operation.parameters:
        value = arguments.get(parameter.argument)
        if value is None:
            if parameter.place is Place.PATH:
                raise ToolError(f"{operation.name} needs {parameter.argument}")
            continue
        match parameter.place:
            case Place.PATH:
                path = path.replace(f"{{{parameter.name}}}", _segment(parameter, value))
            case Place.QUERY:
                query += _pairs(parameter, value)
            case Place.HEADER:
                sent[parameter.name] = _joined(value, ",", explode=parameter.explode)
    return _with_body(operation, arguments, HTTPRequest(
        operation.method, base_url.rstrip("/") + path, query=tuple(query), headers=sent
    ))  # fmt: skip


def _with_body(operation: Operation, arguments: Mapping[str, Any], request: HTTPRequest) -> HTTPRequest:
    if operation.body is None or operation.body.argument not in arguments:
        return request
    value, kind = arguments[operation.body.argument], operation.body.media_type
    content: dict[str, Any] = {"headers": dict(request.headers or {})}
    if kind.startswith("application/x-www-form-urlencoded"):
        if not isinstance(value, dict):
            raise ToolError(f"{operation.body.argument} must be an object")
        content["form"] = {
            name: [as_text(item) for item in each] if isinstance(each, list) else as_text(each)
            for name, each in value.items()
            if each is not None
        }
    elif kind.startswith("text/"):
        content["text"] = value if isinstance(value, str) else json.dumps(value)
        content["headers"]["Content-Type"] = kind
    else:
        content["text"] = json.dumps(value)
        content["headers"]["Content-Type"] = "application/json" if kind == "*/*" else kind
    return HTTPRequest(request.method, request.url, query=request.query, **content)


def _segment(parameter: Parameter, value: Any) -> str:
    """A value as one segment of the path: it can neither add segments nor go up."""
    if parameter.style != "simple":
        raise ToolError(
            f"{parameter.argument} travels in the style {parameter.style}, which is not supported"
        )
    text = _joined(value, ",", explode=parameter.explode)
    if text.strip(".") == "":
        raise ToolError(f"{parameter.argument} cannot be {text!r}")
    return quote(text, safe="")


def _pairs(parameter: Parameter, value: Any) -> list[tuple[str, str]]:
    name = parameter.name
    if isinstance(value, list):
        if parameter.explode:
            return [(name, as_text(item)) for item in value]
        return [(name, _SEPARATORS.get(parameter.style, ",").join(map(as_text, value)))]
    if isinstance(value, dict):
        if parameter.style == "deepObject":
            return [(f"{name}[{key}]", as_text(item)) for key, item in value.items()]
        if parameter.explode:
            return [(str(key), as_text(item)) for key, item in value.items()]
        return [(name, _joined(value, ",", explode=False))]
    return [(name, as_text(value))]


def _joined(value: Any, separator: str, *, explode: bool) -> str:
    """OpenAPI's style `simple`."""
    if isinstance(value, list):
        return separator.join(map(as_text, value))
    if isinstance(value, dict):
        between = "=" if explode else separator
        return separator.join(f"{key}{between}{as_text(item)}" for key, item in value.items())
    return as_text(value)
