"""A watch of ConfigMaps: when did what somebody waits for arrive in one?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from evolving_operator.cluster.connection import Connection
from evolving_operator.cluster.kinds import kind_of

_LINE_BYTES = 1 << 20


@dataclass
class Changes:
    """Of all namespaces. `expect` before the change is asked for."""

    _expected: dict[str, asyncio.Future[float]] = field(default_factory=dict)

    def expect(self, text: str) -> asyncio.Future[float]:
        """When (time.monotonic()) the text is first seen in an event."""
        self._expected[text] = asyncio.get_running_loop().create_future()
        return self._expected[text]

    def seen(self, line: bytes) -> None:
        now, event = time.monotonic(), line.decode()
        for text in [text for text in self._expected if text in event]:
            self._expected.pop(text).set_result(now)


@asynccontextmanager
async def changes(connection: Connection) -> AsyncIterator[Changes]:
    """Watches from now on."""
    found = Changes()
    url = connection.server + kind_of("v1", "ConfigMap").path(None)
    async with connection.session() as session:
        async with session.get(url, params={"limit": "1"}) as answer:
            version = json.loads(await answer.read())["metadata"]["resourceVersion"]
        query = {"watch": "1", "resourceVersion": version}
        async with session.get(url, params=query, read_bufsize=_LINE_BYTES) as stream:

            async def follow() -> None:
                async for line in stream.content:
                    found.seen(line)

            task = asyncio.create_task(follow())
            try:
                yield found
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
