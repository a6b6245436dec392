"""`agent_config.json`: what a serving pod runs, one entry per revision, and how traffic is shared."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from evolving_agent.contract.base import Document, digest

CONFIG_VERSION: Final = 1
CONFIG_KEY = "agent_config.json"

FUNCTION_NAME = r"^[a-zA-Z0-9_-]+$"  # OpenAI's rule for the names of functions
HTTP_URL = r"^https?://[^\s/]+(/\S*)?$"


class SecretKeyRef(Document):
    """One key of a Secret in the agent's own namespace."""

    name: str = Field(min_length=1, max_length=253, description="Name of the Secret.")
    key: str = Field(min_length=1, max_length=253, description="Key within the Secret.")


class ModelAPI(StrEnum):
    CHAT_COMPLETIONS = "ChatCompletions"
    RESPONSES = "Responses"


class Endpoint(Document):
    """An OpenAI-compatible HTTP endpoint."""

    base_url: str = Field(
        default="https://api.openai.com/v1",
        alias="baseURL",
        pattern=HTTP_URL,
        max_length=2048,
        description="URL of the API's root, usually ending in /v1.",
    )
    api_key_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="Secret that holds the API key. Leave it out for servers that need none.",
    )
    api: ModelAPI = Field(
        default=ModelAPI.CHAT_COMPLETIONS, description="Which of OpenAI's two text APIs the endpoint speaks."
    )


class BuiltinName(StrEnum):
    RECORD_REFLECTION = "record_reflection"
    REMEMBER = "remember"
    RECALL = "recall"


class ToolEffect(StrEnum):
    READ = "Read"
    WRITE = "Write"


class BuiltinTool(Document):
    """A tool that the agent image brings along; its name says which."""

    type: Literal["BuiltIn"] = Field(description="Kind of the tool.")
    name: BuiltinName = Field(description="Unique name, by which the model calls the tool.")


class MCPTool(Document):
    """All tools of one MCP server (streamable HTTP)."""

    type: Literal["MCP"] = Field(description="Kind of the tool.")
    name: str = Field(
        min_length=1,
        max_length=64,
        pattern=FUNCTION_NAME,
        description="Unique name, by which the model calls the tool.",
    )
    url: str = Field(max_length=2048, pattern=HTTP_URL, description="Where the tool is reached.")
    timeout_seconds: int = Field(
        default=30, ge=1, le=600, description="A call that takes longer fails, and the model is told so."
    )


class HTTPTool(Document):
    """One described HTTP call: the arguments travel as the JSON body (POST) or the query (GET)."""

    type: Literal["HTTP"] = Field(description="Kind of the tool.")
    name: str = Field(
        min_length=1,
        max_length=64,
        pattern=FUNCTION_NAME,
        description="Unique name, by which the model calls the tool.",
    )
    description: str = Field(
        min_length=1, max_length=4096, description="What the tool does and when to call it, for the model."
    )
    method: Literal["GET", "POST"] = Field(
        default="POST",
        description="GET sends the arguments as the query, POST as a JSON body.",
    )
    url: str = Field(max_length=2048, pattern=HTTP_URL, description="Where the tool is reached.")
    parameters: dict[str, Any] = Field(
        description="JSON Schema of the arguments: an object with properties.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    effect: ToolEffect = Field(
        default=ToolEffect.WRITE,
        description="Write: shadow and dry runs do not execute it. Read: they do.",
    )
    timeout_seconds: int = Field(
        default=30, ge=1, le=600, description="A call that takes longer fails, and the model is told so."
    )


Tool = Annotated[BuiltinTool | MCPTool | HTTPTool, Field(discriminator="type")]


class Specialist(Document):
    """An agent to which the main agent can hand a conversation over."""

    name: str = Field(
        min_length=1, max_length=50, pattern=FUNCTION_NAME, description="Unique name of the specialist."
    )
    description: str = Field(
        min_length=1, max_length=1024, description="What it is for: when to hand a conversation over to it."
    )
    instructions: str = Field(
        min_length=1, max_length=16_384, description="What the specialist is and does: its system prompt."
    )
    tools: tuple[Tool, ...] = Field(
        default=(),
        max_length=32,
        description="What the specialist can call.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


class MemoryType(StrEnum):
    SQLITE = "SQLite"
    DISABLED = "Disabled"


class ReflectionMode(StrEnum):
    AFTER_RUN = "AfterRun"
    TOOL = "Tool"
    BOTH = "Both"
    DISABLED = "Disabled"


class Reflection(Document):
    mode: ReflectionMode = Field(
        default=ReflectionMode.AFTER_RUN,
        description="AfterRun asks the model for a reflection once the answer is out; Tool lets the agent "
        "record one itself while it runs; Both; Disabled.",
    )
    sample_percent: int = Field(
        default=100, ge=0, le=100, description="Share of runs that are reflected upon after the run."
    )
    max_output_tokens: int = Field(
        default=512, ge=16, le=8192, description="Upper bound of tokens of one reflection."
    )


class ToolUseBehavior(StrEnum):
    RUN_LLM_AGAIN = "RunLLMAgain"
    STOP_ON_FIRST_TOOL = "StopOnFirstTool"


class ServedModel(Document):
    id: str
    base_url: str = Field(alias="baseURL")
    api: ModelAPI = ModelAPI.CHAT_COMPLETIONS
    max_output_tokens: int | None = None
    temperature_percent: int | None = None

    @property
    def temperature(self) -> float | None:
        """Sampling temperature; None leaves it to the server."""
        return None if self.temperature_percent is None else self.temperature_percent / 100


class AgentConfig(Document):
    """Everything that decides how a pod answers. Rolls forward and back as one."""

    revision: str
    model: ServedModel
    instructions: str
    tools: tuple[Tool, ...] = ()
    specialists: tuple[Specialist, ...] = ()
    memory: MemoryType = MemoryType.SQLITE
    reflection: Reflection = Reflection()
    tool_use_behavior: ToolUseBehavior = ToolUseBehavior.RUN_LLM_AGAIN

    @property
    def hash(self) -> str:
        """The stamp by which a pod finds its entry: 10 hex digits over all fields."""
        return digest(self.to_wire(), length=10)


class TrafficShare(Document):
    """A share of live requests for the configuration with that hash."""

    config: str
    percent: int = Field(ge=0, le=100)


class Traffic(Document):
    """Shadow: answered by the candidate as well, the user gets the active answer. Canary: answered by it."""

    shadow: TrafficShare | None = None
    canary: TrafficShare | None = None


class AgentConfigFile(Document):
    """The document under the key `agent_config.json` of the agent's ConfigMap.

    `model` and `previous_model` are for people and other programs; pods read `configs` by the hash
    that their template is stamped with (EVOLVING_CONFIG_HASH).
    """

    version: Literal[1] = CONFIG_VERSION
    agent: str
    model: str
    previous_model: str | None = Field(default=None, alias="previous_model")
    configs: dict[str, AgentConfig]
    traffic: Traffic = Traffic()
