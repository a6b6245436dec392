"""A cluster in memory whose watches are frozen: what is known is what was listed, or written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from evolving_operator.cluster.kinds import Kind
from evolving_operator.cluster.records import ListPart, parse_list
from evolving_operator.testing.fake_cluster import FakeCluster


class SilentWatches:
    """Lists what the cluster has; its watches tell nothing."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster

    async def listed(self, kind: Kind, namespace: str | None) -> AsyncIterator[ListPart]:
        items, version = self._cluster.listed(kind, namespace)
        text = json.dumps({"metadata": {"resourceVersion": version}, "items": items})
        yield parse_list(kind, text.encode())

    async def lines(
        self, kind: Kind, namespace: str | None, version: str, *, seconds: int, silent: float
    ) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""
