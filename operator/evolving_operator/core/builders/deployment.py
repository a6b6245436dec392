"""The serving pods, and how they are replaced one after another without a failed request."""

from __future__ import annotations

from evolving_agent.contract import env
from evolving_operator.api import names
from evolving_operator.core.builders.base import Manifest, object_metadata, with_applied_hash
from evolving_operator.core.builders.context import BuildContext
from evolving_operator.core.builders.pod import (
    Container,
    common_env,
    common_mounts,
    literal,
    memory_env,
    pod_template,
)
from evolving_operator.core.builders.tool_files import tool_env, tool_mounts

PORT_NAME = "http"
# After the endpoint is taken out of the Service, kube-proxy still sends requests for a moment. The pod
# keeps accepting for this long before it hears of SIGTERM, and then finishes what is under way.
DRAIN_SECONDS = 5
# Beside the deadline of a request, which bounds all that runs at SIGTERM: accepting, reflections, the log.
_MORE_GRACE_SECONDS = 30
_STARTUP_SECONDS = 300  # a cold image cache or a slow disk must not look like a hang


def build_deployment(context: BuildContext, config_hash: str, *, sets_replicas: bool = True) -> Manifest:
    """`config_hash` is the stamp: the entry of agent_config.json that these pods serve.

    Without `sets_replicas` their number stays what another made it: a HorizontalPodAutoscaler of this
    Deployment. The annotation tells whether the user has changed `spec.agent.replicas` since.
    """
    spec = context.spec
    replicas = {"replicas": spec.agent.replicas} if sets_replicas else {}
    return with_applied_hash(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": object_metadata(
                context,
                names.deployment(context.name),
                names.COMPONENT_AGENT,
                annotations={
                    names.ANNOTATION_CONFIG_HASH: config_hash,
                    names.ANNOTATION_REPLICAS: str(spec.agent.replicas),
                },
            ),
            "spec": {
                **replicas,
                # Said, so that a pause is an edit like any other: it would hold up every promotion.
                "paused": False,
                "revisionHistoryLimit": 3,
                "progressDeadlineSeconds": spec.rollout.progress_deadline_seconds,
                "selector": {"matchLabels": names.selector_labels(context.name)},
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"},
                },
                "template": pod_template(
                    context,
                    names.COMPONENT_AGENT,
                    _container(context, config_hash),
                    restart_policy="Always",
                    grace_seconds=spec.agent.limits.request_timeout_seconds + _MORE_GRACE_SECONDS,
                    annotations={names.ANNOTATION_CONFIG_HASH: config_hash},
                ),
            },
        }
    )


def _container(context: BuildContext, config_hash: str) -> Container:
    return Container(
        name=names.CONTAINER_AGENT,
        image=context.agent_image,
        args=("serve",),
        env=[
            *common_env(context),
            literal(env.CONFIG_HASH, config_hash),
            *memory_env(context),
            *tool_env(context),
        ],
        mounts=(*common_mounts(context), *tool_mounts(context)),
        requests={"cpu": "50m", "memory": "192Mi"},
        extra={
            "ports": [{"name": PORT_NAME, "containerPort": env.SERVE_PORT, "protocol": "TCP"}],
            "startupProbe": _probe("/healthz", period=2, failures=_STARTUP_SECONDS // 2),
            "readinessProbe": _probe("/readyz", period=2, failures=2),
            "livenessProbe": _probe("/healthz", period=10, failures=3),
            "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
        },
    )


def _probe(path: str, *, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": PORT_NAME},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
