"""The form that an answer is asked for: any JSON object, or one that fits a schema."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from evolving_agent.contract.config import ModelAPI


@dataclass(frozen=True)
class AnswerFormat:
    """`schema` is a JSON schema, or None for any JSON object; None elsewhere leaves it to the server."""

    schema: dict[str, Any] | None = None
    name: str = "answer"
    strict: bool | None = None
    description: str | None = None

    def settings(self, api: ModelAPI) -> dict[str, Any]:
        """The parameter by which each of the two APIs is asked for it."""
        if api is ModelAPI.RESPONSES:
            return {"text": {"format": self.of_responses()}}
        return {"response_format": self.of_chat()}

    def of_chat(self) -> dict[str, Any]:
        """`response_format` of Chat Completions."""
        if self.schema is None:
            return {"type": "json_object"}
        return {"type": "json_schema", "json_schema": self._named()}

    def of_responses(self) -> dict[str, Any]:
        """`text.format` of Responses."""
        return {"type": "json_object"} if self.schema is None else {"type": "json_schema", **self._named()}

    def problem(self, answer: str) -> str | None:
        """What keeps a client from reading the answer as JSON; whether it fits the schema is not checked."""
        try:
            read = json.loads(answer)
        except (ValueError, RecursionError) as error:
            return f"the client asked for JSON, and the answer is none: {error}"
        if self.schema is None and not isinstance(read, dict):
            return "the client asked for a JSON object, and the answer is another value"
        return None

    def _named(self) -> dict[str, Any]:
        said = {"description": self.description, "strict": self.strict}
        return {"name": self.name, "schema": self.schema} | {
            key: value for key, value in said.items() if value is not None
        }
