"""Raw Kubernetes objects → observed values. The only place that knows what the API's JSON looks like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from evolving_agent.contract import env
from evolving_agent.contract.config import CONFIG_KEY
from evolving_agent.contract.refs import ConfigMapKeyRef
from evolving_agent.contract.report import Outcome, Report, parse_report, report_fault
from evolving_operator.api import names
from evolving_operator.api.models import (
    AgentRevisionSpec,
    AgentRevisionStatus,
    EvolvingAgentSpec,
    EvolvingAgentStatus,
    InstructionsFrom,
)
from evolving_operator.core.builders.context import Images
from evolving_operator.core.builders.debt import DEBT_KEY
from evolving_operator.core.clock import parse_time
from evolving_operator.core.observed import (
    Child,
    Correction,
    Exit,
    Heard,
    Instructions,
    InvalidField,
    Observed,
    ObservedAgent,
    ObservedConfigMap,
    ObservedDebt,
    ObservedDeployment,
    ObservedJob,
    ObservedPod,
    ObservedRevision,
    Refusal,
    Trouble,
)

Raw = Mapping[str, Any]

_JOB_LABELS = ("batch.kubernetes.io/job-name", "job-name")
_JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
_HEALTHY_WAITS = frozenset({"ContainerCreating", "PodInitializing"})
_OVER = frozenset({"Failed", "Succeeded"})  # phases of a pod
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_observed(
    agent: Raw,
    owned: Iterable[Raw],
    images: Images,
    *,
    refusals: tuple[Refusal, ...] = (),
    corrections: tuple[Correction, ...] = (),
    heard: Mapping[str, Heard] = MappingProxyType({}),
    instructions: Instructions | None = None,
) -> Observed:
    """One agent and all objects that carry its label. `heard`: what pods told themselves, by their names;
    `instructions`: what was read for a spec that only says where they are.

    Raises pydantic.ValidationError where the agent's own status cannot be read: to go on without it would
    mean to forget which model is active.
    """
    read = instructions or Instructions()
    revisions: dict[str, ObservedRevision] = {}
    children: dict[tuple[str, str], Child] = {}
    jobs: list[Raw] = []
    pods: list[ObservedPod] = []
    deployment: ObservedDeployment | None = None
    config_map: ObservedConfigMap | None = None
    observed_agent = read_agent(agent)
    debts: list[ObservedDebt] = []
    own = {observed_agent.uid}  # and its CronJobs: what Jobs belong to
    for raw in owned:
        kind, name = raw["kind"], raw["metadata"]["name"]
        if (debt := read_debt(raw)) is not None:
            debts.append(debt)
        if kind == names.REVISION_KIND:
            if (revision := read_revision(raw, observed_agent.name, observed_agent.uid)) is not None:
                revisions[name] = revision
            continue
        if kind == "Pod":
            pods.append(replace(read_pod(raw), heard=heard.get(name, Heard())))
            continue
        if kind == "Job":
            jobs.append(raw)
            continue
        children[(kind, name)] = _read_child(raw)
        if kind == "CronJob" and (observed_agent.uid in (owners := _owners(raw)) or not owners):
            own.add(raw["metadata"]["uid"])
        if kind == "Deployment" and name == names.deployment(observed_agent.name):
            deployment = read_deployment(raw)
        elif kind == "ConfigMap" and name == names.config_map(observed_agent.name):
            config_map = _read_config_map(raw)
    pods.sort(key=lambda pod: (pod.created, pod.name))
    read_jobs = [read_job(job, pods) for job in jobs]
    # Of an agent of this name that is gone, and about to go too. What releases for such a one is nobody's.
    left = frozenset(
        job.name
        for job in read_jobs
        if job.owners and job.owners.isdisjoint(own) and job.component != names.COMPONENT_RELEASE
    )
    return Observed(
        agent=_instructed(observed_agent, read, deployment, config_map),
        images=images,
        revisions=revisions,
        children=children,
        deployment=deployment,
        config_map=config_map,
        jobs={job.name: job for job in read_jobs if job.name not in left},
        left=left,
        pods=tuple(pods),
        debts=tuple(debts),
        instructions_fault=read.fault,
        refusals=refusals,
        corrections=corrections,
    )


def instructions_ref(agent: Raw) -> ConfigMapKeyRef | None:
    """Where an agent's instructions are, if its spec does not hold them itself."""
    held = ((agent.get("spec") or {}).get("agent") or {}).get("instructionsFrom")
    try:
        return None if held is None else InstructionsFrom.model_validate(held).config_map_key_ref
    except ValidationError:
        return None  # told as any other fault of the spec


