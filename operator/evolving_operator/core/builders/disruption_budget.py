"""How many serving pods a voluntary disruption (a node drain) may take at a time."""

from __future__ import annotations

from evolving_operator.api import names
from evolving_operator.core.builders.base import Manifest, object_metadata, with_applied_hash
from evolving_operator.core.builders.context import BuildContext


def build_disruption_budget(context: BuildContext) -> Manifest:
    """One pod at a time, where pods can move.

    With a ReadWriteOnce volume they cannot: all pods share one node, so a replacement of the first
    evicted pod would wait on the drained node for ever, and the budget would never let the second one
    go. There the budget lets the node be drained.
    """
    return with_applied_hash(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": object_metadata(
                context, names.disruption_budget(context.name), names.COMPONENT_AGENT
            ),
            "spec": {
                "maxUnavailable": "100%" if context.store_is_bound_to_one_node else 1,
                "selector": {"matchLabels": names.selector_labels(context.name)},
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        }
    )
