"""What an agent remembers with, opened as its configuration says. A pod without it serves all the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from evolving_agent.contract import env
from evolving_agent.contract.config import AgentConfig, MemoryType
from evolving_agent.memory.errors import MemoryUnavailableError
from evolving_agent.memory.graph import Memory
from evolving_agent.memory.sessions import Sessions
from evolving_agent.memory.sqlite.events import SQLiteEvents
from evolving_agent.memory.sqlite.turns import SQLiteTurns
from evolving_agent.runtime.metrics import Metrics
from evolving_agent.runtime.settings import Settings
from evolving_agent.store.layout import StoreLayout

logger = logging.getLogger(__name__)


class UnusableURIError(Exception):
    """No database could ever be reached so: somebody must mend the Secret."""


@dataclass(frozen=True)
class Remembering:
    """None where the agent has no memory, or cannot have it; `problems` says what is wrong now."""

    memory: Memory | None = None
    sessions: Sessions | None = None
    problems: Callable[[], list[str]] = field(default=list)


async def open_memory(
    config: AgentConfig, settings: Settings, metrics: Metrics, resources: AsyncExitStack
) -> Remembering:
    """What it opens is closed with `resources`. Raises UnusableURIError."""
    match config.memory:
        case MemoryType.SQLITE:
            return await _in_sqlite(config, settings.store, metrics, resources)
        case MemoryType.POSTGRESQL:
            return await _in_postgresql(config, settings, metrics, resources)
        case MemoryType.DISABLED:
            return Remembering()


async def _in_sqlite(
    config: AgentConfig, layout: StoreLayout, metrics: Metrics, resources: AsyncExitStack
) -> Remembering:
    memory = sessions = None
    problems = []
    try:
        events = await asyncio.to_thread(SQLiteEvents.open, layout.memory_database)
        resources.callback(events.close)
        memory = Memory(events)
    except MemoryUnavailableError as error:
        problems.append(f"serving without memory: {error}")
    try:
        turns = await asyncio.to_thread(SQLiteTurns.open, layout.session_database)
        resources.callback(turns.close)
        sessions = Sessions(turns, ttl_seconds=config.sessions.ttl_seconds)
    except MemoryUnavailableError as error:
        problems.append(f"requests of sessions are refused: {error}")
    for problem in problems:
        logger.error("%s", problem)
    metrics.memory_up.labels(MemoryType.SQLITE).set(not problems)
    return Remembering(memory, sessions, lambda: problems)


async def _in_postgresql(
    config: AgentConfig, settings: Settings, metrics: Metrics, resources: AsyncExitStack
) -> Remembering:
    # its driver is loaded by pods that need it alone
    from evolving_agent.memory.postgres.database import PostgresDatabase  # noqa: PLC0415
    from evolving_agent.memory.postgres.events import PostgresEvents  # noqa: PLC0415
    from evolving_agent.memory.postgres.schema import schema_name  # noqa: PLC0415
    from evolving_agent.memory.postgres.turns import PostgresTurns  # noqa: PLC0415
    from evolving_agent.memory.postgres.uri import InvalidURIError  # noqa: PLC0415

    if not settings.memory_uri:
        raise UnusableURIError(f"{env.MEMORY_URI} is empty: put the database's URI into the Secret")
    try:
        database = PostgresDatabase(
            settings.memory_uri,
            schema_name(settings.namespace, settings.agent),
            metrics.memory_up.labels(MemoryType.POSTGRESQL).set,
        )
    except InvalidURIError as error:
        raise UnusableURIError(
            f"the URI in the Secret of spec.agent.memory.connectionSecretRef is none: {error}; it looks like "
            "postgresql://user:password@host:5432/database"
        ) from error
    resources.push_async_callback(database.close)
    await database.open()
    return Remembering(
        Memory(PostgresEvents(database)),
        Sessions(PostgresTurns(database), ttl_seconds=config.sessions.ttl_seconds),
        lambda: [problem] if (problem := database.problem) else [],
    )
