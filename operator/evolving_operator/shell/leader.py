"""Leader election by a Lease: of several operator pods, one decides.

Clocks are never compared: a holder is gone when its Lease has not changed for as long as it lasts, by
the watcher's own clock. A leader that cannot renew in time ends its process, so that what it had begun
cannot go on beside the next leader's work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from evolving_operator.cluster.errors import AlreadyExists, ClusterError, Conflict, NotFound
from evolving_operator.cluster.gateway import Gateway
from evolving_operator.cluster.kinds import LEASE

logger = logging.getLogger(__name__)

# What a Lease lasts that its holder has given back, here and in other programs: nobody else writes this.
_RELEASED_SECONDS = 1
_RELEASE_SECONDS = 5.0
_AFTER_SILENCE_SECONDS = 0.1

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
        self._runs_out_at = 0.0  # where nothing more is seen of it
        self._renewed_at = 0.0
        self._leads = False
        self._has_asked = False  # to hold the Lease: it may, though it was never told so
        self._stirred = asyncio.Event()  # the Lease is to be looked at before its time
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
            await self._pause(min(self._settings.interval, self._until_run_out()))

    def seen(self, lease: Raw) -> None:
        """A watch has brought this state of the Lease, without a spec where it was deleted.

        Where nobody holds it, a wait is over. Where somebody took it from the leader, that is told.
        """
        holder = (lease.get("spec") or {}).get("holderIdentity")
        if not holder or (self._leads and holder != self._identity):
            self._stirred.set()

    async def keep(self) -> None:
        """Renew the Lease for ever. Raises LeadershipLostError where it is lost, or may be.

        No answer is waited for longer than half of the time that is left: the connection may be dead, and
        another one carry the next try.
        """
        pause = self._settings.interval
        while True:
            await self._pause(pause)
            pause = self._settings.interval
            left = self._renewed_at + self._settings.renew_deadline - self._clock()
            try:
                async with asyncio.timeout(max(0.1, left / 2)):
                    if not await self._try():
                        raise LeadershipLostError(f"another process holds the Lease {self._settings.name}")
            except (ClusterError, TimeoutError) as error:
                if self._clock() - self._renewed_at >= self._settings.renew_deadline:
                    why = str(error) or "no answer in time"
                    raise LeadershipLostError(f"the Lease could not be renewed: {why}") from error
                logger.warning("renewal failed", extra={"error": str(error) or "no answer in time"})
                if isinstance(error, TimeoutError):
                    pause = _AFTER_SILENCE_SECONDS  # it has waited long enough

    def check(self) -> None:
        """Raises LeadershipLostError where the last renewal is so long ago that another may lead by now."""
        silent = self._clock() - self._renewed_at
        if silent >= self._settings.renew_deadline:
            raise LeadershipLostError(f"the Lease was last renewed {silent:.1f} s ago")

    async def release(self) -> None:
        """Let the next process lead at once. Best effort: without it, it waits for the Lease to run out."""
        if not self._has_asked:
            return
        try:
            # Whoever waits for this process to end would kill it after half a minute.
            async with asyncio.timeout(_RELEASE_SECONDS):
                lease = await self._read()
                if lease is None or lease["spec"].get("holderIdentity") != self._identity:
                    return
                self._leads, self._held = False, None
                lease["spec"] |= {
                    "holderIdentity": "",
                    "leaseDurationSeconds": _RELEASED_SECONDS,
                    "renewTime": _now(),
                }
                await self._gateway.replace(lease)
        except (ClusterError, TimeoutError) as error:
            why = str(error) or "no answer in time"
            logger.warning("the Lease was not released", extra={"error": why})

    async def _try(self) -> bool:
        """Take or renew the Lease. False while another process holds it. Raises ClusterError."""
        if self._held is not None:
            try:
                await self._write(self._held)  # one request: a busy server is asked for no more
                return True
            except (Conflict, NotFound):
                self._held = None  # somebody else has written it, or deleted it: see who
        lease = await self._read()
        holder = "" if lease is None else lease["spec"].get("holderIdentity") or ""
        # Nobody's: a person has cleared or deleted it. Who leads takes it back at once, others wait for that.
        is_taken_back = self._leads and not holder
        if holder != self._identity and not is_taken_back and not self._is_free(lease):
            return False
        if lease is None:
            asked_at, self._has_asked = self._clock(), True
            try:
                await self._gateway.create(self._fresh())
            except AlreadyExists:
                return False
            self._leads, self._renewed_at = True, asked_at
            return True
        if holder != self._identity:
            transitions = lease["spec"].get("leaseTransitions") or 0
            lease["spec"] |= {"acquireTime": _now(), "leaseTransitions": transitions + 1}
        await self._write(lease)
        return True

    async def _write(self, lease: Raw) -> None:
        """This process holds it, from now on: counted from before the request, not from its answer."""
        asked_at, self._has_asked = self._clock(), True
        lease["spec"] |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._settings.seconds)),
            "renewTime": _now(),
        }
        stored = await self._gateway.replace(lease)
        self._held = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, **stored}
        self._leads, self._renewed_at = True, asked_at

    def _is_free(self, lease: Raw | None) -> bool:
        """Whether nobody can be leading by what was seen of the Lease, and when.

        That nobody holds it, or that there is none, tells nothing where it was not the leader's own doing:
        the leader may not know yet, and goes on for as long as it had the Lease.
        """
        spec: Raw = {} if lease is None else lease["spec"]
        holder, seconds = spec.get("holderIdentity") or "", spec.get("leaseDurationSeconds") or 0
        if lease is None and self._seen is None:
            return True  # there never was one
        if lease is not None and not holder and seconds == _RELEASED_SECONDS:
            return True
        state = (holder, spec.get("renewTime") or "")
        if state != self._seen:
            self._seen, self._runs_out_at = state, self._clock() + max(self._settings.seconds, float(seconds))
            return False
        return self._clock() >= self._runs_out_at

    def _until_run_out(self) -> float:
        """Seconds until the Lease runs out, by what was seen of it; no end where it has, or is not known."""
        left = self._runs_out_at - self._clock()
        return math.inf if left <= 0 else left + 0.01

    async def _pause(self, seconds: float) -> None:
        """Wait that long, or until a watch brings what cannot wait."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        self._stirred.clear()

    async def _read(self) -> Raw | None:
        try:
            lease = await self._gateway.read(LEASE, self._settings.namespace, self._settings.name)
        except NotFound:
            return None
        lease = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, **lease}
        return lease | {"spec": dict(lease.get("spec") or {})}

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
