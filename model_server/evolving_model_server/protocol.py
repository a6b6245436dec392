"""The HTTP API's documents: what clients may ask, and errors in OpenAI's shape."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DEFAULT_MAX_TOKENS = 256  # bounds an answer for which the client named no bound: a CPU is slow
NAME_PATTERN = r"^[a-zA-Z0-9_-]{1,64}$"  # of a tool, as OpenAI's API has it


class ApiError(Exception):
    """A refusal that names what the client must change. `param` is the field, `code` is stable."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class _Wire(BaseModel):
    """Unknown fields are ignored, as OpenAI's servers ignore what is newer than they are."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Message(_Wire):
    model_config = ConfigDict(extra="allow", frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class Function(_Wire):
    name: str = Field(pattern=NAME_PATTERN)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(_Wire):
    type: Literal["function"]
    function: Function


class FunctionName(_Wire):
    name: str


class NamedTool(_Wire):
    type: Literal["function"]
    function: FunctionName


class StreamOptions(_Wire):
    include_usage: bool = False


class JsonSchema(_Wire):
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(_Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(_Wire):
    """`POST /v1/chat/completions`. Without a temperature the answer is the model's most likely one."""

    model: str
    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] = []
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    response_format: ResponseFormat | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, document: Any) -> Any:
        """Clients send null for what they leave open."""
        if isinstance(document, dict):
            return {key: value for key, value in document.items() if value is not None}
        return document

    @property
    def offered_tools(self) -> list[dict[str, Any]]:
        """The tools that the model may call in this answer."""
        if self.tool_choice == "none":
            return []
        return [tool.model_dump(exclude_none=True) for tool in self.tools]

    @property
    def demanded_tools(self) -> list[Function]:
        """The tools of which one must be called; empty where the model may choose to call none.

        Raises ApiError where a call is demanded of a tool that is not on offer.
        """
        if self.tool_choice == "required":
            if not self.tools:
                raise ApiError(400, "tool_choice 'required' needs at least one tool", param="tool_choice")
            return [tool.function for tool in self.tools]
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            named = [tool.function for tool in self.tools if tool.function.name == name]
            if not named:
                raise ApiError(400, f"tool_choice names {name!r}, which is not in tools", param="tool_choice")
            return named
        return []

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """What binds an answer in words; nothing where the model may call tools instead.

        Raises ApiError where a schema is announced and left out.
        """
        wanted = self.response_format
        if wanted is None or wanted.type == "text" or self.offered_tools:
            return None
        if wanted.type == "json_object":
            return {"type": "object"}
        if wanted.json_schema is None or wanted.json_schema.json_schema is None:
            raise ApiError(400, "json_schema.schema is missing", param="response_format")
        return wanted.json_schema.json_schema

    @property
    def token_limit(self) -> int:
        return self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_TOKENS

    @property
    def stops(self) -> tuple[str, ...]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)


class LoadAdapterRequest(_Wire):
    """`POST /v1/load_lora_adapter`, in the shape of vLLM."""

    lora_name: str
    lora_path: str | None = None


class UnloadAdapterRequest(_Wire):
    lora_name: str


Document = TypeVar("Document", bound=BaseModel)


def parse(kind: type[Document], body: bytes) -> Document:
    """The document in a request's body. Raises ApiError (400) that names the first field at fault."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # Of a union's members only the field itself is of interest, not the member that did not match.
        path = [str(part) for part in first["loc"] if part not in ("str", "list[str]", "NamedTool")]
        field = ".".join(path)
        message = f"{field}: {first['msg']}" if field else first["msg"]
        raise ApiError(400, message, param=field or None, code="invalid_value") from error