def _instructed(
    agent: ObservedAgent,
    read: Instructions,
    deployment: ObservedDeployment | None,
    config_map: ObservedConfigMap | None,
) -> ObservedAgent:
    """The agent with its instructions in its spec. Where they cannot be read, those that are served stay."""
    if isinstance(agent.spec, InvalidField) or agent.spec.agent.instructions is not None:
        return agent
    text, stamp = read.text, deployment.stamp if deployment is not None else None
    if text is None and config_map is not None and config_map.file is not None and stamp is not None:
        served = config_map.file.configs.get(stamp)
        text = served.instructions if served is not None else None
    if text is None:
        fault = InvalidField("spec.agent.instructionsFrom", read.fault, "InstructionsNotFound")
        return replace(agent, spec=fault, kept=agent.spec)
    instructed = agent.spec.agent.model_copy(update={"instructions": text})
    return replace(agent, spec=agent.spec.model_copy(update={"agent": instructed}))


def read_orphaned(owned: Iterable[Raw]) -> tuple[tuple[ObservedDebt, ...], dict[str, ObservedJob]]:
    """What a deleted agent has left: its debts, and the Jobs of its name."""
    objects = list(owned)
    debts = [debt for raw in objects if (debt := read_debt(raw)) is not None]
    if not debts:
        return (), {}
    pods = [read_pod(raw) for raw in objects if raw["kind"] == "Pod"]
    jobs = [read_job(raw, pods) for raw in objects if raw["kind"] == "Job"]
    return tuple(debts), {job.name: job for job in jobs}


def read_debt(raw: Raw) -> ObservedDebt | None:
    """None for what is no debt."""
    metadata, labels = raw["metadata"], raw["metadata"].get("labels") or {}
    if raw["kind"] != "ConfigMap" or labels.get(names.LABEL_COMPONENT) != names.COMPONENT_RELEASE:
        return None
    return ObservedDebt(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        agent=labels.get(names.LABEL_AGENT, ""),
        agent_uid=_annotations(raw).get(names.ANNOTATION_AGENT_UID, ""),
        job=(raw.get("data") or {}).get(DEBT_KEY, ""),
        retry_at=_time(_annotations(raw).get(names.ANNOTATION_RETRY_AT)),
        deleting="deletionTimestamp" in metadata,
    )


def read_agent(raw: Raw) -> ObservedAgent:
    """The EvolvingAgent, with what is wrong with its spec where it is not one."""
    metadata = raw["metadata"]
    spec: EvolvingAgentSpec | InvalidField
    kept: EvolvingAgentSpec | None = None
    try:
        spec = EvolvingAgentSpec.model_validate(raw.get("spec", {}))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(["spec", *(str(part) for part in first["loc"])])
        spec = InvalidField(path, first["msg"].removeprefix("Value error, "))
        kept = _kept_part(raw.get("spec", {}))
    return ObservedAgent(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata.get("generation", 1),
        status=EvolvingAgentStatus.model_validate(own_status(raw)),
        spec=spec,
        run=names.bounded_run(_annotations(raw).get(names.ANNOTATION_RUN)),
        deleting="deletionTimestamp" in metadata,
        kept=kept,
    )


def _kept_part(spec: Raw) -> EvolvingAgentSpec | None:
    """What decides what goes with the agent, in a spec that asks for nothing else: its storage and
    deletionPolicy and, where they are without fault, who trains it. None where the first two are at fault.
    """
    nobody = {"model": {"base": "none"}, "agent": {"instructions": "none"}}
    part = {name: spec[name] for name in ("storage", "deletionPolicy") if name in spec}
    trained = {name: spec[name] for name in ("model", "training") if name in spec}
    for kept in ({**nobody, **trained, **part}, {**nobody, **part}):
        try:
            return EvolvingAgentSpec.model_validate(kept)
        except ValidationError:
            continue
    return None


