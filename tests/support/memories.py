"""An agent's memory as its pods open it, in SQLite or in PostgreSQL."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from evolving_agent.memory.graph import EventStore, Memory
from evolving_agent.memory.postgres.database import PostgresDatabase
from evolving_agent.memory.postgres.events import PostgresEvents
from evolving_agent.memory.postgres.schema import schema_name
from evolving_agent.memory.postgres.turns import PostgresTurns
from evolving_agent.memory.sessions import Sessions, TurnStore
from evolving_agent.memory.sqlite.events import SQLiteEvents
from evolving_agent.memory.sqlite.turns import SQLiteTurns

DAY = 86_400.0
SCHEMA = schema_name("bank", "support")


def unobserved(_up: bool) -> None:
    return


@dataclass
class Pods:
    """Opens what the pods of one agent open."""

    directory: Path
    uri: str | None  # None: SQLite
    resources: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def events(self) -> EventStore:
        if self.uri is not None:
            return PostgresEvents(await self.database(self.uri))
        events = SQLiteEvents.open(self.directory / "memory.db")
        self.resources.callback(events.close)
        return events

    async def turns(self) -> TurnStore:
        if self.uri is not None:
            return PostgresTurns(await self.database(self.uri))
        turns = SQLiteTurns.open(self.directory / "sessions.db")
        self.resources.callback(turns.close)
        return turns

    async def memory(self) -> Memory:
        return Memory(await self.events())

    async def sessions(self) -> Sessions:
        return Sessions(await self.turns(), ttl_seconds=DAY)

    async def database(self, uri: str) -> PostgresDatabase:
        database = PostgresDatabase(uri, SCHEMA, unobserved)
        self.resources.push_async_callback(database.close)
        await database.open()
        return database
