"""Every name, label and annotation that the operator writes. Deterministic names are also the locks."""

from __future__ import annotations

from typing import Final

from evolving_agent.contract.base import digest

GROUP: Final = "evolvingagents.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
AGENT_KIND: Final = "EvolvingAgent"
AGENT_PLURAL: Final = "evolvingagents"
REVISION_KIND: Final = "AgentRevision"
REVISION_PLURAL: Final = "agentrevisions"

FIELD_MANAGER: Final = "evolving-operator"

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_AGENT: Final = f"{GROUP}/agent"
LABEL_REVISION: Final = f"{GROUP}/revision"
APP_NAME: Final = "evolving-agent"
MANAGED_BY: Final = "evolving-operator"

ANNOTATION_APPLIED_HASH: Final = f"{GROUP}/applied-hash"  # of the whole desired object, on every child
ANNOTATION_CONFIG_HASH: Final = f"{GROUP}/config-hash"  # the stamp: in the pod template
ANNOTATION_REPLICAS: Final = f"{GROUP}/replicas"  # on the Deployment: the agent's, when it was last applied
ANNOTATION_SIZE: Final = f"{GROUP}/size"  # on the volume claim: the agent's, when it was last applied
ANNOTATION_BASE: Final = f"{GROUP}/base-model"  # on training Jobs
ANNOTATION_TRAINING: Final = f"{GROUP}/training"  # on training Jobs: which settings they train by
ANNOTATION_SUITES: Final = f"{GROUP}/suites"  # on evaluation and validation Jobs: digest of what they ask
ANNOTATION_PROMOTION: Final = f"{GROUP}/promotion"  # on validation Jobs: of what, and of which pods
ANNOTATION_AGENT_UID: Final = f"{GROUP}/agent-uid"  # on a debt and on a revision: for whom
ANNOTATION_RETRY_AT: Final = f"{GROUP}/retry-at"  # on a debt: not before
ANNOTATION_RUN: Final = f"{GROUP}/run"  # on the agent: "<verb>" or "<verb>:<nonce>"
ANNOTATION_RUN_ID: Final = f"{GROUP}/run-id"

COMPONENT_AGENT: Final = "agent"
COMPONENT_CURATE: Final = "curate"
COMPONENT_FINETUNE: Final = "finetune"
COMPONENT_EVALUATE: Final = "evaluate"
COMPONENT_VALIDATE: Final = "validate"
COMPONENT_RELEASE: Final = "release"

CONTAINER_AGENT: Final = "agent"
CONTAINER_JOB: Final = "job"

# A Service is a DNS label, a CronJob leaves 11 characters for its Jobs, and a Job name must leave room
# for "-evaluate-" and eight digits: with 40, every derived name fits.
MAX_AGENT_NAME: Final = 40
# The conditions that are the operator's, by kind; those of other types are left to whoever writes them.
CONDITIONS: Final = {
    AGENT_KIND: frozenset(
        {"Ready", "Progressing", "Degraded", "DatasetReady", "Trained", "Evaluated", "Promoted"}
        | {"Stalled", "Reconciling"}
    ),
    REVISION_KIND: frozenset({"Evaluated", "Approved", "Active"}),
}

_MAX_RUN: Final = 253
_KEPT_OF_RUN: Final = 100


def selector_labels(agent: str) -> dict[str, str]:
    """The fixed subset that selects an agent's serving pods. Never add to it: selectors are immutable."""
    return {LABEL_NAME: APP_NAME, LABEL_INSTANCE: agent, LABEL_COMPONENT: COMPONENT_AGENT}


def labels(agent: str, component: str) -> dict[str, str]:
    """Labels of every object that belongs to an agent."""
    return {
        LABEL_NAME: APP_NAME,
        LABEL_INSTANCE: agent,
        LABEL_COMPONENT: component,
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_AGENT: agent,
    }


def kept_labels(agent: str, component: str) -> dict[str, str]:
    """Labels of what may outlive its agent. By the instance's label, and for want of an owner, Argo CD would
    take it for a part of an Application of that name which is no longer in Git, and prune it."""
    return {label: value for label, value in labels(agent, component).items() if label != LABEL_INSTANCE}


def deployment(agent: str) -> str:
    return agent


def service(agent: str) -> str:
    return agent


def service_account(agent: str) -> str:
    return agent


def disruption_budget(agent: str) -> str:
    return agent


def network_policy(agent: str) -> str:
    return agent


def config_map(agent: str) -> str:
    return f"{agent}-config"


def store_claim(agent: str) -> str:
    return f"{agent}-store"


def curate_cron_job(agent: str) -> str:
    return f"{agent}-curate"


def finetune_cron_job(agent: str) -> str:
    return f"{agent}-finetune"


def bounded_run(run: str | None) -> str | None:
    """A run annotation that fits everywhere it is noted: its end gives way to a digest of all of it.

    An annotation may be 256 KiB long, which the status, the Job and an Event cannot carry as well.
    """
    return run if run is None or len(run) <= _MAX_RUN else f"{run[:_KEPT_OF_RUN]}…{digest(run, 16)}"


def on_demand_job(agent: str, component: str, run: str) -> str:
    """Name of the Job that a run annotation asks for; the same annotation names the same Job."""
    return f"{agent}-{component}-{digest(run)}"


def evaluate_job(revision: str, attempt: str) -> str:
    """`revision` is `<agent>-<digest8>`; `attempt` tells re-runs on demand apart ("" for the first)."""
    agent, _, tail = revision.rpartition("-")
    return f"{agent}-evaluate-{tail}" + (f"-{digest(attempt, 4)}" if attempt else "")


def validate_job(revision: str) -> str:
    agent, _, tail = revision.rpartition("-")
    return f"{agent}-validate-{tail}"


def provider_debts(agent: str, uid: str) -> str:
    """What the names of the ConfigMaps begin with that outlive this very agent, one for each provider."""
    return f"{agent}-provider-{digest(uid)}-"


def provider_debt(agent: str, uid: str, endpoint: str) -> str:
    """The ConfigMap that outlives this very agent, until the provider has forgotten it."""
    return f"{provider_debts(agent, uid)}{digest(endpoint, 4)}"  # one of few, in a name of 63


def release_job(agent: str, uid: str, endpoint: str) -> str:
    return f"{agent}-release-{digest([uid, endpoint])}"


def revision(agent: str, base: str, dataset_digest: str, method: str, hyperparameters: object) -> str:
    """`<agent>-<digest8>`: the same learning has the same name, whoever reports it and how often."""
    return f"{agent}-{digest([base, dataset_digest, method, hyperparameters])}"
