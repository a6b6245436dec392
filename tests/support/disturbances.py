"""What a life has to endure for a while: watches that lie, an API server that is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.cluster import RunningCluster, eventually_async, run_tool
from support.lives import Disturbance, Life
from support.recording_proxy import WatchFault

_UP_SECONDS = 120
_CRASH_AGAIN_SECONDS = 1.0


def watches_are(fault: WatchFault, seconds: float) -> Disturbance:
    """All watches of the operator, for so long from the passage's act on."""

    @asynccontextmanager
    async def endured(life: Life) -> AsyncIterator[None]:
        life.proxy.watch_fault = fault
        try:
            yield
            await asyncio.sleep(seconds)
        finally:
            life.proxy.watch_fault = None

    return endured


def api_server_and_etcd_are_gone(cluster: RunningCluster, seconds: float) -> Disturbance:
    """Killed, and killed again whenever they come back; over when the API server is ready again.

    The controllers begin anew then, as those do that have lost their Lease: this one has none to lose, and
    would wait up to a minute before it asks again.
    """

    @asynccontextmanager
    async def endured(life: Life) -> AsyncIterator[None]:
        yield
        end = time.monotonic() + seconds
        while True:
            for component in ("etcd", "kube-apiserver"):
                await asyncio.to_thread(crash, cluster, component)
            if time.monotonic() > end:
                break
            await asyncio.sleep(_CRASH_AGAIN_SECONDS)
        await eventually_async(life.world.api.is_ready, _UP_SECONDS, "the API server is ready again")
        await asyncio.to_thread(crash, cluster, "kube-controller-manager")

    return endured


def crash(cluster: RunningCluster, component: str) -> None:
    """As a power cut would. It may be down already: then it stays so for a while longer."""
    run_tool("cluster", "crash", "--name", cluster.name, component, check=False)