def own_status(raw: Raw) -> Raw:
    """The status without the conditions of others."""
    status: Raw = raw.get("status") or {}
    conditions = status.get("conditions") or ()
    own = [item for item in conditions if item["type"] in names.CONDITIONS[raw["kind"]]]
    return status if len(own) == len(conditions) else {**status, "conditions": own}


def read_revisions(owned: Iterable[Raw], agent: str, uid: str) -> list[ObservedRevision]:
    """Those of one agent, among all objects that carry its label."""
    found = (read_revision(raw, agent, uid) for raw in owned if raw["kind"] == names.REVISION_KIND)
    return [revision for revision in found if revision is not None]


def read_revision(raw: Raw, agent: str, uid: str) -> ObservedRevision | None:
    """The AgentRevision; None where it is another agent's, unreadable, or on its way out."""
    metadata = raw["metadata"]
    if "deletionTimestamp" in metadata:
        return None
    try:
        spec = AgentRevisionSpec.model_validate(raw.get("spec", {}))
        status = AgentRevisionStatus.model_validate(own_status(raw))
    except ValidationError:
        return None  # the CRD's schema lets no such object in: it is from another version of it
    if spec.agent_ref.name != agent:
        return None
    if not status.verdicts:  # a result that somebody wrote: it says of nothing what it is about
        status = status.updated(result=None, delta_bps=None)
    owners = _owners(raw)
    return ObservedRevision(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata.get("generation", 1),
        created=_time(metadata.get("creationTimestamp")) or _EPOCH,
        spec=spec,
        status=status,
        is_left=bool(owners) and uid not in owners,
        is_orphan=not owners,  # from a backup, or its agent was deleted by `--cascade=orphan`
        made_for=_annotations(raw).get(names.ANNOTATION_AGENT_UID),
    )


def read_deployment(raw: Raw) -> ObservedDeployment:
    spec, status = raw["spec"], raw.get("status") or {}
    progressing = _condition(status, "Progressing")
    exceeded = progressing.get("reason") == "ProgressDeadlineExceeded"
    failure = _condition(status, "ReplicaFailure")
    return ObservedDeployment(
        stamp=_annotations(spec["template"]).get(names.ANNOTATION_CONFIG_HASH),
        applied_hash=_annotations(raw).get(names.ANNOTATION_APPLIED_HASH),
        stale=status.get("observedGeneration", 0) < raw["metadata"].get("generation", 1),
        wanted=spec.get("replicas", 1),
        autoscaled=raw.get("autoscaled", False),
        asked=_annotations(raw).get(names.ANNOTATION_REPLICAS),
        replicas=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        ready=status.get("readyReplicas", 0),
        available=status.get("availableReplicas", 0),
        deadline_exceeded=progressing.get("message", "") if exceeded else None,
        pods_refused=failure.get("message", "") if failure.get("status") == "True" else None,
    )


def read_pod(raw: Raw) -> ObservedPod:
    metadata, status = raw["metadata"], raw.get("status") or {}
    labels = metadata.get("labels") or {}
    container = _own_container(status)
    report, ended = _report(container)
    fault = "" if report is not None else _report_fault(container)
    return ObservedPod(
        name=metadata["name"],
        component=_component(labels),
        created=_time(metadata.get("creationTimestamp")) or _EPOCH,
        stamp=_annotations(raw).get(names.ANNOTATION_CONFIG_HASH),
        job=next((labels[label] for label in _JOB_LABELS if label in labels), None),
        job_uid=labels.get(_JOB_UID_LABEL),
        ready=_condition(status, "Ready").get("status") == "True",
        scheduled=_scheduled(status),
        deleted_at=_time(metadata.get("deletionTimestamp")),
        idle=_is_idle(container),
        over=status.get("phase") in _OVER,
        restarts=container.get("restartCount", 0),
        unready_since=_unready_since(status),
        started=_time((container.get("state") or {}).get("running", {}).get("startedAt")),
        began=_began(container),
        trouble=_trouble(status, container),
        report=report,
        report_fault=fault,
        ended=ended,
        exit=_exit(metadata, status),
        address=status.get("podIP", ""),
    )


