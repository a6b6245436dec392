"""What was said before: the history that a request continues, and the turn that it adds."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from evolving_agent.contract import config
from evolving_agent.memory.errors import MemoryUnavailableError
from evolving_agent.memory.sessions import Bounds, History, Message, Sessions, Turn, UnknownTurnError
from evolving_agent.runtime.errors import RefusedError, RequestError
from evolving_agent.runtime.metrics import Metrics
from evolving_agent.runtime.question import INSTRUCTING, Question
from evolving_agent.runtime.trace import RunResult
from evolving_agent.runtime.unfinished import call_ids, with_work

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Past:
    """What a question continues: nothing, for most. `session` is where its own turn will belong."""

    session: str | None = None
    messages: tuple[Message, ...] = ()
    config: str | None = None  # hash of the configuration that answers the session


class Conversations:
    """`sessions` is None where the agent has no memory; then nothing is kept and nothing can be continued.

    With `broken` it should have one: then only requests that need no history are answered.
    """

    def __init__(
        self, sessions: Sessions | None, bounds: config.Sessions, metrics: Metrics, *, broken: bool = False
    ) -> None:
        self._sessions = sessions
        self._broken = broken
        self._bounds = Bounds(bounds.max_turns, bounds.max_tokens)
        self._metrics = metrics

    @property
    def kept(self) -> bool:
        return self._sessions is not None

    async def past_of(self, question: Question) -> Past:
        """Raises RequestError: for an unknown turn, or where the database cannot be read now.

        An answer that forgets the conversation would be wrong without anybody noticing.
        """
        sessions = self._sessions
        if self._broken and (question.continues or question.session) and not question.brings_history:
            raise _unreadable()
        if question.continues is not None:
            history = await self._chain(question.continues)
        elif question.session is not None and sessions is not None:
            session = question.session
            history = await self._read(sessions.of_session(session, self._bounds))
        else:
            return Past(question.session)
        session = question.session or history.session
        if question.brings_history:  # the client keeps it: the agent's copy would say everything twice
            return Past(session, (), history.config)
        return Past(session, tuple(history.messages), history.config)

    async def assign(self, session: str, config_hash: str) -> None:
        """Notes who answers the session. Without the note it may change arms in a canary: no harm done."""
        if self._sessions is None:
            return
        try:
            await self._sessions.assign(session, config_hash)
        except MemoryUnavailableError as error:
            self._lost("the arm of a session is not noted", error)

    async def with_own_work(self, messages: list[Any]) -> list[Any]:
        """The messages, and where they answer calls of a client's tools, what the agent did beside those.

        Raises RequestError where that cannot be read now: the agent would do it again.
        """
        if not (calls := call_ids(messages)):
            return messages
        if self._broken:
            raise _unreadable()
        sessions = self._sessions
        if sessions is None:
            return messages
        work = await self._read(sessions.work_of(calls))
        return with_work(messages, work) if work else messages

    async def keep_work(self, result: RunResult) -> None:
        """So that the run which continues this one need not do it again; as `keep`."""
        sessions, calls = self._sessions, [call.id for call in result.client_calls]
        if sessions is None:
            return
        try:
            await sessions.keep_work(calls, result.work)
        except MemoryUnavailableError as error:
            self._lost("the agent's own calls beside a client's are forgotten", error)

    async def keep(
        self, question: Question, turn_id: str, past: Past, result: RunResult, response: dict[str, Any] | None
    ) -> None:
        """Adds the turn, so that any pod can continue it. The answer goes out even where that fails."""
        if self._sessions is None:
            return
        turn = Turn(
            id=turn_id,
            session=past.session or turn_id,
            said=[message for message in question.messages if message.get("role") not in INSTRUCTING],
            answer=result.answer,
            previous=question.continues,
            response=response,
            calls=[call.in_message() for call in result.client_calls],
        )
        try:
            await self._sessions.keep(turn)
            self._metrics.turns_kept.labels("ok").inc()
        except MemoryUnavailableError as error:
            self._lost("an answer cannot be continued", error)

    async def response(self, turn_id: str) -> dict[str, Any]:
        """A response that was kept. Raises RequestError."""
        sessions = self._needed("response_id")
        return await self._found(turn_id, "response_id", 404, sessions.response(turn_id))

    async def delete(self, turn_id: str) -> None:
        """Raises RequestError."""
        sessions = self._needed("response_id")
        await self._found(turn_id, "response_id", 404, sessions.delete(turn_id))

    async def _chain(self, turn_id: str) -> History:
        sessions = self._needed("previous_response_id")
        return await self._found(turn_id, "previous_response_id", 400, sessions.before(turn_id, self._bounds))

    def _needed(self, param: str) -> Sessions:
        if self._sessions is None:
            message = "this agent keeps no responses: it has no memory (agent.memory.type: Disabled)"
            raise RefusedError("invalid", 400, message, code="unsupported_parameter", param=param)
        return self._sessions

    async def _found(self, turn_id: str, param: str, status: int, read: Awaitable[T]) -> T:
        try:
            return await self._read(read)
        except UnknownTurnError as error:
            message = f"no response {turn_id!r} is kept here: it never was (store: false), or has expired"
            code = "previous_response_not_found" if status == 400 else "response_not_found"
            raise RequestError(status, message, code=code, param=param) from error

    async def _read(self, read: Awaitable[T]) -> T:
        try:
            return await read
        except MemoryUnavailableError as error:
            logger.error("a request is refused, for its conversation cannot be read: %s", error)
            raise _unreadable() from error

    def _lost(self, what: str, error: MemoryUnavailableError) -> None:
        self._metrics.turns_kept.labels("failed").inc()
        logger.error("%s: %s", what, error)


def _unreadable() -> RefusedError:
    return RefusedError(
        "no_history",
        503,
        "the conversation so far cannot be read now",
        kind="unavailable",
        code="SessionsUnavailable",
        retry_after=1.0,
    )
