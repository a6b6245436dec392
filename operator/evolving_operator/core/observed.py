"""Everything that is known about one agent at one moment, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

from pydantic import ValidationError

from evolving_agent.contract.config import AgentConfigFile
from evolving_agent.contract.report import Report
from evolving_agent.contract.served import ServedCounts
from evolving_operator.api import names
from evolving_operator.api.models import (
    AgentRevisionSpec,
    AgentRevisionStatus,
    EvolvingAgentSpec,
    EvolvingAgentStatus,
)
from evolving_operator.core.builders.context import Images


@dataclass(frozen=True)
class InvalidField:
    """What is wrong with a spec: the path of the field as a user writes it, and why."""

    field: str
    message: str
    reason: str = "InvalidSpec"


@dataclass(frozen=True)
class Instructions:
    """What was read where `instructionsFrom` points: the text, or why there is none."""

    text: str | None = None
    fault: str = ""


@dataclass(frozen=True)
class ObservedAgent:
    """The EvolvingAgent: what it asks for, or what is wrong with that."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    generation: int
    status: EvolvingAgentStatus
    spec: EvolvingAgentSpec | InvalidField
    run: str | None = None  # the annotation that asks for a run
    deleting: bool = False
    kept: EvolvingAgentSpec | None = None  # of a spec with a fault: what decides what goes with the agent


@dataclass(frozen=True)
class ObservedRevision:
    name: str
    uid: str
    resource_version: str
    generation: int
    created: datetime
    spec: AgentRevisionSpec
    status: AgentRevisionStatus
    is_left: bool = False  # by an agent of the same name that is gone: it is about to go as well
    is_orphan: bool = False  # it would go with no agent
    made_for: str | None = None  # UID of the agent that it was made for; None where an older operator made it


class Child(NamedTuple):  # a dozen are made at each look, in a third of a dataclass's time
    """Any owned object, as far as drift is concerned."""

    api_version: str
    kind: str
    name: str
    uid: str
    applied_hash: str | None
    owned: str = ""  # `ownership.owned_fields`
    writers: str = ""  # `ownership.other_writers`
    asked: str | None = None  # of a volume claim: the size that the agent asked for when it was last applied
    resource_version: str = ""
    deleted_at: datetime | None = None  # when it was asked to go, while something still holds it
    finalizers: tuple[str, ...] = ()  # what holds it

    @property
    def deleting(self) -> bool:
        return self.deleted_at is not None


@dataclass(frozen=True)
class ObservedDeployment:
    """One snapshot of the Deployment; counts mean nothing while `stale`."""

    stamp: str | None  # the configuration's hash in the pod template
    applied_hash: str | None
    stale: bool  # the Deployment controller has not yet seen the newest spec
    wanted: int = 1
    autoscaled: bool = False  # `wanted` is the word of a HorizontalPodAutoscaler
    asked: str | None = None  # the agent's `replicas` when the operator last set `wanted`
    replicas: int = 0
    updated: int = 0
    ready: int = 0
    available: int = 0
    deadline_exceeded: str | None = None  # the controller's message
    pods_refused: str | None = None  # why no pod can be created: a quota, a policy, a webhook

    @property
    def rolled_out(self) -> bool:
        """Whether all wanted pods are of its newest template, and no other pod is left."""
        is_as_wanted = self.updated == self.replicas == self.available == self.wanted
        return is_as_wanted and not self.stale


@dataclass(frozen=True)
class ObservedConfigMap:
    applied_hash: str | None
    text: str  # of agent_config.json

    @cached_property
    def file(self) -> AgentConfigFile | None:
        """None where it cannot be read. Most decisions do not ask."""
        try:
            return AgentConfigFile.model_validate_json(self.text)
        except ValidationError:
            return None


