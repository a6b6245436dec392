"""`agent_config.json`: what a serving pod runs, one entry per revision, and how traffic is shared."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from evolving_agent.contract.base import Document, digest

CONFIG_VERSION = 1
CONFIG_KEY = "agent_config.json"


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
        pattern=r"^https?://[^\s/]+(/\S*)?$",
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

    type: Literal["BuiltIn"]
    name: BuiltinName


class MCPTool(Document):
    """All tools of one MCP server (streamable HTTP)."""

    type: Literal["MCP"]
    name: str
    url: str
    timeout_seconds: int = 30


class HTTPTool(Document):
    """One described HTTP call: the arguments travel as the JSON body (POST) or the query (GET)."""

    type: Literal["HTTP"]
    name: str
    description: str
    method: Literal["GET", "POST"] = "POST"
    url: str
    parameters: dict[str, Any]
    effect: ToolEffect = ToolEffect.WRITE
    timeout_seconds: int = 30


Tool = Annotated[BuiltinTool | MCPTool | HTTPTool, Field(discriminator="type")]


class Specialist(Document):
    """An agent to which the main agent can hand a conversation over."""

    name: str
    description: str
    instructions: str
    tools: tuple[Tool, ...] = ()


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
