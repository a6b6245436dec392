"""`agent_config.json`: what a serving pod runs, one entry per revision, and how traffic is shared."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from pydantic import Field

from evolving_agent.contract.base import Document, digest
from evolving_agent.contract.refs import FUNCTION_NAME, HTTP_URL, SecretKeyRef
from evolving_agent.contract.tools import Tool

CONFIG_VERSION: Final = 1
CONFIG_KEY = "agent_config.json"


class ModelAPI(StrEnum):
    CHAT_COMPLETIONS = "ChatCompletions"
    RESPONSES = "Responses"


class HTTPEndpoint(Document):
    """Where an OpenAI-compatible API is, and the key to it."""

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


class Endpoint(HTTPEndpoint):
    """The endpoint of a model that is asked."""

    api: ModelAPI = Field(
        default=ModelAPI.CHAT_COMPLETIONS, description="Which of OpenAI's two text APIs the endpoint speaks."
    )


class ServingEndpoint(Endpoint):
    """The endpoint that answers live requests: what a serving pod may ask of it."""

    connect_timeout_seconds: int = Field(
        default=5, ge=1, le=60, description="A connection that takes longer is given up, and tried again."
    )
    timeout_seconds: int = Field(
        default=100,
        ge=1,
        le=3600,
        description="Longest silence within one call of the model; then it is given up, and tried again.",
    )
    max_concurrent_calls: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Calls of the model that one pod makes at once; further ones wait for their turn.",
    )


class SpecialistMode(StrEnum):
    HANDOFF = "Handoff"
    TOOL = "Tool"


class SpecialistModel(Document):
    """A specialist's own model. What is learned changes the agent's model, never this one."""

    name: str = Field(min_length=1, max_length=256, description="The model, as its endpoint calls it.")
    endpoint: Endpoint | None = Field(
        default=None, description="Where it is served; the agent's own endpoint if absent."
    )


class Specialist(Document):
    """An agent that the main agent hands a conversation over to, or calls as a tool."""

    name: str = Field(
        min_length=1, max_length=50, pattern=FUNCTION_NAME, description="Unique name of the specialist."
    )
    description: str = Field(
        min_length=1, max_length=1024, description="What it is for: when it should be asked."
    )
    mode: SpecialistMode = Field(
        default=SpecialistMode.HANDOFF,
        description="Handoff: it takes the conversation over and answers the user. Tool: it is asked one "
        "thing, sees nothing else of the conversation, and the main agent words the answer.",
    )
    instructions: str = Field(
        min_length=1, max_length=16_384, description="What the specialist is and does: its system prompt."
    )
    model: SpecialistModel | None = Field(
        default=None, description="Its own model; the agent's, learned as it is, if absent."
    )
    timeout_seconds: int = Field(
        default=120,
        ge=1,
        le=3600,
        description="In mode Tool, a question that takes longer fails, and the main agent is told so.",
    )
    tools: tuple[Tool, ...] = Field(
        default=(),
        max_length=32,
        description="What the specialist can call.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


class MemoryType(StrEnum):
    SQLITE = "SQLite"
    POSTGRESQL = "PostgreSQL"
    DISABLED = "Disabled"


class ReflectionMode(StrEnum):
    AFTER_RUN = "AfterRun"
    TOOL = "Tool"
    BOTH = "Both"
    DISABLED = "Disabled"


class ReflectionModel(Document):
    """A model that reflects in place of the agent's own."""

    name: str = Field(min_length=1, max_length=256, description="The model, as its endpoint calls it.")
    endpoint: Endpoint | None = Field(
        default=None, description="Where it is served; the agent's own endpoint if absent."
    )


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
    model: ReflectionModel | None = Field(
        default=None,
        description="Who is asked after a run; the agent's own model, learned as it is, if absent.",
    )


class ToolUseBehavior(StrEnum):
    RUN_LLM_AGAIN = "RunLLMAgain"
    STOP_ON_FIRST_TOOL = "StopOnFirstTool"