def read_job(raw: Raw, pods: Iterable[ObservedPod]) -> ObservedJob:
    """The Job, with the newest report that one of its pods left."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    name = metadata["name"]
    complete, failed = _condition(status, "Complete"), _condition(status, "Failed")
    succeeded = complete.get("status") == "True"
    end = complete if succeeded else failed
    has_ended = end.get("status") == "True"
    created = _time(metadata.get("creationTimestamp")) or _EPOCH
    own = [pod for pod in pods if pod.job == name and pod.job_uid in (None, metadata["uid"])]
    left = None if has_ended else _last_exit(own)  # the Job controller waits for the rest of the pod
    finished: datetime | None = None
    if has_ended:
        finished = _time(status.get("completionTime")) or _time(end.get("lastTransitionTime")) or _EPOCH
    elif left is not None:
        finished = max(left.at, created)  # a node's clock may be behind
    succeeded = succeeded or (left is not None and left.is_success)
    reports = [(pod.ended or pod.created, pod.report) for pod in own if pod.report is not None]
    if succeeded:  # in one of its pods: what another failed at before is no word of the Job's
        reports = [(ended, report) for ended, report in reports if report.outcome is not Outcome.FAILED]
    template = raw.get("spec", {}).get("template", {}).get("spec", {})
    variables = {
        variable["name"]: variable.get("value")
        for container in template.get("containers", [])
        for variable in container.get("env", [])
    }
    return ObservedJob(
        name=name,
        uid=metadata["uid"],
        component=(metadata.get("labels") or {}).get(names.LABEL_COMPONENT, ""),
        created=created,
        finished=finished,
        succeeded=succeeded,
        lingers=left is not None,
        reason="" if succeeded else failed.get("reason", ""),
        message="" if succeeded else failed.get("message", _in_words(left)),
        report=max(reports, key=itemgetter(0))[1] if reports else None,
        report_fault="" if reports else next((pod.report_fault for pod in own if pod.report_fault), ""),
        candidate_hash=variables.get(env.CANDIDATE_HASH),
        incumbent_hash=variables.get(env.INCUMBENT_HASH),
        config_hash=variables.get(env.CONFIG_HASH),
        base=_annotations(raw).get(names.ANNOTATION_BASE),
        training=_annotations(raw).get(names.ANNOTATION_TRAINING),
        made_for=variables.get(env.AGENT_UID),
        run=_annotations(raw).get(names.ANNOTATION_RUN, ""),
        suites=_annotations(raw).get(names.ANNOTATION_SUITES),
        promotion=_annotations(raw).get(names.ANNOTATION_PROMOTION),
        owners=_owners(raw),
        deleting="deletionTimestamp" in metadata,
    )


def _last_exit(pods: Iterable[ObservedPod]) -> Exit | None:
    """What a Job has come to that a sidecar keeps from ending. A success counts, in whichever pod."""
    exits = [pod.exit for pod in pods if pod.exit is not None]
    return max(exits, key=lambda left: (left.is_success, left.at), default=None)


def _in_words(left: Exit | None) -> str:
    if left is None:
        return ""
    why = f" ({left.reason})" if left.reason not in ("", "Error") else ""
    return f"its container ended with exit code {left.code}{why}"


def _owners(raw: Raw) -> frozenset[str]:
    return frozenset(owner["uid"] for owner in raw["metadata"].get("ownerReferences") or ())


def _read_child(raw: Raw) -> Child:
    metadata, annotations = raw["metadata"], _annotations(raw)
    return Child(
        api_version=raw["apiVersion"],
        kind=raw["kind"],
        name=metadata["name"],
        uid=metadata["uid"],
        applied_hash=annotations.get(names.ANNOTATION_APPLIED_HASH),
        owned=raw.get("owned", ""),
        writers=raw.get("writers", ""),
        asked=annotations.get(names.ANNOTATION_SIZE),
        resource_version=metadata.get("resourceVersion", ""),
        deleted_at=_time(metadata.get("deletionTimestamp")),
        finalizers=tuple(metadata.get("finalizers") or ()),
    )


def _read_config_map(raw: Raw) -> ObservedConfigMap:
    text = (raw.get("data") or {}).get(CONFIG_KEY, "")
    return ObservedConfigMap(_annotations(raw).get(names.ANNOTATION_APPLIED_HASH), text)


def _annotations(raw: Raw) -> Mapping[str, str]:
    return (raw.get("metadata") or {}).get("annotations") or {}


def _condition(status: Raw, kind: str) -> Mapping[str, str]:
    conditions: list[Mapping[str, str]] = status.get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == kind), {})


def _own_container(status: Raw) -> Raw:
    """The status of the container that runs our image; users may add others."""
    containers: list[Raw] = status.get("containerStatuses") or []
    ours = (names.CONTAINER_AGENT, names.CONTAINER_JOB)
    return next((container for container in containers if container.get("name") in ours), {})


def _component(labels: Mapping[str, str]) -> str:
    """None ("") of a pod that somebody took out of service, by a label that the Deployment selects by."""
    component = labels.get(names.LABEL_COMPONENT, "")
    serves = names.selector_labels(labels.get(names.LABEL_AGENT, "")).items() <= labels.items()
    return component if serves or component != names.COMPONENT_AGENT else ""


def _scheduled(status: Raw) -> datetime | None:
    scheduled = _condition(status, "PodScheduled")
    return _time(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None


def _is_idle(container: Raw) -> bool:
    is_waiting = "waiting" in (container.get("state") or {})
    return is_waiting and not container.get("restartCount") and not container.get("lastState")


def _report(container: Raw) -> tuple[Report | None, datetime | None]:
    """The report of the container's present end or, where it was started again, of its last one."""
    for state in ("state", "lastState"):
        terminated = (container.get(state) or {}).get("terminated")
        if terminated and (report := parse_report(terminated.get("message", ""))) is not None:
            return report, _time(terminated.get("finishedAt"))
    return None, None


