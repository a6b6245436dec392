"""One step of an agent's history: why, the status that commits it, and what must exist before that."""

from __future__ import annotations

from dataclasses import dataclass

from evolving_operator.api.models import EvolvingAgentStatus
from evolving_operator.core.plan import Action


@dataclass(frozen=True)
class Because:
    """Why something is done: a CamelCase reason, and words for people."""

    reason: str
    message: str


@dataclass(frozen=True)
class Step:
    """`before` is repeatable; only the write of `status` makes the step happen, all of it at once.

    `is_plain`: from the same spec anybody would decide the same again, so what follows from the step need not
    wait for that write.
    """

    status: EvolvingAgentStatus
    before: tuple[Action, ...] = ()
    is_plain: bool = False
