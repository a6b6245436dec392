"""Asks an agent all cases of a suite: by its own loop, or through the Service that its users ask."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from evolving_agent.chat.endpoint import ModelEndpoint, ModelError
from evolving_agent.contract import env
from evolving_agent.contract.config import AgentConfig
from evolving_agent.curation.cases import Case, CaseSet
from evolving_agent.evaluation.graders import Said, is_right
from evolving_agent.runtime.conversation import InvalidMessagesError
from evolving_agent.runtime.loop import run_agent
from evolving_agent.runtime.tools.toolbox import Toolbox

CASES_AT_ONCE = 4
SERVICE_TIMEOUT_SECONDS = 180.0
TRIES = 6
FIRST_PAUSE_SECONDS = 0.5
_SERVICE_IS_BUSY = {429, 500, 502, 503, 504}

log = logging.getLogger(__name__)
Ask = Callable[[Case], Awaitable[Said]]


class UnansweredError(Exception):
    """A case got no answer, so the suite has no score. `permanent`: somebody must act first."""

    def __init__(self, reason: str, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.permanent = permanent


async def scores(cases: CaseSet, ask: Ask, who: str) -> list[bool]:
    """Right or wrong for every case, in the suite's order. Raises UnansweredError when one is unanswered.

    After that no further case is asked; those under way are waited for, because the agent loop does not take
    a cancellation well.
    """
    slots = asyncio.Semaphore(CASES_AT_ONCE)
    started, done = time.monotonic(), 0
    unanswered: list[UnansweredError] = []

    async def one(case: Case) -> bool:
        nonlocal done
        async with slots:
            if unanswered:
                return False
            try:
                right = is_right(case.expected, await ask(case))
            except UnansweredError as error:
                unanswered.append(error)
                return False
        done += 1
        if done % 10 == 0 or done == len(cases.cases):
            log.info("%s: %d of %d cases, %.0f s", who, done, len(cases.cases), time.monotonic() - started)
        return right

    right = await asyncio.gather(*(one(case) for case in cases.cases))
    if unanswered:
        raise unanswered[0]
    return right


def through_the_loop(config: AgentConfig, endpoint: ModelEndpoint, toolbox: Toolbox) -> Ask:
    """Asks as a pod with this configuration answers, without memory; tools that write are stubbed."""

    async def ask(case: Case) -> Said:
        try:
            result = await run_agent(
                config, list(case.conversation), endpoint=endpoint, toolbox=toolbox, dry_run=True
            )
        except ModelError as error:
            raise UnansweredError(error.reason.value, error.message, permanent=error.permanent) from error
        except InvalidMessagesError as error:
            raise UnansweredError("InvalidSuite", f"case {case.id}: {error}", permanent=True) from error
        return Said(result.answer, [(call.name, call.arguments) for call in result.tool_calls])

    return ask


def through_the_service(client: httpx.AsyncClient, revision: str) -> Ask:
    """Asks the agent's own API, and takes only what `revision` answers.

    `client` has the Service as its base URL. Where another revision answers, the case is asked again: a pod
    that is about to end may still answer for a moment.
    """

    async def ask(case: Case) -> Said:
        pause, problem = FIRST_PAUSE_SECONDS, UnansweredError("ServiceUnreachable", "", permanent=False)
        for _ in range(TRIES):
            try:
                return _said(await _asked(client, case), revision)
            except UnansweredError as error:
                if error.permanent:
                    raise
                problem = error
            await asyncio.sleep(pause)
            pause *= 2
        raise problem

    return ask


async def _asked(client: httpx.AsyncClient, case: Case) -> dict[str, Any]:
    try:
        response = await client.post(
            "/v1/chat/completions",
            json={"model": "agent", "messages": list(case.conversation)},
            headers={env.DRY_RUN_HEADER: "true"},
        )
    except httpx.HTTPError as error:
        message = f"{client.base_url}: {type(error).__name__} {error}"
        raise UnansweredError("ServiceUnreachable", message, permanent=False) from error
    if response.status_code != httpx.codes.OK:
        message = (
            f"{client.base_url} answered {response.status_code} to case {case.id}: {response.text[:200]}"
        )
        busy = response.status_code in _SERVICE_IS_BUSY
        raise UnansweredError("ServiceUnavailable" if busy else "CaseRefused", message, permanent=not busy)
    body: dict[str, Any] = response.json()
    return body


def _said(body: dict[str, Any], revision: str) -> Said:
    details = body.get("evolving_agents") or {}
    if details.get("revision") != revision:
        message = f"revision {details.get('revision')} answered instead of {revision}"
        raise UnansweredError("WrongRevision", message, permanent=False)
    calls = [(call["name"], call.get("arguments") or {}) for call in details.get("tool_calls", ())]
    message = body["choices"][0]["message"]
    return Said(message.get("content") or message.get("refusal") or "", calls)
