"""The pieces that serving pods and Job pods share: environment, volumes, security, placement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from evolving_agent.contract import env
from evolving_agent.contract.config import HTTPEndpoint
from evolving_agent.contract.refs import SecretKeyRef
from evolving_operator.api import names
from evolving_operator.api.pod_template import PodTemplate
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.context import BuildContext
from evolving_operator.core.builders.strategic import merge_pod_template

_UID = 65532  # "nonroot" of the project's images
_TMP = "/tmp"  # noqa: S108 - an emptyDir of the pod's own: the root file system is read-only
_HOSTNAME = "kubernetes.io/hostname"


@dataclass(frozen=True)
class Mount:
    """A volume and the place where the container sees it."""

    name: str
    path: str
    source: Manifest
    read_only: bool = False

    def volume(self) -> Manifest:
        return {"name": self.name, **self.source}

    def volume_mount(self) -> Manifest:
        mount: Manifest = {"name": self.name, "mountPath": self.path}
        return mount | ({"readOnly": True} if self.read_only else {})


@dataclass(frozen=True)
class Container:
    """The one container of a pod, as far as agents and Jobs differ."""

    name: str
    image: str
    args: tuple[str, ...]
    env: list[Manifest]
    mounts: tuple[Mount, ...]
    requests: dict[str, str]
    extra: Manifest = field(default_factory=dict)  # ports, probes, lifecycle


def literal(name: str, value: str) -> Manifest:
    return {"name": name, "value": value}


def from_field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def from_secret(name: str, ref: SecretKeyRef) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}


def endpoint_key(name: str, endpoint: HTTPEndpoint | None) -> list[Manifest]:
    """The variable `name` with the endpoint's API key; nothing where the endpoint needs none."""
    if endpoint is None or endpoint.api_key_secret_ref is None:
        return []
    return [from_secret(name, endpoint.api_key_secret_ref)]


def common_env(context: BuildContext) -> list[Manifest]:
    """What every container of the agent image is told."""
    return [
        literal(env.AGENT_NAME, context.name),
        literal(env.AGENT_NAMESPACE, context.namespace),
        from_field(env.POD_NAME, "metadata.name"),
        literal(env.CONFIG_DIR, env.DEFAULT_CONFIG_DIR),
        literal(env.STORE, env.DEFAULT_STORE),
        literal(env.TERMINATION_LOG, env.DEFAULT_TERMINATION_LOG),
        *_object_store_env(context),
        literal("HOME", _TMP),  # libraries that cache below the home directory find a writable one
        *endpoint_key(env.API_KEY, context.spec.model.endpoint),
    ]


def memory_env(context: BuildContext) -> list[Manifest]:
    """The URI of the memory's database; nothing where the memory needs none. Jobs use no memory."""
    ref = context.spec.agent.memory.connection_secret_ref
    return [] if ref is None else [from_secret(env.MEMORY_URI, SecretKeyRef(name=ref.name, key=ref.key))]


def common_mounts(context: BuildContext) -> tuple[Mount, ...]:
    """Configuration (the whole ConfigMap: with a subPath it would never be refreshed), store, scratch."""
    return (
        Mount(
            "config",
            env.DEFAULT_CONFIG_DIR,
            {"configMap": {"name": names.config_map(context.name)}},
            read_only=True,
        ),
        Mount("store", env.DEFAULT_STORE, _store_source(context)),
        Mount("tmp", _TMP, {"emptyDir": {}}),
    )


def _store_source(context: BuildContext) -> Manifest:
    """The store itself, or with an object store the pod's own copy of what it reads and writes there."""
    if context.spec.storage.claim is None:
        return {"emptyDir": {}}
    return {"persistentVolumeClaim": {"claimName": names.store_claim(context.name)}}


def _object_store_env(context: BuildContext) -> list[Manifest]:
    """Where the object store is, and its key; nothing where the store is a volume."""
    store = context.spec.storage.object_store
    if store is None:
        return []
    folder = "/".join(filter(None, (store.prefix, context.namespace, context.name)))
    variables = [
        literal(env.OBJECT_STORE, f"s3://{store.bucket}/{folder}"),
        literal(env.AWS_REGION, store.region),
    ]
    if store.endpoint is not None:
        variables.append(literal(env.AWS_ENDPOINT, store.endpoint))
    if store.credentials_secret_ref is not None:
        secret = store.credentials_secret_ref.name
        keys = (env.AWS_ACCESS_KEY_ID, env.AWS_SECRET_ACCESS_KEY)
        variables += [from_secret(key, SecretKeyRef(name=secret, key=key)) for key in keys]
    return variables


def suite_mounts(context: BuildContext) -> tuple[Mount, ...]:
    """`<suites dir>/<suite>/cases.jsonl` for every suite that is kept in a ConfigMap.

    Optional, so that a missing ConfigMap is an error that the program reports by name, instead of a
    pod that waits for its volumes until the Job's deadline.
    """
    return tuple(
        Mount(
            f"suite-{suite.name}",
            f"{env.DEFAULT_SUITES_DIR}/{suite.name}",
            {
                "configMap": {
                    "name": suite.config_map_ref.name,
                    "items": [{"key": suite.config_map_ref.key, "path": env.SUITE_FILE}],
                    "optional": True,
                }
            },
            read_only=True,
        )
        for suite in context.spec.evaluation.suites
        if suite.config_map_ref is not None
    )


def pod_template(
    context: BuildContext,
    component: str,
    container: Container,
    *,
    restart_policy: str,
    grace_seconds: int,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> Manifest:
    """The whole pod template, with the user's additions merged in."""
    metadata: Manifest = {"labels": names.labels(context.name, component) | (labels or {})}
    if annotations:
        metadata["annotations"] = annotations
    spec: Manifest = {
        "serviceAccountName": names.service_account(context.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": restart_policy,
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": {**nobody(), "fsGroup": _UID, "fsGroupChangePolicy": "OnRootMismatch"},
        "containers": [_container(container)],
        "volumes": [mount.volume() for mount in container.mounts],
    }
    if context.store_is_bound_to_one_node:
        spec["affinity"] = {"podAffinity": _same_node(context)}
    return merge_pod_template({"metadata": metadata, "spec": spec}, _added_to(context, component))


def _added_to(context: BuildContext, component: str) -> PodTemplate:
    """What the user adds to the pods: training may have needs of its own."""
    training = context.spec.training
    if component == names.COMPONENT_FINETUNE and training is not None and training.pod_template is not None:
        return training.pod_template
    return context.spec.agent.pod_template


def _container(container: Container) -> Manifest:
    return {
        "name": container.name,
        "image": container.image,
        "imagePullPolicy": "IfNotPresent",
        "args": list(container.args),
        "env": container.env,
        "resources": {"requests": container.requests},
        "volumeMounts": [mount.volume_mount() for mount in container.mounts],
        **confined(),
        **container.extra,
    }


def nobody() -> Manifest:
    """The security context of a pod whose processes are not root's."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _UID,
        "runAsGroup": _UID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def confined() -> Manifest:
    """Of a container: it may do little, and leaves its report as its termination message."""
    return {
        "terminationMessagePath": env.DEFAULT_TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _same_node(context: BuildContext) -> dict[str, Any]:
    """All running pods of the agent share the node that holds its ReadWriteOnce volume.

    Required, not preferred: a pod elsewhere could not mount the volume and would hang in its creation.
    The very first pod is schedulable all the same, because it matches its own term and the scheduler
    waives a term that no pod but the incoming one matches. Ended Job pods do not count.
    """
    return {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {names.LABEL_AGENT: context.name}}, "topologyKey": _HOSTNAME}
        ]
    }
