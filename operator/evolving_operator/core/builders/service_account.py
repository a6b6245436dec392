"""The identity of an agent's pods. They hold no Kubernetes credentials: no token is ever mounted."""

from __future__ import annotations

from evolving_operator.api import names
from evolving_operator.core.builders.base import Manifest, object_metadata, with_applied_hash
from evolving_operator.core.builders.context import BuildContext


def build_service_account(context: BuildContext) -> Manifest:
    return with_applied_hash(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": object_metadata(context, names.service_account(context.name), names.COMPONENT_AGENT),
            "automountServiceAccountToken": False,
        }
    )
