"""OpenAPI documents: what becomes a function, what is left out and why, and what is sent."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolving_agent.runtime.tools.http import HTTPRequest
from evolving_agent.runtime.tools.invocation import ToolError
from evolving_agent.runtime.tools.openapi import (
    DocumentError,
    Operation,
    ReadDocument,
    function_name,
    parse_document,
    read_document,
)
from evolving_agent.runtime.tools.openapi_call import request_of

SHOP = """
openapi: 3.0.3
info: {title: Shop, version: 2026-01-01}
servers: [{url: /v2}]
paths:
  /orders/{order}:
    parameters:
      - {name: order, in: path, required: true, schema: {type: string}}
    get:
      operationId: getOrder
      summary: One order
      description: With its lines.
      parameters:
        - {name: fields, in: query, explode: false, schema: {type: array, items: {type: string}}}
        - {name: tag, in: query, schema: {type: array, items: {type: string}}}
        - {name: filter, in: query, style: deepObject, schema: {type: object}}
        - {name: X-Shop, in: header, schema: {type: string}}
        - {name: Authorization, in: header, schema: {type: string}}
        - {name: theme, in: cookie, schema: {type: string}}
      responses: {200: {description: ok}}
    put:
      operationId: change order
      requestBody: {$ref: '#/components/requestBodies/Order'}
      responses: {}
  /upload:
    post:
      operationId: upload
      requestBody: {required: true, content: {multipart/form-data: {}}}
  /login:
    post:
      operationId: login
      requestBody:
        content:
          application/x-www-form-urlencoded: {schema: {type: object, properties: {user: {type: string}}}}
  /session:
    get:
      operationId: session
      parameters: [{name: sid, in: cookie, required: true}]
  /broken:
    get: {operationId: broken, parameters: [{$ref: 'other.yaml#/x'}]}
  /mismatch/{id}:
    get: {operationId: mismatch}
  /unnamed:
    get: {}
components:
  requestBodies:
    Order:
      required: true
      content:
        application/json: {schema: {$ref: '#/components/schemas/Order'}}
  schemas:
    Shelf: {type: object, description: A place., required: [row]}
    Order:
      type: object
      required: [customer]
      properties:
        id: {type: integer, readOnly: true}
        customer: {type: string, nullable: true, example: Ada}
        due: {type: string, default: 2026-01-01}
        amount: {type: number, minimum: 0, exclusiveMinimum: true}
        shelf: {description: Where., default: {}, allOf: [{$ref: '#/components/schemas/Shelf'}]}
        parent: {$ref: '#/components/schemas/Order'}
