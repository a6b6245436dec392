"""Conversations that the agent keeps for its clients: turns, the sessions they belong to, who answers them.

All pods of the agent share them: any pod continues what another one began. Kept apart from the knowledge
graph, because what is said in a session is forgotten after a time, and what was learned is not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

MAX_KEPT_TURNS = 1_000_000  # of all sessions; the oldest go first
MAX_CALLS_ASKED = 500  # of one conversation
EXPIRED_AT_ONCE = 50  # rows that one new turn deletes: expiry keeps up and no turn waits for it
CHARS_PER_TOKEN = 4  # an estimate: models count differently

Message = dict[str, Any]  # OpenAI's chat message


@dataclass(frozen=True)
class Turn:
    """What a client said, and what it was answered. `previous` is the ID of the turn that it continues.

    With `calls` (a chat message's `tool_calls`) the assistant waits for what the client's tools say.
    """

    id: str
    session: str
    said: list[Message]
    answer: str
    previous: str | None = None
    response: dict[str, Any] | None = None
    calls: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True)
class Bounds:
    """How much of a history comes back. Tokens are estimated, see `estimated_tokens`."""

    turns: int
    tokens: int


@dataclass(frozen=True)
class History:
    """What was said before, oldest first, and in which session. `config` is the hash of who answers it."""

    session: str
    messages: list[Message]
    config: str | None


class UnknownTurnError(LookupError):
    """No such turn is kept: it never was, or it was too long ago."""


@dataclass(frozen=True)
class EncodedTurn:
    """A turn as it is stored: `said`, `response` and `calls` are JSON."""

    id: str
    session: str
    said: str
    answer: str
    previous: str | None
    response: str | None
    calls: str | None


@dataclass(frozen=True)
class Excerpt:
    """Turns of a session, (said as JSON, answer, calls as JSON or None), the newest first."""

    session: str
    turns: Sequence[tuple[str, str, str | None]]
    config: str | None


class TurnStore(Protocol):
    """Where conversations are kept; `since` is when what is not expired begins.

    Every method raises MemoryUnavailableError.
    """

    async def latest(self, session: str, since: float, limit: int) -> Excerpt:
        """The latest turns of a session; none for an unknown one."""

    async def chain(self, turn: str, since: float, limit: int) -> Excerpt | None:
        """The turn, the one it continues, and so on; None for an unknown one."""

    async def assign(self, session: str, config: str, at: float) -> None:
        """Notes who answers the session."""

    async def add(self, turn: EncodedTurn, at: float, since: float) -> None:
        """Adds a turn, keeps its session alive, and deletes some of what is expired."""

    async def add_work(self, calls: Sequence[str], messages: str, at: float, since: float) -> None:
        """Adds the messages (JSON) under each of the calls, and deletes some of what is expired."""

    async def work(self, calls: Sequence[str], since: float) -> Sequence[tuple[str, str]]:
        """(call, messages as JSON) of those that are known."""

    async def response(self, turn: str, since: float) -> str | None:
        """The response, where the turn has one."""

    async def delete(self, turn: str) -> bool:
        """Whether there was a turn with a response, which is now deleted."""

    async def count(self) -> int:
        """Number of turns that are still there."""


class Sessions:
    """Raises MemoryUnavailableError from every method. The store is the caller's to close."""

    def __init__(self, turns: TurnStore, *, ttl_seconds: float) -> None:
        self._turns = turns
        self._ttl_seconds = ttl_seconds

    async def of_session(self, session: str, bounds: Bounds, *, at: float | None = None) -> History:
        """The latest turns of a session within the bounds; an empty history for an unknown one."""
        excerpt = await self._turns.latest(session, self._since(at), bounds.turns)
        return History(session, _within(excerpt.turns, bounds), excerpt.config)

    async def before(self, turn: str, bounds: Bounds, *, at: float | None = None) -> History:
        """The turn and those it continues, one after the other. Raises UnknownTurnError.

        A chain whose older part has expired or was deleted begins where it is still known.
        """
        excerpt = await self._turns.chain(turn, self._since(at), bounds.turns)
        if excerpt is None:
            raise UnknownTurnError(turn)
        return History(excerpt.session, _within(excerpt.turns, bounds), excerpt.config)

    async def assign(self, session: str, config: str, *, at: float | None = None) -> None:
        """From now on the configuration with that hash answers the session."""
        await self._turns.assign(session, config, time.time() if at is None else at)

    async def keep(self, turn: Turn, *, at: float | None = None) -> None:
        """Adds a turn, and deletes some of what has expired."""
        encoded = EncodedTurn(
            turn.id,
            turn.session,
            _encoded(turn.said),
            turn.answer,
            turn.previous,
            None if turn.response is None else _encoded(turn.response),
            _encoded(turn.calls) if turn.calls else None,
        )
        moment = time.time() if at is None else at
        await self._turns.add(encoded, moment, self._since(moment))

    async def keep_work(
        self, calls: Sequence[str], messages: Sequence[Message], *, at: float | None = None
    ) -> None:
        """What a run had done itself before it made these calls (IDs) of the client's tools."""
        moment = time.time() if at is None else at
        await self._turns.add_work(calls, _encoded(messages), moment, self._since(moment))

    async def work_of(self, calls: Sequence[str], *, at: float | None = None) -> dict[str, list[Message]]:
        """By call, for those calls of which it is known; of very many, the latest."""
        found = await self._turns.work(calls[-MAX_CALLS_ASKED:], self._since(at))
        return {call: msgspec.json.decode(messages) for call, messages in found}

    async def response(self, turn: str, *, at: float | None = None) -> dict[str, Any]:
        """The response as it was answered. Raises UnknownTurnError."""
        found = await self._turns.response(turn, self._since(at))
        if found is None:
            raise UnknownTurnError(turn)
        kept: dict[str, Any] = msgspec.json.decode(found)
        return kept

    async def delete(self, turn: str) -> None:
        """Forgets a response: it can be continued no longer. Raises UnknownTurnError."""
        if not await self._turns.delete(turn):
            raise UnknownTurnError(turn)

    async def count(self) -> int:
        """Number of turns that are still there."""
        return await self._turns.count()

    def _since(self, at: float | None) -> float:
        return (time.time() if at is None else at) - self._ttl_seconds


def estimated_tokens(messages: Sequence[Message]) -> int:
    """Of the messages' JSON, which also counts names, tool calls and pictures."""
    return len(msgspec.json.encode(messages)) // CHARS_PER_TOKEN


def _within(newest_first: Sequence[tuple[str, str, str | None]], bounds: Bounds) -> list[Message]:
    """Whole turns, the oldest left out, in the order in which they were said.

    The first one is none that answers calls of a turn that is left out: no model takes such a thing.
    """
    left, turns = bounds.tokens * CHARS_PER_TOKEN, []
    for said, answer, calls in newest_first:
        left -= len(said) + len(answer) + len(calls or "")
        if left < 0:
            break
        turns.append([*msgspec.json.decode(said), _answered(answer, calls)])
    while turns and turns[-1][0].get("role") == "tool":
        turns.pop()
    return [message for turn in reversed(turns) for message in turn]


def _answered(answer: str, calls: str | None) -> Message:
    if calls is None:
        return {"role": "assistant", "content": answer}
    return {"role": "assistant", "content": answer or None, "tool_calls": msgspec.json.decode(calls)}


def _encoded(value: Any) -> str:
    return msgspec.json.encode(value).decode()
