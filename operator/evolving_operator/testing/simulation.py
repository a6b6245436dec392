"""An operator, a cluster and a clock in one process: scenarios are told against it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from evolving_agent.contract.report import (
    CurationReport,
    DatasetRef,
    EvaluationReport,
    Outcome,
    SuiteResult,
    TrainingReport,
    ValidationReport,
)
from evolving_agent.contract.served import ServedCounts
from evolving_operator.api import names
from evolving_operator.api.models import AgentRevisionStatus, Condition, EvolvingAgentStatus
from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.errors import Conflict, NotFound
from evolving_operator.cluster.records import AgentKey
from evolving_operator.core.builders.context import Images
from evolving_operator.core.observed import Heard
from evolving_operator.core.plan import Counting
from evolving_operator.shell.reconciler import Reconciler
from evolving_operator.testing.fake_cluster import FakeCluster
from evolving_operator.testing.fake_node import FakeNode

Raw = dict[str, Any]

_IMAGES = Images(agent="example/agent:1", trainer="example/trainer:1")
_MAX_ROUNDS = 60
_NO_REQUESTS = Heard(ServedCounts())


class UnsettledError(AssertionError):
    """The operator did not become quiet: it writes, and writes again."""


@dataclass
class Requests:
    """What serving pods have to tell of their live requests, each of them the same."""

    followed: Counting | None = None
    told: Heard | None = _NO_REQUESTS  # None: they have not been asked yet

    def follow(self, _: AgentKey, counting: Counting | None) -> None:
        self.followed = counting

    def heard(self, _: AgentKey) -> dict[str, Heard]:
        told, followed = self.told, self.followed
        return {} if told is None or followed is None else {name: told for name, _ in followed.pods}


@dataclass
class Simulation:
    """One agent, `default/support`. The cache is fed by the cluster's watch unless `watch_is_frozen`."""

    agent: str = "support"
    now: datetime = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
    watch_is_frozen: bool = False
    cluster: FakeCluster = field(init=False)
    node: FakeNode = field(init=False)
    cache: Cache = field(init=False)
    reconciler: Reconciler = field(init=False)
    requests: Requests = field(default_factory=Requests)

    def __post_init__(self) -> None:
        self.cluster = FakeCluster(clock=lambda: self.now)
        self.cluster.watchers.append(self._watch)
        self.node = FakeNode(self.cluster)
        self.restart()

    def restart(self) -> None:
        """A new operator process: it knows what the API server tells it, and nothing else."""
        self.cache = self.cluster.filled_cache()
        self.reconciler = Reconciler(
            self.cluster, self.cache, _IMAGES, clock=lambda: self.now, traffic=self.requests
        )

    def _watch(self, event: str, raw: Raw) -> None:
        if not self.watch_is_frozen:
            (self.cache.remove if event == "DELETED" else self.cache.put)(raw)

    # --- time and work ---

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    async def settle(self) -> float | None:
        """Reconcile until there is nothing to do now. Returns the seconds until there will be."""
        for _ in range(_MAX_ROUNDS):
            delay: float | None = 0.0
            followed = self.requests.followed  # what other pods have to tell is news
            with contextlib.suppress(Conflict, NotFound):  # as the queue does: look again
                delay = await self.reconciler.reconcile(("default", self.agent))
            if delay != 0.0 and self.requests.followed == followed:
                return delay
        recent = [f"{write.verb} {write.kind}/{write.name}" for write in self.cluster.writes[-8:]]
        raise UnsettledError(f"still writing after {_MAX_ROUNDS} rounds: {recent}")

    # --- the user ---

    def apply_agent(self, spec: Raw) -> None:
        """Create the agent, or change its spec."""
        known = self.cluster.get(names.AGENT_KIND, self.agent)
        metadata: Raw = {"name": self.agent, "namespace": "default"}
        if known is not None:
            metadata = known["metadata"]
        self.cluster.put(
            {
                "apiVersion": names.API_VERSION,
                "kind": names.AGENT_KIND,
                "metadata": metadata,
                "spec": spec,
            }
        )

    def annotate(self, run: str) -> None:
        raw = self._raw_agent()
        raw["metadata"]["annotations"] = {names.ANNOTATION_RUN: run}
        self.cluster.put(raw)

    def decide(self, revision: str, decision: str) -> None:
        """A person's word on a revision."""
        raw = self.cluster.get(names.REVISION_KIND, revision)
        assert raw is not None, f"there is no revision {revision}"  # noqa: S101 - a test's own fault
        raw["spec"]["decision"] = decision
        self.cluster.put(raw)

    # --- what is seen ---

    @property
    def status(self) -> EvolvingAgentStatus:
        return EvolvingAgentStatus.model_validate(self._raw_agent().get("status") or {})

    def condition(self, kind: str) -> Condition:
        found = {condition.type: condition for condition in self.status.conditions}
        return found[kind]

    def revision_status(self, name: str) -> AgentRevisionStatus:
        raw = self.cluster.get(names.REVISION_KIND, name)
        assert raw is not None, f"there is no revision {name}"  # noqa: S101 - a test's own fault
        return AgentRevisionStatus.model_validate(raw.get("status") or {})

    def revisions(self) -> list[str]:
        return [raw["metadata"]["name"] for raw in self.cluster.all(names.REVISION_KIND)]

    def jobs(self, component: str) -> list[str]:
        return [
            raw["metadata"]["name"]
            for raw in self.cluster.all("Job")
            if raw["metadata"]["labels"][names.LABEL_COMPONENT] == component
        ]

    def events(self) -> list[str]:
        return [raw["reason"] for raw in self.cluster.all("Event")]

    def stamp(self) -> str:
        """The configuration that the Deployment's pods are stamped with."""
        template = self.node.deployment(self.agent)["spec"]["template"]["metadata"]
        return str(template["annotations"][names.ANNOTATION_CONFIG_HASH])

    def _raw_agent(self) -> Raw:
        raw = self.cluster.get(names.AGENT_KIND, self.agent)
        assert raw is not None, f"there is no agent {self.agent}"  # noqa: S101 - a test's own fault
        return raw

    # --- whole passages of the loop ---

    async def serve(self, spec: Raw) -> None:
        """The agent exists and is served."""
        self.apply_agent(spec)
        await self.settle()
        self.node.roll_out(self.agent)
        await self.settle()

    async def curate(self, version: str = "d1", examples: int = 100) -> None:
        name = f"{names.curate_cron_job(self.agent)}-{version}"
        self.node.start_job(self.agent, names.COMPONENT_CURATE, name)
        await self.settle()
        self.pass_time(60)
        dataset = DatasetRef(version=version, digest=f"digest-{version}", examples=examples)
        self.node.finish_job(
            name,
            CurationReport(
                run_id=name,
                outcome=Outcome.SUCCEEDED,
                reason="DatasetWritten",
                message=f"{examples} examples",
                dataset=dataset,
            ),
        )
        await self.settle()

    async def train(self, model: str = "smollm2-ft-1", *, job: str = "support-finetune-1") -> str:
        """A training run that yields the model. Returns the name of the revision that it makes."""
        self.node.start_job(self.agent, names.COMPONENT_FINETUNE, job)
        await self.settle()
        self.pass_time(60)
        self.node.finish_job(job, training_report(model, run_id=job))
        await self.settle()
        return revision_of(self.agent, model)

    async def evaluate(self, revision: str, *, lower: int, delta: int = 4000, samples: int = 50) -> None:
        """The evaluation that is due on the revision ends with these numbers."""
        self.pass_time(60)
        pending = [name for name in self.jobs(names.COMPONENT_EVALUATE) if not self.is_finished(name)]
        assert len(pending) == 1, f"one evaluation was to be under way, not {pending}"  # noqa: S101
        report = evaluation_report(revision, lower=lower, delta=delta, samples=samples)
        self.node.finish_job(pending[0], report)
        await self.settle()

    async def validate(self, revision: str, *, score: int) -> None:
        """The validation of what is served ends with this score, in basis points."""
        self.pass_time(60)
        name = names.validate_job(revision)
        self.node.finish_job(
            name,
            ValidationReport(
                run_id=name,
                outcome=Outcome.SUCCEEDED,
                reason="Measured",
                message="",
                revision=revision,
                suites=(SuiteResult(suite="holdout", samples=50, candidate_bps=score),),
            ),
        )
        await self.settle()

    async def promote(self, model: str = "smollm2-ft-1", *, job: str = "support-finetune-1") -> str:
        """From a training run to a rollout that is done. Returns the revision."""
        revision = await self.train(model, job=job)
        await self.evaluate(revision, lower=2000)
        self.node.roll_out(self.agent)
        await self.settle()
        await self.validate(revision, score=8000)
        self.pass_time(3600)
        await self.settle()
        return revision

    def is_finished(self, job: str) -> bool:
        raw = self.cluster.get("Job", job)
        return raw is not None and bool((raw.get("status") or {}).get("conditions"))


