"""Leader election by a Lease: of several operator pods, one decides.

Clocks are never compared: a holder is gone when its Lease has not changed for as long as it lasts, by
the watcher's own clock. A leader that cannot renew in time ends its process, so that what it had begun
cannot go on beside the next leader's work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from evolving_operator.cluster.errors import AlreadyExists, ClusterError, Conflict, NotFound
from evolving_operator.cluster.gateway import Gateway
from evolving_operator.cluster.kinds import LEASE

logger = logging.getLogger(__name__)

Raw = dict[str, Any]


def _since_boot() -> float:
    """Seconds that go on while the machine is suspended, unlike time.monotonic()."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class LeadershipLostError(Exception):
    """Another process may be deciding now: this one must end."""


@dataclass(frozen=True)
class LeaseSettings:
    namespace: str
    name: str
    seconds: float  # how long a silent holder is waited for

    @property
    def renew_deadline(self) -> float:
        """The leader stops this long after its last renewal: well before another one may begin."""
        return self.seconds * 2 / 3

    @property
    def interval(self) -> float:
        return self.seconds / 6


class Leadership:
    """`acquire`, then `keep` for as long as it lasts, then `release`."""

    def __init__(
        self,
        gateway: Gateway,
        settings: LeaseSettings,
        identity: str,
        *,
        clock: Callable[[], float] = _since_boot,
    ) -> None:
        self._gateway = gateway
        self._settings = settings
        self._identity = identity
        self._clock = clock
        self._seen: tuple[str, str] | None = None  # holder and renewal time, as the Lease last had them
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self._released = asyncio.Event()
        self._held: Raw | None = None  # the Lease as this process last wrote it

    async def acquire(self) -> None:
        """Wait until this process holds the Lease."""
        while True:
            try:
                if await self._try():
                    logger.info("leading", extra={"identity": self._identity})
                    return
            except ClusterError as error:
                logger.warning("no Lease", extra={"error": str(error)})
            self._released.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.interval):
                    await self._released.wait()

    def seen(self, lease: Raw) -> None:
        """A watch has brought this state of the Lease: where nobody holds it, the wait is over."""
        if not (lease.get("spec") or {}).get("holderIdentity"):
            self._released.set()

    async def keep(self) -> None:
        """Renew the Lease for ever. Raises LeadershipLostError where it is lost, or may be."""
        while True:
            await asyncio.sleep(self._settings.interval)
            left = self._renewed_at + self._settings.renew_deadline - self._clock()
            try:
                async with asyncio.timeout(max(0.1, left)):
                    if not await self._try():
                        raise LeadershipLostError(f"another process holds the Lease {self._settings.name}")
            except (ClusterError, TimeoutError) as error:
                if self._clock() - self._renewed_at >= self._settings.renew_deadline:
                    why = str(error) or "no answer in time"
                    raise LeadershipLostError(f"the Lease could not be renewed: {why}") from error
                logger.warning("renewal failed", extra={"error": str(error) or "no answer in time"})

    def check(self) -> None:
        """Raises LeadershipLostError where the last renewal is so long ago that another may lead by now."""
        silent = self._clock() - self._renewed_at
        if silent >= self._settings.renew_deadline:
            raise LeadershipLostError(f"the Lease was last renewed {silent:.1f} s ago")

    async def release(self) -> None:
        """Let the next process lead at once. Best effort: without it, it waits for the Lease to run out."""
        try:
            lease = await self._read()
            if lease is None or lease["spec"].get("holderIdentity") != self._identity:
                return
            lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
            await self._gateway.replace(lease)
        except ClusterError as error:
            logger.warning("the Lease was not released", extra={"error": str(error)})

    async def _try(self) -> bool:
        """Take or renew the Lease. False while another process holds it. Raises ClusterError."""
        if self._held is not None:
            try:
                await self._write(self._held)  # one request: a busy server is asked for no more
                return True
            except Conflict:
                self._held = None  # somebody else has written it: see who
        lease = await self._read()
        if lease is None:
            asked_at = self._clock()
            try:
                await self._gateway.create(self._fresh())
            except AlreadyExists:
                return False
            self._renewed_at = asked_at
            return True
        spec = lease["spec"]
        holder = spec.get("holderIdentity") or ""
        if holder != self._identity and holder and not self._has_run_out(spec):
            return False
        if holder != self._identity:
            transitions = spec.get("leaseTransitions") or 0
            spec |= {"acquireTime": _now(), "leaseTransitions": transitions + 1}
        await self._write(lease)
        return True

    async def _write(self, lease: Raw) -> None:
        """This process holds it, from now on: counted from before the request, not from its answer."""
        asked_at = self._clock()
        lease["spec"] |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._settings.seconds)),
            "renewTime": _now(),
        }
        stored = await self._gateway.replace(lease)
        self._held = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, **stored}
        self._renewed_at = asked_at

    def _has_run_out(self, spec: Raw) -> bool:
        seen = (spec.get("holderIdentity") or "", spec.get("renewTime") or "")
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()
            return False
        return self._clock() - self._seen_at >= float(spec.get("leaseDurationSeconds") or 0)

    async def _read(self) -> Raw | None:
        try:
            lease = await self._gateway.read(LEASE, self._settings.namespace, self._settings.name)
        except NotFound:
            return None
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, **lease}

    def _fresh(self) -> Raw:
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"namespace": self._settings.namespace, "name": self._settings.name},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._settings.seconds)),
                "acquireTime": _now(),
                "renewTime": _now(),
                "leaseTransitions": 0,
            },
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
