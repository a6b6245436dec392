"""What the experience log holds: one JSON document per line, each with its schema's version.

Serving pods write these with `ExperienceLog`; curation reads them back. Text fields hold what was
said; nothing is redacted before curation, because a dataset is made again when redaction improves.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

SCHEMA_VERSION = 1


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a tool: its arguments as parsed JSON, its result as text."""

    name: str
    arguments: dict[str, Any]
    result: str | None = None
    error: str | None = None
    stubbed: bool = False  # a shadow or dry run does not execute tools that write
    cut: bool = False  # the result was longer than the tool's may be
    agent: str = ""  # the specialist that called it; "" for the main agent


class Episode(msgspec.Struct, frozen=True, kw_only=True, tag="episode", tag_field="type"):
    """One answered (or failed) request. `id` is the completion ID that the client saw."""

    v: int = SCHEMA_VERSION
    id: str
    time: str  # RFC 3339, UTC
    agent: str
    revision: str
    model: str
    arm: str  # "active", "canary" or "shadow"
    session: str | None = None
    messages: list[dict[str, Any]]  # the conversation as the model had it: role, content, calls of tools
    system: str  # the instructions that the run had, recalled memory included
    instructions: str = ""  # the same without recalled memory: what a dataset teaches under; "" if unknown
    tools: list[dict[str, Any]] = []  # the agent's tools on offer, in OpenAI's function shape
    client_tools: list[dict[str, Any]] = []  # those that the client brought
    answer_format: dict[str, Any] | None = None  # `response_format`, where the client asked for JSON
    tool_calls: list[ToolCall] = []
    agent_path: list[str] = []  # the agents that took part, in order: a hand-off shows here
    answer: str = ""
    client_calls: list[dict[str, Any]] = []  # `tool_calls` for the client to make: the answer is yet to come
    error: str | None = None
    seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    shadow_of: str | None = None


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """What should have been answered: a text, a tool call, or both."""

    answer: str | None = None
    tool_name: str | None = None
    tool_arguments: dict[str, Any] | None = None


class ReflectionSource(StrEnum):
    AFTER_RUN = "after_run"
    TOOL = "tool"
    FEEDBACK = "feedback"


class ReflectionRecord(msgspec.Struct, frozen=True, kw_only=True, tag="reflection", tag_field="type"):
    """What went wrong and what would have been right, by the agent itself or by a person's feedback."""

    v: int = SCHEMA_VERSION
    id: str
    episode: str  # Episode.id
    time: str
    agent: str
    revision: str
    source: ReflectionSource
    query: str
    task_type: str = "general"
    outcome: str = "unknown"  # "success", "failure" or "unknown"
    score: int | None = None  # 0 to 100
    tool_trace: list[ToolCall] = []
    answer: str = ""
    mistakes: list[str] = []
    uncertainties: list[str] = []
    missing_context: list[str] = []
    correction: Correction | None = None
    lesson: str = ""
    comment: str = ""
    unparsed: str | None = None  # what the model said, where it was not a reflection


class Gap(msgspec.Struct, frozen=True, kw_only=True, tag="gap", tag_field="type"):
    """What the log lacks: so many records before this line were dropped while the store refused writes."""

    v: int = SCHEMA_VERSION
    time: str
    kind: str  # "episode" or "reflection"
    lost: int


Record = Episode | ReflectionRecord


def utc_now() -> str:
    """RFC 3339, UTC, milliseconds: the form of every `time` in the log."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
