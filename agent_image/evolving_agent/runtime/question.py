"""What a client asks, whichever of the two APIs it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from evolving_agent.runtime.asked import NOTHING_ASKED, Asked
from evolving_agent.runtime.unfinished import call_ids, calls_tools

INSTRUCTING = ("system", "developer")  # said anew with each request, never part of a history


@dataclass(frozen=True)
class Question:
    """`messages` are OpenAI's chat messages: of a session, or of a chain of responses, the new ones alone."""

    messages: list[dict[str, Any]]
    asked: Asked = NOTHING_ASKED
    session: str | None = None  # whose history comes before the messages
    continues: str | None = None  # the response before the messages
    keep: bool = False  # the answer is to be continued later
    field: str = "messages"  # what the API calls them
    dry_run: bool = False  # tools that write are stubbed, nothing is learned or kept
    request_key: str = ""  # the client's own for this request, the same when it asks again

    @property
    def brings_history(self) -> bool:
        """Whether the client itself says what was answered before, as clients without sessions do.

        The calls that it answers first of all are no history: some clients repeat them, some do not.
        """
        if self.continues is not None:
            return False
        said = self._said
        if said and calls_tools(said[0]):
            said = said[1:]
        return any(message.get("role") == "assistant" for message in said)

    def after(self, past: Sequence[dict[str, Any]]) -> Question:
        """The question without calls that it repeats from the end of what was said before."""
        if not (waiting := call_ids(past[-1:])):
            return self
        said = self._said
        if call_ids(said[:1]) != waiting:
            return self
        return replace(self, messages=[message for message in self.messages if message is not said[0]])

    @property
    def _said(self) -> list[dict[str, Any]]:
        return [
            message
            for message in self.messages
            if isinstance(message, dict) and message.get("role") not in INSTRUCTING
        ]

    @property
    def is_kept(self) -> bool:
        return not self.dry_run and (self.keep or self.session is not None)
