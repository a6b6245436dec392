"""Is the agent served, and what keeps it from being well: Ready, Progressing and Degraded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import chain

from evolving_agent.contract.base import canonical_json
from evolving_agent.contract.report import ServeReport
from evolving_operator.api import names
from evolving_operator.api.models import ConditionStatus, RevisionRef, RolloutStep
from evolving_operator.core.candidate import awaits_person, awaits_pods_to_be_tried, awaits_word
from evolving_operator.core.children import lingering_children, standing_refusals
from evolving_operator.core.clock import CLOCKS_DIFFER, after, parse_time, rfc3339
from evolving_operator.core.conditions import NOBODY_SERVES, Finding, condition, false, true
from evolving_operator.core.observed import InvalidField, ObservedDeployment, ObservedPod
from evolving_operator.core.pod_problems import is_told, lost_pod, secret_words, told_by_pods, why_blocked
from evolving_operator.core.rollout import why_stuck
from evolving_operator.core.schedule import schedule_fault
from evolving_operator.core.serving import (
    never_served,
    nobody_serves,
    pods_refused,
    somebody_serves,
    unready_since,
    wanted_pods,
)
from evolving_operator.core.situation import Situation

_NO_IMAGE = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
)

_NOT_YET_SCHEDULED = frozenset({"Unschedulable", "SchedulingGated"})

_ON_THE_WAY = {
    RolloutStep.SHADOW: ("Shadowing", "is on trial"),
    RolloutStep.CANARY: ("CanaryRunning", "is on trial"),
    RolloutStep.RESTART: ("RollingRestart", "is rolled out to the serving pods"),
    RolloutStep.BAKE: ("Baking", "serves, and is being validated"),
}
_BEING_BROUGHT = true("RollingRestart", "The serving pods are being brought to their desired state.")
_SCALED_TO_ZERO = true("ScaledToZero", "The serving pods were scaled to none: nothing is to be served.")
# So often a child is set right at once before the operator waits.
CONTESTED_AFTER = 3

_CONFIG_MAP_BYTES = 1_048_576  # the API server's bound, and in its words when something is above
_ERROR_CHARACTERS = 500
_SCHEDULING_GRACE = timedelta(seconds=60)
_DELETION_GRACE = timedelta(seconds=10)  # what nothing holds is gone by then, and made anew
_CONTROLLER_GRACE_SECONDS = 30  # of a rollout that takes too long, the Deployment controller tells first
_PODS_NOT_READY = "PodsNotReady"
_REASONS_OF_SPEC = frozenset({"InvalidSpec", "InstructionsNotFound", "PinNotFound"})  # they concern no pod
_OPERATOR_ERROR = "OperatorError"


def ready(situation: Situation) -> Finding:
    """True while at least one pod serves: a rolling restart does not make an agent unready."""
    deployment, replicas = situation.observed.deployment, situation.spec.agent.replicas
    if deployment is None:
        reason = NOBODY_SERVES if _has_served(situation) else "Starting"
        return false(reason, "The serving pods are being created.")
    if replicas == 0:
        return true("ScaledToZero", "spec.agent.replicas is 0: nothing is to be served.")
    wanted = wanted_pods(situation)
    if wanted == 0:
        return _SCALED_TO_ZERO
    if deployment.ready > 0:
        return true("Serving", f"{deployment.ready} of {wanted} serving pods are ready.")
    return _unserved(situation, wanted)


def _unserved(situation: Situation, wanted: int) -> Finding:
    problem = _first(_OF_PODS, situation=situation) or _unserved_waits(situation)
    if problem is not None:
        return false(problem.reason, f"No serving pod is ready. {problem.message}")
    if _has_served(situation):
        return false(NOBODY_SERVES, f"None of {wanted} serving pods is ready any more.")
    return false("Starting", f"None of {wanted} serving pods is ready yet.")


def _has_served(situation: Situation) -> bool:
    """Whether pods were ready, since when none had been asked for."""
    before = condition(situation.status.conditions, "Ready")
    if before is None or before.reason in ("Starting", "ScaledToZero"):
        return False
    return before.reason in ("Serving", NOBODY_SERVES) or _was_promoted(situation)


def _was_promoted(situation: Situation) -> bool:
    active = situation.revision(situation.status.active)
    return active is not None and active.status.promoted_at is not None


def ready_unread(deployment: ObservedDeployment | None, fault: InvalidField) -> Finding:
    """Ready of an agent whose spec cannot be read: its pods serve on, or there never were any."""
    if deployment is None:
        return false(fault.reason, f"Nothing is served. {fault.field}: {fault.message}")
    if deployment.wanted == 0:
        return _SCALED_TO_ZERO
    if deployment.ready > 0:
        return true("Serving", f"{deployment.ready} of {deployment.wanted} serving pods are ready.")
    return false(fault.reason, f"No serving pod is ready. {fault.field}: {fault.message}")


def degraded(situation: Situation) -> Finding:
    return degraded_by(situation) or false("AsExpected", "Nothing is known to be wrong.")


def progressing(situation: Situation) -> Finding:
    """True while something is on its way that ends by itself."""
    status, rollout = situation.status, situation.status.rollout
    if rollout is not None and rollout.step in _ON_THE_WAY:
        reason, what = _ON_THE_WAY[rollout.step]
        if rollout.step is RolloutStep.BAKE and not somebody_serves(situation):
            return true(
                reason, f"Revision {rollout.revision} is watched on once there are pods that serve it."
            )
        return true(reason, f"Revision {rollout.revision} {what}. {rollout.message}{_held_up(situation)}")
    if not situation.settled:
        return _being_brought(situation)
    if status.candidate is not None and not situation.spec.suspend:
        return _in_proof(situation, status.candidate)
    return false("Converged", "Everything is as the spec asks.")


def _held_up(situation: Situation) -> str:
    """What keeps the pod from running that is to validate what serves."""
    rollout = situation.status.rollout
    if rollout is None or rollout.step is not RolloutStep.BAKE:
        return ""
    job = situation.observed.jobs.get(names.validate_job(rollout.revision))
    if job is None or job.finished is not None:
        return ""
    found = why_blocked(situation, job.name)
    return "" if found is None else f" {found.reason}: {found.message}"


def _in_proof(situation: Situation, candidate: RevisionRef) -> Finding:
    if awaits_person(situation):
        return false("AwaitsPerson", f"Revision {candidate.revision} waits: see Promoted.")
    if awaits_pods_to_be_tried(situation):
        return false("AwaitsPods", f"Revision {candidate.revision} waits: see Promoted.")
    return true("CandidateInProof", f"Revision {candidate.revision} is being proven.")


def _being_brought(situation: Situation) -> Finding:
    stuck = some_not_ready(situation)
    if stuck is not None:
        return false(stuck.reason, stuck.message)
    return _unserved_waits(situation) or _BEING_BROUGHT


def progressing_unread(deployment: ObservedDeployment | None, fault: InvalidField) -> Finding:
    """Progressing of an agent whose spec cannot be read: only its Deployment goes on, by itself."""
    if (
        deployment is not None
        and not deployment.rolled_out
        and (deployment.stale or deployment.deadline_exceeded is None)
    ):
        return _BEING_BROUGHT
    return false(fault.reason, f"Nothing is on its way. {fault.field}: {fault.message}")


def kstatus(situation: Situation, degraded: Finding) -> dict[str, Finding]:
    """What tools that wait for any kind of object look at, beside Ready: there only while it is true."""
    if degraded.status is ConditionStatus.TRUE and not is_told(degraded):
        return {"Stalled": degraded}
    rollout = situation.status.rollout
    is_restarting = rollout is not None and rollout.step is RolloutStep.RESTART
    if is_restarting or not situation.settled:
        found = progressing(situation)
        if found.status is ConditionStatus.FALSE:
            return {"Stalled": true(found.reason, found.message)}
        return {"Reconciling": found}
    return {}


def _unserved_waits(situation: Situation) -> Finding | None:
    """Why what is to replace a model that never served waits: nothing else makes the pods serve."""
    candidate = situation.status.candidate
    if candidate is None or not never_served(situation):
        return None
    if situation.spec.suspend:
        what = f"{candidate.revision} is to replace a model that never served, but nothing is promoted."
        return false("Suspended", f"spec.suspend: {what}")
    if awaits_word(situation):
        return false("AwaitsPerson", f"Revision {candidate.revision} waits: see Promoted.")
    return None


def degraded_by(situation: Situation) -> Finding | None:
    """The first of the known problems, the one to solve first: where nobody is served, what is about that."""
    in_turn = (_OF_PODS, _OF_SPEC) if nobody_serves(situation) else (_OF_SPEC, _OF_PODS)
    return _first(*in_turn, situation=situation)


def _first(*policies: _Policies, situation: Situation) -> Finding | None:
    found = (policy(situation) for policy in chain(*policies))
    return next((finding for finding in found if finding is not None), None)


def unread(fault: InvalidField) -> Finding:
    """Of a spec that cannot be taken up: what serves goes on as it was."""
    if fault.reason == _OPERATOR_ERROR:
        return true(fault.reason, f"{fault.field}: {fault.message}")
    return _until_mended(fault, "nothing of the spec is in force but deletionPolicy.")


def _until_mended(fault: InvalidField, what: str) -> Finding:
    return true(fault.reason, f"{fault.field}: {fault.message.rstrip('.')}. Until then {what}")


def operator_error(error: Exception) -> InvalidField:
    """What a user is told where a decision ends in an error that nobody foresaw."""
    what = " ".join(f"{type(error).__name__}: {error}".split())[:_ERROR_CHARACTERS]
    told = f"the operator failed at it, and tries again. That is a bug, its log has the details. {what}"
    return InvalidField("spec", told, _OPERATOR_ERROR)


def _invalid_schedule(situation: Situation) -> Finding | None:
    spec = situation.spec
    for field, part in (("spec.curation", spec.curation), ("spec.training", spec.training)):
        if part is None:
            continue
        fault = schedule_fault(field, part.schedule, part.time_zone, situation.now)
        if fault is not None:
            return _until_mended(fault, "its CronJob is suspended: no run begins.")
    return None


def _missing_instructions(situation: Situation) -> Finding | None:
    fault = situation.observed.instructions_fault
    if not fault:
        return None
    return true(
        "InstructionsNotFound", f"spec.agent.instructionsFrom: {fault} The instructions that are served stay."
    )


def _unknown_pin(situation: Situation) -> Finding | None:
    pin, active = situation.spec.rollout.pin, situation.status.active
    if not pin or pin in situation.observed.revisions:
        return None
    if active is not None and active.revision == pin:
        return None  # it serves, as asked; its record goes before the agent where both are deleted
    return true(
        "PinNotFound",
        f"spec.rollout.pin: there is no AgentRevision {pin!r} of this agent. What was active stays so, and "
        "nothing is promoted. `kubectl get agentrevisions` lists those that are kept.",
    )


def _refused_write(situation: Situation) -> Finding | None:
    refusal = next(standing_refusals(situation), None)
    if refusal is None:
        return None
    is_too_large = refusal.kind == "ConfigMap" and str(_CONFIG_MAP_BYTES) in refusal.message
    oversized = _oversized(situation) if is_too_large else None
    what = "was refused" if refusal.applied_hash is not None else "cannot be deleted"
    return oversized or true(refusal.reason, f"{refusal.kind} {refusal.name} {what}: {refusal.message}")


def _oversized(situation: Situation) -> Finding | None:
    """A ConfigMap that is too large for the API server is told in terms of what its user can shorten."""
    agent = situation.spec.agent
    if situation.active_config is None:
        return None
    size = len(canonical_json(situation.active_config.to_wire()).encode())
    refs = (situation.status.active, situation.status.previous, situation.status.candidate)
    copies = len([ref for ref in refs if ref is not None])
    parts = {"spec.agent.instructions": len((agent.instructions or "").encode())}
    for field, items in (("tools", agent.tools), ("specialists", agent.specialists)):
        for item in items:
            parts[f"spec.agent.{field}[{item.name}]"] = len(canonical_json(item.to_wire()).encode())
    largest = sorted(parts, key=lambda part: -parts[part])[:3]
    told = ", ".join(f"{part} ({parts[part] // 1024} KiB)" for part in largest)
    return true(
        "ConfigTooLarge",
        f"The agent's configuration takes {size // 1024} KiB, and its ConfigMap holds {copies} of them "
        "(active, previous, candidate); all of a ConfigMap is at most 1024 KiB. Shorten what is largest: "
        f"{told}.",
    )


def _contested(situation: Situation) -> Finding | None:
    """Somebody keeps changing a child: told once it is no accident."""
    for item in situation.observed.corrections:
        live = situation.observed.children.get((item.kind, item.name))
        if item.is_due or item.count < CONTESTED_AFTER or live is None or live.owned == item.owned:
            continue
        who = f" Others who write to it: {live.writers}." if live.writers else ""
        return true(
            "ChildContested",
            f"{item.kind} {item.name} was set back {item.count} times, and is changed again and again "
            f"({', '.join(item.fields[:3])}).{who} The operator waits longer each time.",
        )
    return None


def _lingering(situation: Situation) -> Finding | None:
    """Somebody deleted a child that something still holds: a volume in use, or what waits for its pods."""
    for child in lingering_children(situation):
        if child.deleted_at is None or not situation.timers.passed(child.deleted_at + _DELETION_GRACE):
            continue
        held = f" ({', '.join(child.finalizers)})" if child.finalizers else ""
        lost = ""
        if child.kind == "PersistentVolumeClaim":
            lost = (
                " No new pod can use the volume, and what is in it goes with it: copy it first. "
                "It goes once no pod uses it (spec.agent.replicas: 0)."
            )
        return true(
            "ChildDeleted",
            f"{child.kind} {child.name} was deleted, and something still holds it{held}. It is made anew as "
            f"soon as it is gone.{lost}",
        )
    return None


def _missing_secret(situation: Situation) -> Finding | None:
    for pod in situation.serving_pods:
        if pod.trouble is not None and pod.trouble.reason == "CreateContainerConfigError":
            return true(*secret_words(situation, pod.trouble.message))
    return None


def _gave_up(situation: Situation) -> Finding | None:
    """A serving pod told why it could not serve, e.g. ModelUnreachable."""
    for pod in situation.serving_pods:
        if pod.ready or not isinstance(pod.report, ServeReport):
            continue
        if pod.unready_since and pod.ended and pod.unready_since > pod.ended + CLOCKS_DIFFER:
            continue  # it has served since
        return true(pod.report.reason, f"{pod.report.message} (pod {pod.name})")
    return None


def _image(situation: Situation) -> Finding | None:
    for pod in situation.serving_pods:
        if pod.trouble is not None and pod.trouble.reason in _NO_IMAGE:
            return true("ImagePullFailed", f"Pod {pod.name}: {pod.trouble.message or pod.trouble.reason}")
    return None


def _waits(situation: Situation) -> Finding | None:
    """For anything else that keeps a container from being started."""
    for pod in situation.serving_pods:
        if pod.trouble is not None and pod.trouble.reason not in _NOT_YET_SCHEDULED:
            return true(pod.trouble.reason, f"Pod {pod.name}: {pod.trouble.message or pod.trouble.reason}")
    return None


def _crashing(situation: Situation) -> Finding | None:
    for pod in _crashing_pods(situation):
        detail = pod.trouble.message if pod.trouble else ""
        return true("CrashLoop", f"Pod {pod.name} crashes again and again. {detail}".strip())
    return None


def _crashing_pods(situation: Situation) -> Iterator[ObservedPod]:
    for pod in situation.serving_pods:
        if pod.trouble is not None and pod.trouble.reason == "CrashLoopBackOff":
            yield pod


def _pods_refused(situation: Situation) -> Finding | None:
    refused = pods_refused(situation)
    return None if refused is None else true("PodsRefused", f"No new serving pod can be created: {refused}")


def _unschedulable(situation: Situation) -> Finding | None:
    for pod in situation.serving_pods:
        if pod.trouble is None or pod.trouble.reason != "Unschedulable":
            continue
        # Nodes that are being added and volumes that are being made take their time.
        if situation.timers.passed(pod.created + _SCHEDULING_GRACE):
            told = f"Pod {pod.name} finds no node: {pod.trouble.message}"
            pods = (other for other in situation.observed.pods if other.component == names.COMPONENT_AGENT)
            lost = lost_pod(situation, pods)  # the scheduler still counts it, and where its volume is
            return true("Unschedulable", f"{told} {lost}".rstrip())
    return None


def _stuck_rollout(situation: Situation) -> Finding | None:
    deployment, rollout = situation.observed.deployment, situation.status.rollout
    if wanted_pods(situation) == 0:
        return None
    if rollout is not None and rollout.step is RolloutStep.RESTART:
        stuck = why_stuck(situation, rollout)
        return None if stuck is None else true("RolloutStuck", f"{stuck.reason}: {stuck.message}")
    if deployment is None or deployment.stale or deployment.deadline_exceeded is None:
        return None
    return true("RolloutStuck", f"ProgressDeadlineExceeded: {deployment.deadline_exceeded}")


def _pods_not_ready(situation: Situation) -> Finding | None:
    """No pod has been ready for as long as a rollout may take, and nothing tells why."""
    rollout = situation.status.rollout
    if situation.observed.deployment is None or not nobody_serves(situation):
        return None
    if rollout is not None and rollout.step is RolloutStep.RESTART:
        return None  # it has its own deadline
    seconds = situation.spec.rollout.progress_deadline_seconds
    if not _is_unready_for(situation, seconds + _CONTROLLER_GRACE_SECONDS):
        return None
    pod = min((pod.name for pod in situation.serving_pods), default=None)
    where = f"deployment {names.deployment(situation.agent)}`" if pod is None else f"pod {pod}`"
    logs = "" if pod is None else f" and `kubectl logs {pod}`"
    return true(
        _PODS_NOT_READY,
        f"None of {wanted_pods(situation)} serving pods has been ready for more than {seconds} s, and "
        f"nothing tells why: see `kubectl describe {where}{logs}.",
    )


def some_not_ready(situation: Situation) -> Finding | None:
    """A pod has not been ready for as long as a rollout may take, while others serve: nothing is promoted."""
    deployment, rollout = situation.observed.deployment, situation.status.rollout
    if deployment is None or not somebody_serves(situation):
        return None
    is_restart = rollout is not None and rollout.step is RolloutStep.RESTART
    if is_restart or deployment.stale or deployment.updated != deployment.replicas:
        return None  # it has its own deadline
    seconds = situation.spec.rollout.progress_deadline_seconds + _CONTROLLER_GRACE_SECONDS
    for pod in situation.serving_pods:
        since = None if pod.ready else pod.unready_since
        if since is not None and situation.timers.passed(after(rfc3339(since), seconds)):
            return true(
                "PodNotReady",
                f"{deployment.ready} of {wanted_pods(situation)} serving pods are ready: pod {pod.name} has "
                f"not been since {rfc3339(since)}, and nothing is promoted meanwhile. See `kubectl describe "
                f"pod {pod.name}` and `kubectl logs {pod.name}`.",
            )
    return None


def _is_unready_for(situation: Situation, seconds: int) -> bool:
    """Whether no pod has been ready for so long, since the last problem that was known was mended."""
    since, degraded = unready_since(situation), condition(situation.status.conditions, "Degraded")
    if degraded is not None and degraded.reason == _PODS_NOT_READY:
        return True
    if since is None or degraded is None:
        return False
    if degraded.status is ConditionStatus.FALSE:
        since = max(since, parse_time(degraded.last_transition_time))
    elif degraded.reason not in _REASONS_OF_SPEC:
        return False
    return situation.timers.passed(after(rfc3339(since), seconds))


_Policies = tuple[Callable[[Situation], Finding | None], ...]
# What may keep pods from serving; a write that is refused keeps all of the spec from its children.
_OF_PODS: _Policies = (
    _refused_write,
    _contested,
    _lingering,
    _missing_secret,
    _gave_up,
    _image,
    _crashing,
    _waits,
    _pods_refused,
    _unschedulable,
    _stuck_rollout,
    _pods_not_ready,
    some_not_ready,
    told_by_pods,
)
_OF_SPEC: _Policies = (_invalid_schedule, _missing_instructions, _refused_write, _unknown_pin)