def training_report(model: str, *, run_id: str = "run", base: str = "smollm2") -> TrainingReport:
    """A successful training of that model; another model has another dataset."""
    return TrainingReport(
        run_id=run_id,
        outcome=Outcome.SUCCEEDED,
        reason="Trained",
        message=f"{model} was trained",
        base=base,
        model_id=model,
        backend="LoRA",
        dataset=DatasetRef(version="d1", digest=f"digest-of-{model}", examples=100, holdout=50),
        hyperparameters_digest="hp",
    )


def evaluation_report(revision: str, *, lower: int, delta: int = 4000, samples: int = 50) -> EvaluationReport:
    """Of one suite, in basis points: 4000 for the incumbent, `delta` more for the candidate."""
    return EvaluationReport(
        run_id="evaluation",
        outcome=Outcome.SUCCEEDED,
        reason="Measured",
        message="",
        candidate=revision,
        incumbent="incumbent",
        suites=(
            SuiteResult(
                suite="holdout",
                samples=samples,
                baseline_bps=4000,
                candidate_bps=4000 + delta,
                delta_bps=delta,
                lower_bps=lower,
            ),
        ),
    )


def revision_of(agent: str, model: str, base: str = "smollm2") -> str:
    """The name of the revision that `training_report(model)` makes."""
    return names.revision(agent, base, f"digest-of-{model}", "LoRA", "hp")
