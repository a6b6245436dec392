"""What is wrong with pods: what serving ones say although they answer, and what keeps one from running."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta

from evolving_agent.contract.served import ProblemReason
from evolving_operator.api.models import Condition, ConditionStatus
from evolving_operator.core.conditions import Finding, condition, false, true
from evolving_operator.core.observed import Heard, ObservedPod
from evolving_operator.core.situation import Situation

_REASONS = frozenset(ProblemReason)
_POD_GRACE = timedelta(seconds=60)
_START_GRACE = timedelta(minutes=5)  # an image is pulled, and a volume attached, by then


def told_by_pods(situation: Situation) -> Finding | None:
    """The worst problem of the first pod that has one.

    What was known stays until all have been asked: an operator that has just started has heard nothing.
    """
    pods = [pod for pod in situation.serving_pods if pod.ready]
    for pod in pods:
        if pod.heard.served is not None and pod.heard.served.problems:
            problem = pod.heard.served.problems[0]
            return true(problem.reason, f"{problem.message} (pod {pod.name})")
    known = standing(situation)
    if known is None or not any(pod.heard == Heard() for pod in pods):
        return None
    return Finding(known.status, known.reason, known.message)


def standing(situation: Situation) -> Condition | None:
    """The condition, where it tells of such a problem."""
    known = condition(situation.status.conditions, "Degraded")
    return known if known is not None and known.status is ConditionStatus.TRUE and is_told(known) else None


def is_told(finding: Finding | Condition) -> bool:
    """Whether this is a pod's own problem: the operator has done all that it was asked for."""
    return finding.reason in _REASONS


def why_blocked(situation: Situation, name: str) -> Finding | None:
    """Why the pod of a Job that is under way cannot start."""
    job, pods = situation.observed.jobs.get(name), [pod for pod in situation.observed.pods if pod.job == name]
    if job is not None and not pods and situation.timers.passed(job.created + _POD_GRACE):
        told = f"Job {name} has no pod: `kubectl describe job {name}` tells what keeps it from being created."
        return false("PodMissing", told)
    if lost := lost_pod(situation, pods):
        return false("PodLost", lost)
    for pod in pods:
        since = pod.scheduled or pod.created
        if pod.trouble is None and pod.idle and situation.timers.passed(since + _START_GRACE):
            told = f"Pod {pod.name} does not start: `kubectl describe pod {pod.name}` tells why."
            return false("PodNotStarted", told)
        if pod.trouble is None:
            continue
        # A node that is being added takes its time.
        if pod.trouble.reason == "Unschedulable" and not situation.timers.passed(pod.created + _POD_GRACE):
            continue
        if pod.trouble.reason == "CreateContainerConfigError":
            return false(*secret_words(situation, pod.trouble.message))
        return false(pod.trouble.reason, f"Pod {pod.name}: {pod.trouble.message}")
    return None


def lost_pod(situation: Situation, pods: Iterable[ObservedPod]) -> str:
    """What is to be done about one that should be gone by now, and is not: until then nothing replaces it,
    and its volume is not free. "" where there is none.
    """
    for pod in pods:
        if pod.deleted_at is not None and situation.timers.passed(pod.deleted_at + _POD_GRACE):
            return (
                f"Pod {pod.name} was deleted, and its node does not say that it is gone. Where the node is "
                f"lost: `kubectl delete pod {pod.name} --force`."
            )
    return ""


def secret_words(situation: Situation, message: str) -> tuple[str, str]:
    """Reason and message for what kubelet said when it could not set a container up."""
    if "secret" not in message.lower():
        return "ContainerConfigError", message
    spec = situation.spec
    named_by = {
        "spec.model.endpoint.apiKeySecretRef": spec.model.endpoint.api_key_secret_ref,
        "spec.agent.memory.connectionSecretRef": spec.agent.memory.connection_secret_ref,
    }
    named = [(field, ref) for field, ref in named_by.items() if ref is not None and _names(message, ref.name)]
    # Two fields may name one Secret: the message may tell which of the keys is missing.
    named.sort(key=lambda item: not _names(message, item[1].key))
    hint = "".join(
        f" The Secret {ref.name!r} with the key {ref.key!r} is named by {field}: create it in the "
        "agent's namespace."
        for field, ref in named[:1]
    )
    return "SecretNotFound", f"A pod cannot start: {message}.{hint}"


def _names(message: str, name: str) -> bool:
    """Whether it holds the name as a whole: support is not named by support-db."""
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)", message) is not None
