"""Is an answer right? Everything that a case expects must hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolving_agent.curation.cases import Expected


@dataclass(frozen=True)
class Said:
    """What an agent answered: its final text, and the calls (name, arguments) that it made."""

    text: str
    calls: Sequence[tuple[str, dict[str, Any]]]


def is_right(expected: Expected, said: Said) -> bool:
    """`answer`: the same text but for spacing; `contains`: whatever the case; `tool`: any of the calls."""
    if expected.answer is not None and _spaced(said.text) != _spaced(expected.answer):
        return False
    if expected.contains is not None and expected.contains.casefold() not in said.text.casefold():
        return False
    tool = expected.tool
    return tool is None or any(
        name == tool.name and is_subset(tool.arguments, arguments) for name, arguments in said.calls
    )


def is_subset(wanted: Any, given: Any) -> bool:
    """Whether `given` holds at least `wanted`: objects may have more fields, all else must be equal."""
    if isinstance(wanted, dict):
        return isinstance(given, dict) and all(
            name in given and is_subset(value, given[name]) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(given, list)
            and len(wanted) == len(given)
            and all(is_subset(left, right) for left, right in zip(wanted, given, strict=True))
        )
    if isinstance(wanted, bool) or isinstance(given, bool):  # in Python, True == 1
        return wanted is given
    return bool(wanted == given)


def _spaced(text: str) -> str:
    return " ".join(text.split())
