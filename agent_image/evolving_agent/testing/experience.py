"""Experience for tests: records as serving pods write them, and a store to read them from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from evolving_agent.store.layout import StoreLayout
from evolving_agent.store.records import Correction, Episode, Record, ReflectionRecord, ReflectionSource

ROUTE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "route_request",
        "description": "Hands the request to a team.",
        "parameters": {
            "type": "object",
            "properties": {"team": {"type": "string", "enum": ["cards", "loans", "transfers"]}},
            "required": ["team"],
        },
    },
}


def episode(number: int, text: str, **changes: Any) -> Episode:
    """One answered request; `number` makes its ID and its time."""
    values: dict[str, Any] = {
        "id": f"chatcmpl-{number}",
        "time": f"2026-01-{1 + number // 1440 % 28:02}T{number // 60 % 24:02}:{number % 60:02}:00Z",
        "agent": "support",
        "revision": "support-00000000",
        "model": "base-model",
        "arm": "active",
        "messages": [{"role": "user", "content": text}],
        "system": "Route each request to a team.",
        "tools": [ROUTE_TOOL],
        "agent_path": ["support"],
        "answer": "I am not sure.",
    }
    return Episode(**(values | changes))


def reflection(of: Episode, source: ReflectionSource, **changes: Any) -> ReflectionRecord:
    """A reflection on an episode; a later one than any other by a greater `time` in `changes`."""
    values: dict[str, Any] = {
        "id": f"reflection-{of.id}-{source.value}",
        "episode": of.id,
        "time": of.time,
        "agent": of.agent,
        "revision": of.revision,
        "source": source,
        "query": str(of.messages[-1].get("content")),
    }
    return ReflectionRecord(**(values | changes))


def routed_to(of: Episode, team: str) -> ReflectionRecord:
    """Feedback by a person: the request belonged to that team."""
    correction = Correction(tool_name="route_request", tool_arguments={"team": team})
    return reflection(of, ReflectionSource.FEEDBACK, score=0, correction=correction)


def write_log(layout: StoreLayout, records: Sequence[Record], writer: str = "support-0") -> None:
    """Appends records to the log of one writer."""
    for record in records:
        directory = layout.episodes(writer) if isinstance(record, Episode) else layout.reflections(writer)
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "00000001.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")
