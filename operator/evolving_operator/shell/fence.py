"""No write without the Lease: a process that slept past its end finds out before it writes, not after."""

from __future__ import annotations

from evolving_operator.cluster.gateway import Gateway, Raw
from evolving_operator.cluster.kinds import Kind
from evolving_operator.core.plan import Manifest, ObjectRef
from evolving_operator.shell.leader import Leadership


class Fence:
    """A `Gateway` whose writes raise LeadershipLostError once the Lease may be another's.

    The loop that renews the Lease would notice too, but perhaps a moment later than a worker that wakes up
    from the same sleep with a decision in its hand.
    """

    def __init__(self, gateway: Gateway, leadership: Leadership) -> None:
        self._gateway = gateway
        self._leadership = leadership

    async def apply(self, manifest: Manifest) -> Raw:
        self._leadership.check()
        return await self._gateway.apply(manifest)

    async def apply_new(self, manifest: Manifest) -> Raw:
        self._leadership.check()
        return await self._gateway.apply_new(manifest)

    async def find(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        return await self._gateway.find(kind, namespace, name)

    async def overwrite(self, manifest: Manifest) -> Raw:
        self._leadership.check()
        return await self._gateway.overwrite(manifest)

    async def apply_status(self, manifest: Manifest) -> Raw:
        self._leadership.check()
        return await self._gateway.apply_status(manifest)

    async def create(self, manifest: Manifest) -> Raw:
        self._leadership.check()
        return await self._gateway.create(manifest)

    async def delete(self, ref: ObjectRef) -> Raw | None:
        self._leadership.check()
        return await self._gateway.delete(ref)

    async def replace(self, manifest: Manifest) -> Raw:
        self._leadership.check()
        return await self._gateway.replace(manifest)

    async def read(self, kind: Kind, namespace: str, name: str) -> Raw:
        return await self._gateway.read(kind, namespace, name)
