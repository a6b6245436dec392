"""The Service in front of an agent's pods."""

from __future__ import annotations

from evolving_operator.api import names
from evolving_operator.core.builders.base import Manifest, object_metadata, with_applied_hash
from evolving_operator.core.builders.context import BuildContext
from evolving_operator.core.builders.deployment import PORT_NAME


def build_service(context: BuildContext) -> Manifest:
    return with_applied_hash(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": object_metadata(context, names.service(context.name), names.COMPONENT_AGENT),
            "spec": {
                "type": "ClusterIP",
                "selector": names.selector_labels(context.name),
                "ports": [
                    {
                        "name": PORT_NAME,
                        "port": 80,
                        "protocol": "TCP",
                        "appProtocol": "http",
                        "targetPort": PORT_NAME,
                    }
                ],
            },
        }
    )
