"""What a client asks, whichever of the two APIs it uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evolving_agent.runtime.sampling import UNASKED, Sampling


@dataclass(frozen=True)
class Question:
    """`messages` are OpenAI's chat messages: of a session, or of a chain of responses, the new ones alone."""

    messages: list[dict[str, Any]]
    sampling: Sampling = UNASKED
    session: str | None = None  # whose history comes before the messages
    continues: str | None = None  # the response before the messages
    keep: bool = False  # the answer is to be continued later
    field: str = "messages"  # what the API calls them
    dry_run: bool = False  # tools that write are stubbed, nothing is learned or kept
    request_key: str = ""  # the client's own for this request, the same when it asks again

    @property
    def brings_history(self) -> bool:
        """Whether the client itself says what was answered before, as clients without sessions do."""
        return self.continues is None and any(
            message.get("role") == "assistant" for message in self.messages if isinstance(message, dict)
        )

    @property
    def is_kept(self) -> bool:
        return not self.dry_run and (self.keep or self.session is not None)
