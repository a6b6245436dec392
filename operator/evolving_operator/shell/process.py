"""The operator's process: it begins, watches and works side by side, and leaves in good order."""

from __future__ import annotations

import asyncio
import gc
import signal

from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.connection import Connection
from evolving_operator.cluster.live import LiveGateway
from evolving_operator.cluster.records import AgentKey
from evolving_operator.settings import Settings
from evolving_operator.shell import telemetry as telemetry_server
from evolving_operator.shell.leader import LeaseSettings
from evolving_operator.shell.operator import Operator
from evolving_operator.shell.telemetry import Telemetry
from evolving_operator.shell.watching import Watching
from evolving_operator.shell.workqueue import WorkQueue

# So long watches may take to end, once the work has ended.
_STOP_SECONDS = 10.0
# Objects between two searches for garbage. A decision makes thousands and hardly any are cycles: Python's 700
# would search through them several times while it is made (6 % of a start on thousands of agents).
_GARBAGE_THRESHOLDS = (50_000, 20, 20)


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises what ended it otherwise: a lost Lease, a watch that gave up."""
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    connection = Connection.load()
    lease = LeaseSettings(settings.lease_namespace, settings.lease_name, settings.lease_seconds)
    cache, queue = Cache(), WorkQueue[AgentKey]()
    telemetry = Telemetry(cache, queue.__len__)
    async with LiveGateway(connection, telemetry.requested) as gateway:
        operator = Operator(settings, gateway, gateway, cache, queue, telemetry, lease)
        server = await telemetry_server.serve(telemetry, operator.probes, settings.metrics_port)
        try:
            await _until_stopped(operator, gateway, connection)
        finally:
            await server.cleanup()


async def _until_stopped(operator: Operator, gateway: LiveGateway, connection: Connection) -> None:
    """Run kopf's watches and our work side by side, until the work ends or a signal comes."""
    stopping, watches_stop = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def heed_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)

    heed_signals()
    watching = Watching(operator, gateway, connection, watches_stop, heed_signals)
    watches = asyncio.create_task(watching.run(), name="watches")
    work = asyncio.create_task(operator.work(), name="work")
    stop = asyncio.create_task(stopping.wait(), name="stop")
    await asyncio.wait({watches, work, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not work.done():
        work.cancel()
    await asyncio.wait({work})
    watches_stop.set()
    operator.watches_due.set()  # they may still wait to begin
    await asyncio.wait({watches}, timeout=_STOP_SECONDS)
    watches.cancel()  # a request of theirs may not be answered for long
    for outcome in await asyncio.gather(work, watches, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
    if not stopping.is_set():
        raise RuntimeError("the watches ended by themselves")
