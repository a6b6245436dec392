"""What a client asks of one run beside the conversation."""

from __future__ import annotations

from dataclasses import dataclass

from evolving_agent.chat.answer_format import AnswerFormat
from evolving_agent.runtime.client_tools import ClientTools
from evolving_agent.runtime.sampling import UNASKED, Sampling


@dataclass(frozen=True)
class Asked:
    """`format` is None for plain text, `tools` where the client offers none."""

    sampling: Sampling = UNASKED
    format: AnswerFormat | None = None
    tools: ClientTools | None = None

    @property
    def only_sampling(self) -> Asked:
        """For specialists that are asked as tools: their answer is no answer to the client."""
        return Asked(self.sampling) if self.format or self.tools else self


NOTHING_ASKED = Asked()
