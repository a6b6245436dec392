"""Rows of Markdown, and what was measured beside what it is to be at most."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Goal = dict[str, Any]  # goal, at_most, measured, met


def row(*fields: object) -> str:
    return f"| {' | '.join(map(str, fields))} |"


def goal(name: str, at_most: float, measured: float) -> Goal:
    return {"goal": name, "at_most": at_most, "measured": measured, "met": measured <= at_most}


def goal_rows(goals: Iterable[Goal]) -> list[str]:
    """A table of its own."""
    rows = [row("goal", "at most", "measured", "met"), row("---", "---:", "---:", "---")]
    return rows + [
        row(item["goal"], item["at_most"], item["measured"], "yes" if item["met"] else "**no**")
        for item in goals
    ]
