"""What an agent can call: a union by `type`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from evolving_agent.contract.base import MOST_LEVELS, Document, Rule, is_too_deep, rules
from evolving_agent.contract.refs import FUNCTION_NAME, HTTP_URL, ConfigMapKeyRef, ConfigMapRef, SecretKeyRef


class ToolEffect(StrEnum):
    READ = "Read"
    WRITE = "Write"


class BuiltinName(StrEnum):
    RECORD_REFLECTION = "record_reflection"
    REMEMBER = "remember"
    RECALL = "recall"


class HTTPHeader(Document):
    """A header of every request to a tool's server. The model neither sees nor changes it."""

    model_config = rules(
        Rule(
            "has(self.value) != has(self.secretKeyRef)",
            "a header has either a value or a secretKeyRef",
        )
    )

    name: str = Field(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9-]+$",
        description="Name of the header.",
    )
    value: str | None = Field(
        default=None, max_length=1024, pattern=r"^[ -~]*$", description="The value, where it is no secret."
    )
    secret_key_ref: SecretKeyRef | None = Field(
        default=None, description="Secret that holds the value. A changed Secret is read without a restart."
    )
    prefix: str = Field(
        default="",
        max_length=64,
        pattern=r"^[ -~]*$",
        description="Comes before the value, such as `Bearer ` before a token.",
    )


class _Tool(Document):
    """What every kind of tool has. Subclasses repeat a field only to say it more narrowly."""

    timeout_seconds: int = Field(
        default=30, ge=1, le=600, description="A call that takes longer fails, and the model is told so."
    )
    max_result_bytes: int = Field(
        default=16_384,
        ge=256,
        le=1_048_576,
        description="A longer result is cut, and the model is told how much is left out.",
    )


class _NamedTool(_Tool):
    name: str = Field(
        min_length=1,
        max_length=64,
        pattern=FUNCTION_NAME,
        description="Unique name. A tool that is one function is called by it.",
    )
    effect: ToolEffect | None = Field(
        default=None,
        description="Write: shadow and dry runs do not execute it. Read: they do. If absent, HTTP goes by "
        "the method (GET reads, others write), MCP by the server's annotation readOnlyHint, and a Module "
        "writes.",
    )


class _ManyTools(_NamedTool):
    name_prefix: str = Field(
        default="",
        max_length=32,
        pattern=r"^[a-zA-Z0-9_-]*$",
        description="Comes before the names of all functions behind this entry, where names would clash.",
    )


Headers = Annotated[
    tuple[HTTPHeader, ...],
    Field(
        max_length=16,
        description="Headers of every request, such as credentials.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    ),
]
_FunctionName = Annotated[str, Field(min_length=1, max_length=128)]


class BuiltinTool(_Tool):
    """A tool that the agent image brings along; its name says which."""

    type: Literal["BuiltIn"] = Field(description="Kind of the tool.")
    name: BuiltinName = Field(description="Unique name. A tool that is one function is called by it.")


class MCPTransport(StrEnum):
    STREAMABLE_HTTP = "StreamableHTTP"
    SSE = "SSE"


class MCPTool(_ManyTools):
    """The tools of one MCP server."""

    type: Literal["MCP"] = Field(description="Kind of the tool.")
    url: str = Field(
        max_length=2048,
        pattern=HTTP_URL,
        description="Where the tool is reached: the server of an MCP tool, the address of a described HTTP "
        "call, the base of an OpenAPI document's paths.",
    )
    transport: MCPTransport = Field(
        default=MCPTransport.STREAMABLE_HTTP, description="How the MCP server is spoken to."
    )
    functions: tuple[_FunctionName, ...] = Field(
        default=(),
        max_length=64,
        description="The functions that the agent may call: names of an MCP server's tools, or of a module's "
        "functions. All if empty.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    headers: Headers = ()


class HTTPMethod(StrEnum):
    GET = "GET"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"


class OpenAPISource(Document):
    """An OpenAPI document (3.x, JSON or YAML) whose operations become functions."""

    model_config = rules(
        Rule(
            "has(self.url) != has(self.configMapKeyRef)",
            "an OpenAPI document is at a url or in a configMapKeyRef: name one of them",
        )
    )

    url: str | None = Field(
        default=None, max_length=2048, pattern=HTTP_URL, description="Where the document is fetched."
    )
    config_map_key_ref: ConfigMapKeyRef | None = Field(
        default=None, description="ConfigMap that holds the document."
    )
    operations: tuple[_FunctionName, ...] = Field(
        default=(),
        max_length=64,
        description="The operations that the agent may call, by operationId. All if empty.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class HTTPTool(_ManyTools):
    """One described HTTP call, or the operations of an OpenAPI document."""

    model_config = rules(
        Rule(
            "has(self.openAPI) || (has(self.url) && has(self.description) && has(self.parameters))",
            "a described call needs url, description and parameters; or name a document in openAPI",
        ),
        Rule(
            "!has(self.openAPI) || !(has(self.description) || has(self.parameters) || has(self.method))",
            "description, parameters and method come from the document where openAPI is given",
            ".openAPI",
        ),
        Rule(
            "!has(self.openAPI) || !has(self.openAPI.configMapKeyRef) || has(self.url)",
            "an OpenAPI document from a ConfigMap needs url, the base of its paths",
            ".url",
        ),
    )

    type: Literal["HTTP"] = Field(description="Kind of the tool.")
    url: str | None = Field(
        default=None,
        max_length=2048,
        pattern=HTTP_URL,
        description="Where the tool is reached: the server of an MCP tool, the address of a described HTTP "
        "call, the base of an OpenAPI document's paths.",
    )
    description: str | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="What a described call does and when to make it, for the model.",
    )
    method: HTTPMethod | None = Field(
        default=None,
        description="Of a described call. GET and DELETE send the arguments as the query, the others as a "
        "JSON body. POST if absent.",
    )
    parameters: dict[str, Any] | None = Field(
        default=None,
        description="JSON Schema of a described call's arguments: an object with properties.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    open_api: OpenAPISource | None = Field(
        default=None, alias="openAPI", description="A document that describes the calls."
    )
    headers: Headers = ()

    @field_validator("parameters")
    @classmethod
    def _is_a_schema(cls, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        if is_too_deep(parameters or {}):
            raise ValueError(f"it has more than {MOST_LEVELS} levels: no arguments are nested so deep")
        return parameters


class ModuleTool(_ManyTools):
    """Python functions: type hints and docstrings say what the model is told."""

    type: Literal["Module"] = Field(description="Kind of the tool.")
    module: str = Field(
        min_length=1,
        max_length=253,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$",
        description="The Python module: `orders` for the key orders.py of configMapRef, otherwise a module "
        "that the agent's image holds.",
    )
    config_map_ref: ConfigMapRef | None = Field(
        default=None,
        description="ConfigMap that holds the module. It is read when a pod starts: give changed code a new "
        "name, or restart the Deployment.",
    )
    functions: tuple[_FunctionName, ...] = Field(
        default=(),
        max_length=64,
        description="The functions that the agent may call: names of an MCP server's tools, or of a module's "
        "functions. All if empty.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


Tool = Annotated[BuiltinTool | MCPTool | HTTPTool | ModuleTool, Field(discriminator="type")]