def _exit(metadata: Raw, status: Raw) -> Exit | None:
    """Of the container of a Job, which is never started again, where another one of its pod is not over."""
    if status.get("phase") in _OVER:
        return None
    others: list[Raw] = []
    terminated: Raw = {}
    for container in status.get("containerStatuses") or []:
        state = container.get("state") or {}
        if container.get("name") == names.CONTAINER_JOB:
            terminated = state.get("terminated") or {}
        else:
            others.append(state)
    at = _time(terminated.get("finishedAt"))
    if at is None or not any("running" in state or "waiting" in state for state in others):
        return None
    left = Exit(at, terminated.get("exitCode", 1), terminated.get("reason", ""))
    # All containers of a pod that has to go are ended, ours before others: the Job gets another pod.
    is_ousted = _condition(status, "DisruptionTarget").get("status") == "True"
    return None if (is_ousted or "deletionTimestamp" in metadata) and not left.is_success else left


def _unready_since(status: Raw) -> datetime | None:
    ready = _condition(status, "Ready")
    return _time(ready.get("lastTransitionTime")) if ready.get("status") == "False" else None


def _began(container: Raw) -> datetime | None:
    """When the run of the container began that ended last."""
    ended = [(container.get(state) or {}).get("terminated") or {} for state in ("state", "lastState")]
    return next((_time(run["startedAt"]) for run in ended if run.get("startedAt")), None)


def _report_fault(container: Raw) -> str:
    terminated = (container.get("state") or {}).get("terminated") or {}
    message = terminated.get("message")
    return (report_fault(message) if message else None) or ""


def _trouble(status: Raw, container: Raw) -> Trouble | None:
    """Why it waits: our container, else one of the others."""
    if (own := _waits(container)) is not None:
        return Trouble(*own)
    others = [("init container", "initContainerStatuses"), ("container", "containerStatuses")]
    if container.get("name") == names.CONTAINER_JOB and "waiting" not in (container.get("state") or {}):
        others = []  # a Job's work is done by ours alone
    for what, listed in others:
        for other in status.get(listed) or []:
            if (waits := _waits(other)) is not None:
                reason, message = waits
                return Trouble(reason, f"{what} {other.get('name')}: {message}", is_others=True)
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return Trouble(scheduled.get("reason", "Unschedulable"), scheduled.get("message", ""))
    return None


def _waits(container: Raw) -> tuple[str, str] | None:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason", "")
    return None if not reason or reason in _HEALTHY_WAITS else (reason, waiting.get("message", ""))


def _time(text: str | None) -> datetime | None:
    return parse_time(text) if text else None
