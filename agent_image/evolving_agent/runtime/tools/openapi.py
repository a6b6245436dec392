"""Reads an OpenAPI document (3.x): which operations can be offered as functions, and how they are called.

What cannot be offered is told with its reason, and leaves the rest usable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import unquote

MAX_DOCUMENT_BYTES = 4 * 2**20
MAX_SCHEMA_NODES = 20_000  # of a document; a few kilobytes of references can describe far more
MAX_DESCRIPTION_CHARS = 1024
METHODS = ("get", "put", "post", "delete", "patch", "head", "options", "trace")
_CALLED = ("get", "put", "post", "delete", "patch")
# Not the model's to set: the connection's, or meaningless in OpenAPI's own words.
_OWN_HEADERS = (
    *("accept", "authorization", "connection", "content-length", "content-type", "cookie", "host"),
    *("idempotency-key", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"),
)
_SCHEMA_KEYWORDS_DROPPED = (
    "discriminator",
    "example",
    "examples",
    "externalDocs",
    "xml",
    "deprecated",
    "$id",
)
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")

Json = dict[str, Any]


class DocumentError(Exception):
    """The document cannot be used at all; the message says why."""


class _UnusableError(Exception):
    """Why one operation is left out."""


class Place(StrEnum):
    PATH = "path"
    QUERY = "query"
    HEADER = "header"


@dataclass(frozen=True)
class Parameter:
    """An argument of the function, and where and how it travels. `style` and `explode` are OpenAPI's."""

    argument: str
    name: str
    place: Place
    required: bool
    style: str
    explode: bool


@dataclass(frozen=True)
class Body:
    argument: str
    media_type: str


@dataclass(frozen=True)
class Operation:
    """One function: `schema` is the JSON schema of its arguments, `path` a template below the base URL."""

    name: str
    operation_id: str
    description: str
    method: str  # in upper case
    path: str
    parameters: tuple[Parameter, ...]
    body: Body | None
    schema: Json


@dataclass(frozen=True)
class ReadDocument:
    operations: tuple[Operation, ...]
    left_out: tuple[str, ...]  # "operation: why"
    servers: tuple[str, ...]  # URLs, possibly relative


