"""What an agent owes its provider once it is deleted under deletionPolicy Delete, and the Job that pays it.

The Job is written down, whole, while the agent exists: afterwards nobody knows its endpoint any more.
"""

from __future__ import annotations

import json

from evolving_agent.contract import env
from evolving_agent.contract.config import HTTPEndpoint
from evolving_operator.api import names
from evolving_operator.api.models import DeletionPolicy
from evolving_operator.core.builders.base import Manifest, object_metadata, with_applied_hash
from evolving_operator.core.builders.context import BuildContext
from evolving_operator.core.builders.job import pod_failure_policy, run_id, training_job_spec
from evolving_operator.core.builders.pod import confined, endpoint_key, literal, nobody
from evolving_operator.core.builders.training_settings import provider_endpoint

DEBT_KEY = "release-job.json"
_DEADLINE_SECONDS = 3600
_BACKOFF_LIMIT = 6
# Of pods that train: what one without their volumes and sidecars may need to start, and to get out.
_TAKEN = ("imagePullSecrets", "nodeSelector", "tolerations", "priorityClassName", "dnsConfig")
_USER = frozenset({"runAsUser", "runAsGroup"})  # a platform may choose them itself
_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})  # in either case


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
    trains = training_job_spec(context)["template"]["spec"]
    [container] = (item for item in trains["containers"] if item["name"] == names.CONTAINER_JOB)
    return release_job(
        context.name,
        context.uid,
        context.namespace,
        endpoint.base_url,
        image=context.agent_image,
        variables=[run_id(), *endpoint_key(env.API_KEY, endpoint), *proxies(container)],
        added=taken_from(trains),
    )


def taken_from(pod: Manifest) -> Manifest:
    """Of the spec of a pod that trains (or of one that was made of it): what a release takes over."""
    said = pod.get("securityContext")
    context = nobody()
    # Who is to be root, or whoever the image says, would not be let in as nobody in particular.
    if isinstance(said, dict) and said.get("runAsNonRoot") is True and said.get("runAsUser") != 0:
        context = {name: value for name, value in context.items() if name not in _USER}
        context |= {name: value for name, value in said.items() if name in _USER}
    return {**{name: pod[name] for name in _TAKEN if name in pod}, "securityContext": context}


def proxies(container: Manifest) -> list[Manifest]:
    """Its variables that say how to get out, where they are written down literally, and whole."""
    found = (item for item in container.get("env", ()) if item["name"].upper() in _PROXIES)
    return [item for item in found if isinstance(item.get("value"), str) and "$(" not in item["value"]]


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
    """The Job that makes a provider forget the agent. `variables`: the run's ID, the provider's key, and
    proxies; `added` to its pod's spec: what `taken_from` gives."""
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
