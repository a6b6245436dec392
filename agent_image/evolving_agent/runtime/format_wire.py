"""The form of the answer as clients of the two APIs ask for it."""

from __future__ import annotations

import json
import re
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for

from evolving_agent.chat.answer_format import AnswerFormat
from evolving_agent.runtime.errors import RefusedError
from evolving_agent.runtime.wire import unsupported

MAX_SCHEMA_BYTES = 65_536  # a schema is checked before anything else can happen in the pod
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def of_response_format(given: dict[str, Any] | None) -> AnswerFormat | None:
    """Of Chat Completions; None for plain text. Raises RefusedError."""
    where = "response_format"
    match given:
        case {"type": "json_schema", **rest}:
            return _described(rest.get("json_schema"), f"{where}.json_schema")
        case _:
            return _plain(given, where)


def of_text_format(given: dict[str, Any] | None) -> AnswerFormat | None:
    """Of Responses; None for plain text. Raises RefusedError."""
    match given:
        case {"type": "json_schema", **rest}:
            return _described(rest, "text.format")
        case _:
            return _plain(given, "text.format")


def checked_schema(schema: Any, where: str) -> dict[str, Any]:
    """The schema, where it is one. Raises RefusedError."""
    if not isinstance(schema, dict):
        raise RefusedError("invalid", 400, f"{where} must be a JSON schema: an object", param=where)
    if len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
        message = f"{where} is longer than {MAX_SCHEMA_BYTES} bytes"
        raise RefusedError("invalid", 400, message, param=where)
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except (SchemaError, RecursionError) as error:
        place = "/".join(map(str, error.path)) if isinstance(error, SchemaError) else ""
        found = error.message if isinstance(error, SchemaError) else "it is nested too deep"
        message = f"{where} is no JSON schema: {found[:300]}" + (f" (at {place})" if place else "")
        raise RefusedError("invalid", 400, message, param=where) from error
    return schema


def _plain(given: dict[str, Any] | None, where: str) -> AnswerFormat | None:
    kind = "text" if given is None else given.get("type")
    match kind:
        case "text":
            return None
        case "json_object":
            return AnswerFormat()
        case _:
            raise unsupported(where, f"{where}.type is {kind!r}; it must be text, json_object or json_schema")


def _described(spec: Any, where: str) -> AnswerFormat:
    if not isinstance(spec, dict):
        raise RefusedError("invalid", 400, f"{where} must hold name and schema", param=where)
    name, strict, description = spec.get("name"), spec.get("strict"), spec.get("description")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        message = f"{where}.name must be 1 to 64 letters, digits, _ or -"
        raise RefusedError("invalid", 400, message, param=f"{where}.name")
    if strict is not None and not isinstance(strict, bool):
        raise RefusedError("invalid", 400, f"{where}.strict must be true or false", param=f"{where}.strict")
    if description is not None and not isinstance(description, str):
        message = f"{where}.description must be a string"
        raise RefusedError("invalid", 400, message, param=f"{where}.description")
    schema = checked_schema(spec.get("schema", {}), f"{where}.schema")
    return AnswerFormat(schema, name, strict, description)
