"""Cases of an evaluation suite: one JSON object per line.

The evaluation asks and grades them; curation keeps their inputs out of the training data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evolving_agent.contract import env
from evolving_agent.contract.base import digest
from evolving_agent.curation.similarity import normalised


class ExpectedTool(BaseModel):
    """A call of this tool, whose arguments hold at least these."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    arguments: dict[str, Any] = {}


class Expected(BaseModel):
    """What a right answer shows. All that is named must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    answer: str | None = None
    contains: str | None = Field(default=None, min_length=1)
    tool: ExpectedTool | None = None

    @model_validator(mode="after")
    def _something_is_expected(self) -> Expected:
        if self.answer is None and self.contains is None and self.tool is None:
            raise ValueError("name at least one of answer, contains and tool")
        return self


class Case(BaseModel):
    """One validation query: a text, or a conversation that ends with the word of the user or of a tool."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    input: str | None = Field(default=None, min_length=1)
    messages: tuple[dict[str, Any], ...] | None = Field(default=None, min_length=1)
    expected: Expected
    taskType: str = "general"  # noqa: N815 - a field of the file format, spelt as everything on the wire is

    @model_validator(mode="after")
    def _one_input(self) -> Case:
        if (self.input is None) == (self.messages is None):
            raise ValueError("give either input or messages")
        return self

    @property
    def conversation(self) -> tuple[dict[str, Any], ...]:
        """The input as chat messages."""
        if self.messages is not None:
            return self.messages
        return ({"role": "user", "content": self.input},)


class CaseError(ValueError):
    """A case file that cannot be read; the message begins with file, line and field."""


@dataclass(frozen=True)
class CaseSet:
    """The cases of one suite, in the order of the file."""

    cases: tuple[Case, ...]

    @property
    def digest(self) -> str:
        """Changes when a case does: the key under which results may be used again."""
        return digest([case.model_dump(mode="json") for case in self.cases], length=16)


def parse_cases(lines: list[str], source: str) -> CaseSet:
    """Cases of a JSON Lines file. Raises CaseError, e.g. `cases.jsonl:3: expected.tool.name: …`."""
    cases: dict[str, Case] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            case = Case.model_validate_json(line)
        except ValidationError as problem:
            first = problem.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "(line)"
            raise CaseError(f"{source}:{number}: {field}: {first['msg']}") from problem
        if case.id in cases:
            raise CaseError(f"{source}:{number}: id: {case.id!r} is there already")
        cases[case.id] = case
    if not cases:
        raise CaseError(f"{source}: there is no case in it")
    return CaseSet(tuple(cases.values()))


def read_cases(path: Path) -> CaseSet:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as problem:
        raise CaseError(f"{path}: {problem}") from problem
    return parse_cases(text.splitlines(), str(path))


def mounted_case_files(suites_dir: Path) -> list[Path]:
    """`<dir>/<suite>/cases.jsonl` of all suites that are mounted, sorted."""
    return sorted(suites_dir.glob(f"*/{env.SUITE_FILE}"))


def input_text(messages: tuple[dict[str, Any], ...]) -> str:
    """The normalised input of a conversation: what duplicates, splits and overlaps are decided by.

    One user message is its own text; of a longer conversation every turn counts, with its role.
    """
    if len(messages) == 1:
        return normalised(str(messages[0].get("content") or ""))
    turns = (f"{message.get('role', '')} {message.get('content') or ''}" for message in messages)
    return normalised("\n".join(turns))
