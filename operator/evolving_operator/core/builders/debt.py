"""What an agent owes its provider once it is deleted under deletionPolicy Delete, and the Job that pays it.

The Job is written down, whole, while the agent exists: afterwards nobody knows its endpoint any more.
"""

from __future__ import annotations

import json

from evolving_agent.contract import env
from evolving_agent.contract.config import HTTPEndpoint
from evolving_agent.contract.learning import BackendType
from evolving_operator.api import names
from evolving_operator.api.models import DeletionPolicy
from evolving_operator.core.builders.base import Manifest, object_metadata, with_applied_hash
from evolving_operator.core.builders.context import BuildContext
from evolving_operator.core.builders.job import pod_failure_policy, run_id
from evolving_operator.core.builders.pod import confined, endpoint_key, literal, nobody
from evolving_operator.core.builders.strategic import merged_into_nothing

DEBT_KEY = "release-job.json"
_DEADLINE_SECONDS = 3600
_BACKOFF_LIMIT = 6
# Of what users add to pods: what a pod without the agent's volumes and sidecars may need to start at all.
TAKEN_FROM_TEMPLATE = ("imagePullSecrets", "nodeSelector", "tolerations", "priorityClassName", "dnsConfig")


def provider_endpoint(context: BuildContext) -> HTTPEndpoint | None:
    """The provider that trains for the agent, and keeps what came of it; None where none does."""
    training = context.spec.training
    if training is None or training.backend.type is not BackendType.OPENAI:
        return None
    block = training.backend.open_ai
    return (block.endpoint if block is not None else None) or context.spec.model.endpoint


def owes_provider(context: BuildContext) -> bool:
    """Whether the provider is to forget the agent with its deletion."""
    is_deleted_too = context.spec.deletion_policy is DeletionPolicy.DELETE
    return is_deleted_too and provider_endpoint(context) is not None


def build_provider_debt(context: BuildContext) -> Manifest:
    """Not owned by the agent: it is there to outlive it. Raises ValueError where nothing is owed."""
    endpoint = provider_endpoint(context)
    if endpoint is None:
        raise ValueError(f"{context.name} has nothing at a provider")
    return with_applied_hash(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": object_metadata(
                context,
                names.provider_debt(context.name, context.uid, endpoint.base_url),
                names.COMPONENT_RELEASE,
                annotations={names.ANNOTATION_AGENT_UID: context.uid},
                owned=False,
            ),
            "data": {DEBT_KEY: json.dumps(_release_job(context, endpoint), indent=2, sort_keys=True) + "\n"},
        }
    )


def _release_job(context: BuildContext, endpoint: HTTPEndpoint) -> Manifest:
    return release_job(
        context.name,
        context.uid,
        context.namespace,
        endpoint.base_url,
        image=context.agent_image,
        variables=[run_id(), *endpoint_key(env.API_KEY, endpoint)],
        added=merged_into_nothing(context.spec.agent.pod_template, TAKEN_FROM_TEMPLATE),
    )


def release_job(
    agent: str,
    uid: str,
    namespace: str,
    endpoint: str,
    *,
    image: str,
    variables: list[Manifest],
    added: Manifest,
) -> Manifest:
    """The Job that makes a provider forget the agent. `variables`: the run's ID, and the provider's key;
    `added`: of TAKEN_FROM_TEMPLATE, to its pod's spec."""
    labels = names.labels(agent, names.COMPONENT_RELEASE)
    container = {
        "name": names.CONTAINER_JOB,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": [names.COMPONENT_RELEASE],
        "env": [
            literal(env.AGENT_NAME, agent),
            literal(env.AGENT_UID, uid),
            literal(env.RELEASE_ENDPOINT, endpoint),
            *variables,
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
        **confined(),
    }
    pod = {
        "automountServiceAccountToken": False,  # of the namespace's default account: the agent's is gone
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": nobody(),
        "containers": [container],
        **added,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.release_job(agent, uid, endpoint),
            "namespace": namespace,
            "labels": labels,
        },
        "spec": {
            "backoffLimit": _BACKOFF_LIMIT,
            "activeDeadlineSeconds": _DEADLINE_SECONDS,
            "podFailurePolicy": pod_failure_policy(),
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
