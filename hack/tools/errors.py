"""The one error the developer tools show without a traceback."""

from __future__ import annotations


class ToolError(Exception):
    """Something the person at the terminal must act on: what happened, and what to do about it."""

    def __init__(self, what: str, todo: str) -> None:
        super().__init__(what)
        self.what = what
        self.todo = todo

    def __str__(self) -> str:
        return f"{self.what}\n  what to do: {self.todo}"
