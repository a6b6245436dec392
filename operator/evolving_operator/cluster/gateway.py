"""The door to the API server, as the rest of the operator sees it."""

from __future__ import annotations

from typing import Any, Protocol

from evolving_operator.cluster.kinds import Kind
from evolving_operator.core.plan import Manifest, ObjectRef

Raw = dict[str, Any]


class Gateway(Protocol):
    """Every method raises a `ClusterError`; every write returns the object as it is after it."""

    async def apply(self, manifest: Manifest) -> Raw:
        """Server-side apply of the whole object, taking over fields that others have set."""
        ...

    async def apply_new(self, manifest: Manifest) -> Raw:
        """The same where there is no object of that name yet; Conflict where there is."""
        ...

    async def find(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        """The object as it is now, by the right to list it; None where there is none."""
        ...

    async def overwrite(self, manifest: Manifest) -> Raw:
        """Merge patch: each list becomes the manifest's, without what others have added to it."""
        ...

    async def apply_status(self, manifest: Manifest) -> Raw:
        """Afterwards the status is this one, and conditions of others. Conflict where
        `metadata.resourceVersion` is outdated."""
        ...

    async def create(self, manifest: Manifest) -> Raw:
        """AlreadyExists where the name is taken."""
        ...

    async def delete(self, ref: ObjectRef) -> Raw | None:
        """None where it is gone at once; the object where something still has to be finished."""
        ...

    async def read(self, kind: Kind, namespace: str, name: str) -> Raw: ...

    async def replace(self, manifest: Manifest) -> Raw:
        """PUT. Conflict where `metadata.resourceVersion` is outdated."""
        ...
