"""One decision's view of an agent: what was observed, what follows from it directly, and the time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from evolving_agent.contract.config import AgentConfig
from evolving_operator.api import names
from evolving_operator.api.models import (
    EvolvingAgentSpec,
    EvolvingAgentStatus,
    RevisionRef,
    RolloutStatus,
    RolloutStep,
)
from evolving_operator.core.builders.base import Manifest, manifest_digest
from evolving_operator.core.builders.context import BuildContext
from evolving_operator.core.builders.deployment import build_deployment
from evolving_operator.core.builders.training_settings import training_settings
from evolving_operator.core.clock import Timers, rfc3339
from evolving_operator.core.observed import Observed, ObservedPod, ObservedRevision
from evolving_operator.core.render import render_agent_config

# What a crash loop looks like before any deadline has passed.
CRASH_LOOP_RESTARTS = 3
TRIALS = frozenset({RolloutStep.SHADOW, RolloutStep.CANARY})
STATUS_LOST = "StatusLost"  # the reason of a rollout that is told of anew, by what the revisions tell
_UNDER_WAY = frozenset({RolloutStep.RESTART, RolloutStep.BAKE})


def applied_hash(manifest: Manifest) -> str:
    """The hash that a builder wrote on what it built."""
    value: str = manifest["metadata"].get("annotations", {}).get(names.ANNOTATION_APPLIED_HASH, "")
    return value


@dataclass(frozen=True)
class Situation:
    """A valid agent that is not being deleted. `timers` collects when to look again."""

    observed: Observed
    spec: EvolvingAgentSpec
    now: datetime
    timers: Timers

    @property
    def status(self) -> EvolvingAgentStatus:
        return self.observed.agent.status

    @property
    def agent(self) -> str:
        return self.observed.agent.name

    @cached_property
    def timestamp(self) -> str:
        return rfc3339(self.now)

    @cached_property
    def context(self) -> BuildContext:
        agent = self.observed.agent
        return BuildContext(agent.name, agent.namespace, agent.uid, self.spec, self.observed.images)

    @cached_property
    def training_settings(self) -> str:
        """Raises ValueError for a spec without `training`."""
        return training_settings(self.context)

    @cached_property
    def base_revision(self) -> str:
        """Name of the revision of the base model that the spec names now."""
        return names.revision(self.agent, self.spec.model.base, "", "Base", "")

    def revision(self, ref: RevisionRef | None) -> ObservedRevision | None:
        return None if ref is None else self.observed.revisions.get(ref.revision)

    def config_of(self, ref: RevisionRef) -> AgentConfig:
        return render_agent_config(self.context, ref.revision, ref.model_id)

    @cached_property
    def active_config(self) -> AgentConfig | None:
        return None if self.status.active is None else self.config_of(self.status.active)

    @cached_property
    def active_hash(self) -> str | None:
        """The stamp that the serving pods are to carry."""
        return None if self.active_config is None else self.active_config.hash

    @property
    def rollout_under_way(self) -> bool:
        """Whether users are being moved to a revision that has not yet held its own."""
        return self.status.rollout is not None and self.status.rollout.step in _UNDER_WAY

    @property
    def trial(self) -> RolloutStatus | None:
        """A candidate's trial on live requests, where one is under way."""
        rollout = self.status.rollout
        return rollout if rollout is not None and rollout.step in TRIALS else None

    @property
    def trial_name(self) -> str | None:
        """Tells a candidate's trial from that of the same revision before it was nominated anew."""
        candidate = self.status.candidate
        return None if candidate is None else f"{candidate.revision}@{candidate.since}"

    @property
    def pinned(self) -> bool:
        return self.spec.rollout.pin != ""

    @property
    def held(self) -> bool:
        """Whether what is served is what the pin names: no rollback touches it."""
        return self.status.active is not None and self.status.active.revision == self.spec.rollout.pin

    @cached_property
    def wanted_deployment(self) -> Manifest | None:
        if self.active_hash is None:
            return None
        return build_deployment(self.context, self.active_hash, sets_replicas=not self.is_autoscaled)

    @cached_property
    def template_hash(self) -> str | None:
        """Of the pod template that the serving pods are to have."""
        wanted = self.wanted_deployment
        return None if wanted is None else manifest_digest(wanted["spec"]["template"])

    def after(self, status: EvolvingAgentStatus) -> Situation:
        """The same, as it will be once this status is written."""
        agent = replace(self.observed.agent, status=status)
        return replace(self, observed=replace(self.observed, agent=agent))

    @property
    def is_autoscaled(self) -> bool:
        """Whether the Deployment's replicas are an autoscaler's since the user last spoke about them."""
        deployment, replicas = self.observed.deployment, self.spec.agent.replicas
        return (
            deployment is not None
            and deployment.autoscaled
            and deployment.asked == str(replicas)
            and replicas > 0
        )

    @cached_property
    def settled(self) -> bool:
        """Whether all serving pods run the active configuration, and no other pod is left.

        All from one snapshot of the Deployment that carries the stamp itself: an older snapshot, taken
        before the stamp changed, cannot be mistaken for the end of the restart.
        """
        deployment, wanted = self.observed.deployment, self.wanted_deployment
        return (
            deployment is not None
            and wanted is not None
            and deployment.applied_hash == applied_hash(wanted)
            and deployment.stamp == self.active_hash
            and deployment.rolled_out
            and (self.is_autoscaled or deployment.wanted == self.spec.agent.replicas)
        )

    @cached_property
    def serving_pods(self) -> tuple[ObservedPod, ...]:
        """Serving pods that are there to stay; those of the wanted configuration come first."""
        pods = [
            pod
            for pod in self.observed.pods
            if pod.component == names.COMPONENT_AGENT and pod.job is None and not (pod.deleted_at or pod.over)
        ]
        return tuple(sorted(pods, key=lambda pod: pod.stamp != self.active_hash))