def parse_document(text: str) -> Json:
    """The document, from JSON or YAML. Raises DocumentError."""
    if len(text.encode()) > MAX_DOCUMENT_BYTES:
        raise DocumentError(f"the document is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        document = _from_yaml(text)
    except RecursionError as error:
        raise DocumentError("the document is nested too deeply") from error
    if not isinstance(document, dict) or not isinstance(document.get("paths"), dict):
        raise DocumentError("the document is no OpenAPI document: it has no paths")
    version = str(document.get("openapi") or f"Swagger {document.get('swagger')}")
    if not version.startswith("3."):
        raise DocumentError(f"the document is of version {version}: convert it to OpenAPI 3")
    return document


def read_document(document: Json, wanted: Collection[str]) -> ReadDocument:
    """The `wanted` operations (all if empty) by operationId. Raises DocumentError."""
    reader = _Reader(document)
    operations: dict[str, Operation] = {}
    left_out: list[str] = []
    try:
        for path, method, item, raw in _raw_operations(document["paths"], reader):
            identity = str(raw.get("operationId") or f"{method}{path}")
            if wanted and identity not in wanted:
                continue
            try:
                operation = reader.operation(identity, path, method, item, raw)
                if operation.name in operations:
                    raise _UnusableError(f"its name {operation.name} is taken")
                operations[operation.name] = operation
            except _UnusableError as why:
                left_out.append(f"{identity}: {why}")
    except RecursionError as error:
        raise DocumentError("the document is nested too deeply") from error
    found = {operation.operation_id for operation in operations.values()}
    told = {line.partition(":")[0] for line in left_out}
    left_out += [f"{name}: the document has no such operation" for name in wanted if name not in found | told]
    servers = document.get("servers")
    urls = tuple(
        str(server["url"])
        for server in (servers if isinstance(servers, list) else [])
        if isinstance(server, dict) and "url" in server
    )
    return ReadDocument(tuple(operations.values()), tuple(left_out), urls)


def function_name(text: str) -> str:
    """In the letters that model APIs allow for names of functions."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", text).strip("_")[:64] or "function"


def _from_yaml(text: str) -> Any:
    import yaml  # noqa: PLC0415 (needed for some documents only)

    loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506 (a safe loader, by libyaml where it is there)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise DocumentError(f"the document is neither JSON nor YAML{where}") from error
    except (RecursionError, ValueError) as error:
        raise DocumentError("the document is neither JSON nor YAML that can be read") from error


def _raw_operations(paths: Mapping[Any, Any], reader: _Reader) -> Iterator[tuple[str, str, Json, Json]]:
    for path, raw_item in paths.items():
        item = reader.resolved_or_empty(raw_item)
        for method in METHODS:
            if isinstance(raw := item.get(method), dict):
                yield str(path), method, item, raw


class _Reader:
    """Reads parts of one document; what is shared by reference is copied to where it is used."""

    def __init__(self, document: Json) -> None:
        self._document = document
        self._nodes = 0

    def operation(self, identity: str, path: str, method: str, item: Json, raw: Json) -> Operation:
        """Raises _UnusableError."""
        if method not in _CALLED:
            raise _UnusableError(f"the method {method.upper()} is not called")
        if not path.startswith("/"):
            raise _UnusableError("its path does not start with /")
        properties: Json = {}
        required: list[str] = []
        parameters = []
        for declared in self._parameters(item, raw):
            parameter = self._parameter(declared, properties)
            if parameter is None:
                continue
            schema = self._schema_of(declared)
            if text := declared.get("description"):
                schema.setdefault("description", str(text)[:MAX_DESCRIPTION_CHARS])
            properties[parameter.argument] = schema
            required += [parameter.argument] if parameter.required else []
            parameters.append(parameter)
        body = self._body(raw, properties, required)
        open_places = set(re.findall(r"\{([^{}]*)\}", path))
        described = {parameter.name for parameter in parameters if parameter.place is Place.PATH}
        if open_places != described:
            raise _UnusableError(f"path and parameters disagree about {sorted(open_places ^ described)}")
        schema = {"type": "object", "properties": properties, "required": required}
        about = "\n".join(str(raw[key]) for key in ("summary", "description") if raw.get(key))
        return Operation(
            name=function_name(identity),
            operation_id=identity,
            description=(about or f"{method.upper()} {path}")[:MAX_DESCRIPTION_CHARS],
            method=method.upper(),
            path=path,
            parameters=tuple(parameters),
            body=body,
            schema=json.loads(json.dumps(schema, default=str)),  # YAML has dates, JSON has not
        )

    def resolved_or_empty(self, node: Any) -> Json:
        try:
            return self._resolved(node)
        except _UnusableError:
            return {}

    def _parameters(self, item: Json, raw: Json) -> list[Json]:
        """The operation's own win over those of its path."""
        found: dict[tuple[str, str], Json] = {}
        for declared in [*_list(item.get("parameters")), *_list(raw.get("parameters"))]:
            parameter = self._resolved(declared)
            found[str(parameter.get("in")), str(parameter.get("name"))] = parameter
        return list(found.values())

    def _parameter(self, declared: Json, taken: Json) -> Parameter | None:
        """None for what the model cannot set and the server can do without."""
        name, place = str(declared.get("name") or ""), str(declared.get("in"))
        is_required = declared.get("required") is True
        if place == "header" and name.lower() in _OWN_HEADERS:
            return None
        if not name or place not in tuple(Place):
            if is_required:
                raise _UnusableError(f"it needs a parameter in {place!r}, which is not supported")
            return None
        argument = function_name(name)
        if argument in taken:
            argument = function_name(f"{place}_{name}")
        if argument in taken:
            raise _UnusableError(f"two parameters are called {name!r}")
        style = str(declared.get("style") or ("form" if place == "query" else "simple"))
        explode = declared.get("explode")
        return Parameter(
            argument=argument,
            name=name,
            place=Place(place),
            required=is_required or place == "path",
            style=style,
            explode=explode if isinstance(explode, bool) else style in ("form", "deepObject"),
        )

    def _schema_of(self, declared: Json) -> Json:
        if "schema" in declared:
            return self._schema(declared["schema"], ())
        for content in _mapping(declared.get("content")).values():  # at most one, by the standard
            return self._schema(_mapping(content).get("schema", {}), ())
        return {}

    def _body(self, raw: Json, properties: Json, required: list[str]) -> Body | None:
        if "requestBody" not in raw:
            return None
        declared = self._resolved(raw["requestBody"])
        content = _mapping(declared.get("content"))
        media_type = next(filter(_can_be_sent, content), None)
        if media_type is None:
            if declared.get("required") is True:
                raise _UnusableError(f"its body is {', '.join(map(str, content)) or 'undescribed'}")
            return None
        argument = "body" if "body" not in properties else "request_body"
        properties[argument] = self._schema(_mapping(content[media_type]).get("schema", {}), ())
        required += [argument] if declared.get("required") is True else []
        return Body(argument, str(media_type))

    def _resolved(self, node: Any) -> Json:
        """The object that a reference leads to. Raises _UnusableError."""
        for _ in range(32):
            if not isinstance(node, dict):
                raise _UnusableError("it is not an object where it should be one")
            if "$ref" not in node:
                return node
            node = self._target(node["$ref"])
        raise _UnusableError("its references lead in a circle")

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise _UnusableError(f"the reference {str(reference)[:100]!r} leads out of the document")
        node: Any = self._document
        for step in unquote(reference[2:]).split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list):
                node = dict(zip(map(str, range(len(node))), node, strict=True))
            if not isinstance(node, dict) or key not in node:
                raise _UnusableError(f"the reference {reference[:100]!r} leads nowhere")
            node = node[key]
        return node

    def _schema(self, node: Any, inside: tuple[str, ...]) -> Json:
        """A JSON schema without references. Inside of itself, a recursive one allows anything."""
        self._nodes += 1
        if self._nodes > MAX_SCHEMA_NODES:
            raise DocumentError(
                f"the schemas have more than {MAX_SCHEMA_NODES} parts: name the needed `operations`"
            )
        if not isinstance(node, dict):
            return {} if node is not False else {"not": {}}
        if "$ref" in node:
            reference = str(node["$ref"])
            if reference in inside:
                return {}
            return self._schema(self._target(reference), (*inside, reference))
        schema: Json = {}
        for key, value in node.items():
            if key in _SCHEMA_KEYWORDS_DROPPED or str(key).startswith("x-"):
                continue
            schema[key] = self._schema_part(str(key), value, inside)
        match schema.get("allOf"):
            case [dict(only)]:  # how 3.0 says something beside a reference; plainer is better understood
                del schema["allOf"]
                schema = {**only, **schema}
        if schema.pop("nullable", False) is True and isinstance(schema.get("type"), str):
            schema["type"] = [schema["type"], "null"]
            if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
                schema["enum"] = [*schema["enum"], None]
        for limit in ("Minimum", "Maximum"):  # 3.0 has booleans where JSON Schema has the limit itself
            exclusive, plain = f"exclusive{limit}", limit.lower()
            if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and plain in schema:
                schema[exclusive] = schema.pop(plain)
        return schema

    def _schema_part(self, key: str, value: Any, inside: tuple[str, ...]) -> Any:
        if key in _SCHEMA_MAPS and isinstance(value, dict):
            return {
                name: self._schema(part, inside)
                for name, part in value.items()
                if not (isinstance(part, dict) and part.get("readOnly") is True)
            }
        if key == "required" and isinstance(value, list):
            return [str(name) for name in value]
        if key in ("allOf", "anyOf", "oneOf", "prefixItems") and isinstance(value, list):
            return [self._schema(part, inside) for part in value]
        if key in ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"):
            return value if isinstance(value, bool) else self._schema(value, inside)
        if key == "description":
            return str(value)[:MAX_DESCRIPTION_CHARS]
        return value


def _can_be_sent(media_type: Any) -> bool:
    kind = str(media_type).partition(";")[0].strip().lower()
    return (
        kind in ("application/json", "application/x-www-form-urlencoded", "text/plain", "*/*")
        or kind.endswith("+json")
    )  # fmt: skip


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