@dataclass(frozen=True)
class ObservedJob:
    name: str
    uid: str
    component: str
    created: datetime
    finished: datetime | None = None
    succeeded: bool = False
    lingers: bool = False  # for us it is over, but another container of its pod keeps it from ending
    reason: str = ""  # why it failed, by the Job controller
    message: str = ""
    report: Report | None = None
    report_fault: str = ""  # what is wrong with what was meant as a report
    candidate_hash: str | None = None
    incumbent_hash: str | None = None
    config_hash: str | None = None  # what a validation asks pods for
    base: str | None = None  # the model that a training starts from
    training: str | None = None  # `names.ANNOTATION_TRAINING`; None where an older operator made it
    made_for: str | None = None  # UID of the agent by which a training marks what it leaves at a provider
    run: str = ""  # the annotation that it was asked for by, if it was
    suites: str | None = None  # `names.ANNOTATION_SUITES`
    promotion: str | None = None  # `names.ANNOTATION_PROMOTION`
    owners: frozenset[str] = frozenset()  # UIDs of what it goes with
    deleting: bool = False


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not run: `reason` as kubelet or scheduler names it."""

    reason: str
    message: str
    is_others: bool = False  # of a container that is none of ours: an init container, or a user's


class Exit(NamedTuple):
    """How our container of a Job's pod ended, while another one of that pod goes on."""

    at: datetime
    code: int
    reason: str = ""  # as the kubelet names it

    @property
    def is_success(self) -> bool:
        return self.code == 0


@dataclass(frozen=True)
class Heard:
    """What a serving pod last told of its live requests, or why it could not tell."""

    served: ServedCounts | None = None
    silence: str = ""  # goes on after "pod NAME"


@dataclass(frozen=True)
class ObservedPod:
    name: str
    component: str
    created: datetime
    stamp: str | None = None
    job: str | None = None
    job_uid: str | None = None
    ready: bool = False
    scheduled: datetime | None = None  # when it found a node
    deleted_at: datetime | None = None  # when it was to be gone, where it was deleted
    idle: bool = False  # our container was never started: it waits for a volume, an image, another container
    over: bool = False  # evicted, for example: none of its containers ever runs again
    restarts: int = 0
    unready_since: datetime | None = None  # where it is not ready, and says so
    started: datetime | None = None  # the run of its container that goes on
    began: datetime | None = None  # the run of its container that ended last
    trouble: Trouble | None = None
    report: Report | None = None
    report_fault: str = ""  # what is wrong with what was meant as a report
    ended: datetime | None = None  # when the container that left the report ended
    exit: Exit | None = None  # of our container, where a sidecar keeps the pod from ending
    address: str = ""  # its IP
    heard: Heard = Heard()


@dataclass(frozen=True)
class Refusal:
    """A write that the API server refused: not repeated at once unless the object differs."""

    kind: str
    name: str
    applied_hash: str | None  # None where it was to be deleted
    reason: str
    message: str
    is_due: bool = False  # to be tried once more: what stood in the way may be gone
    count: int = 1  # so many times in a row


@dataclass(frozen=True)
class Correction:
    """Drift of a child that was set right lately."""

    kind: str
    name: str
    count: int  # how often in a row
    fields: tuple[str, ...]  # what had drifted, the last time
    owned: str  # the child's `owned` after the last time
    is_due: bool = False  # if it drifts again, it may be set right again


@dataclass(frozen=True)
class ObservedDebt:
    """What a provider still has of an agent: see `builders/debt.py`."""

    name: str
    namespace: str
    uid: str
    agent: str
    agent_uid: str
    job: str  # the Job that pays it, as JSON
    retry_at: datetime | None = None
    deleting: bool = False

    def is_of(self, uid: str) -> bool:
        """Whether that agent owes it. Its name says so as well, which nobody can edit."""
        return self.agent_uid == uid or self.name.startswith(names.provider_debts(self.agent, uid))


@dataclass(frozen=True)
class Observed:
    agent: ObservedAgent
    images: Images
    revisions: Mapping[str, ObservedRevision] = field(default_factory=dict)
    children: Mapping[tuple[str, str], Child] = field(default_factory=dict)  # by (kind, name)
    deployment: ObservedDeployment | None = None
    config_map: ObservedConfigMap | None = None
    jobs: Mapping[str, ObservedJob] = field(default_factory=dict)
    left: frozenset[str] = frozenset()  # Jobs of an agent of this name that is gone: they are about to go too
    pods: tuple[ObservedPod, ...] = ()
    debts: tuple[ObservedDebt, ...] = ()
    instructions_fault: str = ""  # why the newest instructions cannot be had: older ones are served
    refusals: tuple[Refusal, ...] = ()
    corrections: tuple[Correction, ...] = ()
