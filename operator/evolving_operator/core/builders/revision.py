"""The record of one candidate. Its spec is immutable, so it is applied once and never changed."""

from __future__ import annotations

from evolving_operator.api import names
from evolving_operator.api.models import AgentRef, AgentRevisionSpec, RevisionDataset, RevisionTraining
from evolving_operator.core.builders.base import Manifest, object_metadata, with_applied_hash
from evolving_operator.core.builders.context import BuildContext


def build_revision(
    context: BuildContext,
    *,
    name: str,
    model_id: str,
    base: str,
    dataset: RevisionDataset | None,
    training: RevisionTraining | None,
    made_for: str,
) -> Manifest:
    """`decision` is left out: it belongs to people, and the API server's default stands until they speak.

    `made_for`: UID of the agent whose the model is at a provider.
    """
    spec = AgentRevisionSpec(
        agent_ref=AgentRef(name=context.name),
        model_id=model_id,
        base=base,
        dataset=dataset,
        training=training,
    ).to_wire()
    del spec["decision"]
    return with_applied_hash(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.REVISION_KIND,
            "metadata": object_metadata(
                context, name, "revision", annotations={names.ANNOTATION_AGENT_UID: made_for}
            ),
            "spec": spec,
        }
    )
