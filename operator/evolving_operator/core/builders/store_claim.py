"""The volume that holds an agent's experience, datasets and memory."""

from __future__ import annotations

from evolving_operator.api import names
from evolving_operator.api.models import DeletionPolicy
from evolving_operator.core.builders.base import Manifest, object_metadata, with_applied_hash
from evolving_operator.core.builders.context import BuildContext


def build_store_claim(context: BuildContext, *, asked: str | None = None, sets_size: bool = True) -> Manifest:
    """Owned by the agent only under deletionPolicy Delete: else it stays for a new agent of that name.

    Without `sets_size` it stays as large as another has made it: it cannot shrink, and the API server would
    refuse the whole object. The annotation tells whether the user has changed `spec.storage` since.
    `asked` is the size that was asked for before, where the cluster does not give the one in the spec.

    Raises ValueError for a spec whose storage is an object store.
    """
    volume = context.spec.storage.claim
    if volume is None:
        raise ValueError(f"{context.name} keeps its experience in an object store: it has no volume to claim")
    size = asked or volume.size
    spec: Manifest = {"accessModes": [mode.value for mode in volume.access_modes]}
    if sets_size:
        spec["resources"] = {"requests": {"storage": size}}
    if volume.storage_class_name is not None:
        spec["storageClassName"] = volume.storage_class_name
    return with_applied_hash(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": object_metadata(
                context,
                names.store_claim(context.name),
                names.COMPONENT_AGENT,
                annotations={names.ANNOTATION_SIZE: size},
                owned=context.spec.deletion_policy is DeletionPolicy.DELETE,
            ),
            "spec": spec,
        }
    )