"""


def read(text: str = SHOP, *wanted: str) -> ReadDocument:
    return read_document(parse_document(text), wanted)


def operation(name: str, text: str = SHOP) -> Operation:
    return next(each for each in read(text).operations if each.name == name)


def sent(name: str, **arguments: Any) -> HTTPRequest:
    return request_of(operation(name), "http://shop/v2", arguments, {})


def minimal(**paths: Any) -> str:
    return json.dumps({"openapi": "3.1.0", "paths": {f"/{name}": item for name, item in paths.items()}})


def test_operations_become_functions_with_the_schema_of_their_arguments() -> None:
    document = read()

    assert document.servers == ("/v2",)
    names = [each.name for each in document.operations]
    assert names == ["getOrder", "change_order", "login", "get_unnamed"]
    assert [each.method for each in document.operations] == ["GET", "PUT", "POST", "GET"]
    found = operation("getOrder")
    assert found.description == "One order\nWith its lines."
    assert list(found.schema["properties"]) == ["order", "fields", "tag", "filter", "X-Shop"]
    assert found.schema["required"] == ["order"]
    for each in document.operations:
        jsonschema.Draft202012Validator.check_schema(each.schema)


def test_what_cannot_be_offered_is_told_with_its_reason() -> None:
    reasons = dict(line.split(": ", 1) for line in read().left_out)

    assert set(reasons) == {"upload", "session", "broken", "mismatch"}
    assert "multipart/form-data" in reasons["upload"]
    assert "cookie" in reasons["session"]
    assert "leads out of the document" in reasons["broken"]
    assert "disagree about ['id']" in reasons["mismatch"]


def test_only_wanted_operations_are_read_and_missing_ones_are_told() -> None:
    document = read(SHOP, "login", "logout", "upload")

    assert [each.name for each in document.operations] == ["login"]
    assert document.left_out[1:] == ("logout: the document has no such operation",)


def test_schemas_stand_without_references_and_in_the_words_of_json_schema() -> None:
    body = operation("change_order").schema["properties"]["body"]

    assert body["properties"]["customer"] == {"type": ["string", "null"]}
    assert "id" not in body["properties"]  # only the server sets it
    assert body["properties"]["due"]["default"] == "2026-01-01"
    assert body["properties"]["amount"] == {"type": "number", "exclusiveMinimum": 0}
    shelf = {"type": "object", "description": "Where.", "required": ["row"], "default": {}}
    assert body["properties"]["shelf"] == shelf
    assert body["properties"]["parent"] == {}  # of its own kind: anything
    assert operation("change_order").schema["required"] == ["order", "body"]


def test_arguments_travel_where_the_document_says() -> None:
    request = sent(
        "getOrder",
        order="a/b ?",
        fields=["id", "due"],
        tag=["x", "y"],
        filter={"open": True},
        **{"X-Shop": "north"},
    )

    assert request.url == "http://shop/v2/orders/a%2Fb%20%3F"
    assert request.query == (("fields", "id,due"), ("tag", "x"), ("tag", "y"), ("filter[open]", "true"))
    assert request.headers == {"X-Shop": "north"}


def test_bodies_travel_in_their_media_type() -> None:
    changed = sent("change_order", order=7, body={"customer": "Ada"})
    assert (changed.url, changed.text) == ("http://shop/v2/orders/7", '{"customer": "Ada"}')
    assert changed.headers == {"Content-Type": "application/json"}
    assert sent("login", body={"user": "ada", "keep": True}).form == {"user": "ada", "keep": "true"}
    with pytest.raises(ToolError, match="must be an object"):
        sent("login", body="user=ada")


@pytest.mark.parametrize("hostile", ["..", ".", "", "..."])
def test_a_path_parameter_cannot_leave_its_place(hostile: str) -> None:
    with pytest.raises(ToolError, match="cannot be"):
        sent("getOrder", order=hostile)


@given(st.text(min_size=1))
def test_a_path_parameter_stays_one_segment(value: str) -> None:
    try:
        url = sent("getOrder", order=value).url
    except (ToolError, UnicodeEncodeError):  # only dots, or half a surrogate pair
        return
    assert url.startswith("http://shop/v2/orders/")
    assert not set("/?#\\") & set(url.removeprefix("http://shop/v2/orders/"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "neither JSON nor YAML"),
        ("- a\n- b", "it has no paths"),
        ("just words", "it has no paths"),
        (json.dumps({"swagger": "2.0", "paths": {}}), "convert it to OpenAPI 3"),
        (json.dumps({"openapi": "3.1.0", "paths": []}), "it has no paths"),
        ("x" * (4 * 2**20 + 1), "larger than"),
        ("[" * 100_000, "nested too deeply|neither JSON nor YAML"),
    ],
)
def test_a_document_that_cannot_be_used_says_why(text: str, problem: str) -> None:
    with pytest.raises(DocumentError, match=problem):
        parse_document(text)


def test_a_small_document_that_describes_a_huge_schema_is_refused() -> None:
    schemas: dict[str, Any] = {"s0": {"type": "string"}}
    for level in range(1, 20):
        inner = {"$ref": f"#/components/schemas/s{level - 1}"}
        schemas[f"s{level}"] = {"type": "object", "properties": {"a": inner, "b": inner}}
    document = {
        "openapi": "3.1.0",
        "paths": {
            "/x": {
                "get": {
                    "parameters": [
                        {"name": "q", "in": "query", "schema": {"$ref": "#/components/schemas/s19"}}
                    ]
                }
            }
        },
        "components": {"schemas": schemas},
    }
    with pytest.raises(DocumentError, match="name the needed `operations`"):
        read(json.dumps(document))


def test_circular_references_leave_out_one_operation() -> None:
    circle = {"$ref": "#/paths/~1a/get/parameters/0"}
    document = read(minimal(a={"get": {"parameters": [circle]}}, b={"get": {}}))

    assert [each.name for each in document.operations] == ["get_b"]
    assert "in a circle" in document.left_out[0]


def test_operations_of_one_name_are_offered_once() -> None:
    same = {"get": {"operationId": "list items"}, "post": {"operationId": "list/items"}}
    document = read(minimal(a=same))

    assert [(each.name, each.method) for each in document.operations] == [("list_items", "GET")]
    assert "is taken" in document.left_out[0]


@given(st.text())
def test_function_names_are_ones_that_models_can_call(text: str) -> None:
    name = function_name(text)
    assert 1 <= len(name) <= 64
    assert name.isascii()
    assert all(letter.isalnum() or letter in "_-" for letter in name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["get", "post", "parameters", "schema", "$ref", "in", "name", "required", "content",
                         "requestBody", "items", "properties", "type", "#", "/a", "allOf"]),
        inner, max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["/a", "/b/{id}", "x"]), json_values, max_size=3))
def test_no_document_breaks_the_reader(paths: dict[str, Any]) -> None:
    document = read(json.dumps({"openapi": "3.1.0", "paths": paths}))
    for each in document.operations:
        assert each.path in paths
        json.dumps(each.schema)