class Sessions(Document):
    """How much of a conversation that the agent keeps comes back into a prompt, and for how long."""

    max_turns: int = Field(
        default=50, ge=1, le=1000, description="Latest questions and answers of a session in a prompt."
    )
    max_tokens: int = Field(
        default=8000,
        ge=256,
        le=1_000_000,
        description="Bound of that history, at an estimate of four characters a token. The oldest turns are "
        "left out first.",
    )
    ttl_seconds: int = Field(
        default=86_400,
        ge=60,
        le=31_536_000,
        description="A turn is forgotten so long after it was said.",
    )


class Limits(Document):
    """What one serving pod takes on; what goes beyond is refused with a reason."""

    request_timeout_seconds: int = Field(
        default=120, ge=1, le=3600, description="Deadline of a request, waiting and retries included (504)."
    )
    max_request_bytes: int = Field(
        default=4 * 2**20, ge=1024, le=64 * 2**20, description="Largest body of a request (413)."
    )
    max_input_tokens: int = Field(
        default=100_000,
        ge=16,
        le=10_000_000,
        description="Longest conversation that a request may bring, at an estimate of four characters a "
        "token (400).",
    )
    max_model_calls: int = Field(
        default=8, ge=1, le=100, description="Calls of the model in one run, those after tools included."
    )
    max_concurrent_requests: int = Field(
        default=64, ge=1, le=1024, description="Requests that one pod answers at once."
    )
    max_waiting_requests: int = Field(
        default=128,
        ge=0,
        le=4096,
        description="Requests that wait for one of them to end. Beyond that a request is refused (503) and "
        "told when to come back.",
    )


class Pricing(Document):
    """What tokens cost, in millionths of a US dollar for a million of them: 2.50 USD is 2500000."""

    input_micro_usd: int = Field(
        ge=0, le=10_000_000_000, description="Millionths of a US dollar for a million input tokens."
    )
    output_micro_usd: int = Field(
        ge=0, le=10_000_000_000, description="Millionths of a US dollar for a million output tokens."
    )

    def usd(self, input_tokens: int, output_tokens: int) -> float:
        return (self.input_micro_usd * input_tokens + self.output_micro_usd * output_tokens) / 1e12


class ServedModel(Document):
    id: str
    base_url: str = Field(alias="baseURL")
    api: ModelAPI = ModelAPI.CHAT_COMPLETIONS
    connect_timeout_seconds: int = 5
    timeout_seconds: int = 100
    max_concurrent_calls: int = 64
    max_output_tokens: int | None = None
    temperature_percent: int | None = None
    pricing: Pricing | None = None

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
    sessions: Sessions = Sessions()
    limits: Limits = Limits()
    reflection: Reflection = Reflection()
    tool_use_behavior: ToolUseBehavior = ToolUseBehavior.RUN_LLM_AGAIN

    @property
    def hash(self) -> str:
        """The stamp by which a pod finds its entry: 10 hex digits over all that is not a default.

        So an operator that knows one setting more restarts no pod. Hence a default never changes.
        """
        told = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        return digest(told, length=10)


class TrafficShare(Document):
    """A share of live requests for the configuration with that hash."""

    config: str
    percent: int = Field(ge=0, le=100)


class Traffic(Document):
    """Shadow: answered by the candidate as well, the user gets the active answer. Canary: answered by it."""

    shadow: TrafficShare | None = None
    canary: TrafficShare | None = None
    trial: str | None = Field(
        default=None, description="Tells this trial of a configuration from an earlier one of the same."
    )


class AgentConfigFile(Document):
    """The document under the key `agent_config.json` of the agent's ConfigMap.

    `model` and `previous_model` are for people and other programs; pods read `configs` by the hash
    that their template is stamped with (EVOLVING_CONFIG_HASH). `active` is the hash of the entry that all
    pods are to serve, `previous` that of the one before. A pod whose own model is gone answers with `active`
    where that is another entry (the pod is about to be replaced), else with `previous`. `rolled_out` is the
    hash of the entry that all pods have come to serve: one of its pods may even start without its model. A
    pod of an entry that is on its way must not, or a rollout that fails would look as if it had ended well.
    """

    version: Literal[1] = CONFIG_VERSION
    agent: str
    model: str
    previous_model: str | None = Field(default=None, alias="previous_model")
    active: str | None = None
    previous: str | None = None
    rolled_out: str | None = None
    configs: dict[str, AgentConfig]
    traffic: Traffic = Traffic()
