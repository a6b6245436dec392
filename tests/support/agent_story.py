"""The life of one agent, told against a real API server: a user, kubelet, and what is left at the end.

The end is told without what differs from run to run: times, the namespace, the agent's UID.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from evolving_agent.contract.report import (
    CurationReport,
    DatasetRef,
    EvaluationReport,
    Outcome,
    Report,
    SuiteResult,
    ValidationReport,
)
from evolving_operator.api import names
from evolving_operator.cluster.errors import ClusterError
from evolving_operator.cluster.kinds import AGENT, EVENT, OWNED, REVISION, Kind, kind_of
from evolving_operator.cluster.live import LiveGateway
from evolving_operator.testing.simulation import revision_of, training_report
from support.cluster import eventually_async
from support.kubelet import pod_status, running, terminated

Raw = dict[str, Any]

NAME = "support"
_POD = kind_of("v1", "Pod")
_NODE_POLL_SECONDS = 0.25
PASSAGE_SECONDS = 180  # for one passage of the story; a machine that is busy is slow, not wrong
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
# Chosen by the API server or its controllers.
_ALLOTTED = frozenset({"clusterIP", "clusterIPs", "volumeName"})
# Events of what may have begun and ended while the operator was dead: it then tells of the end only.
PASSING = frozenset({"CurationStarted", "TrainingStarted"})

SPEC: Raw = {
    "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
    "agent": {"instructions": "You route requests.", "replicas": 2},
    "curation": {"schedule": "0 1 1 1 *"},
    "training": {
        "schedule": "0 3 1 1 *",
        "backend": {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}},
    },
    "rollout": {"bakeSeconds": 0},
}


@dataclass
class Story:
    """The user, kubelet, and whoever looks at what is left."""

    gateway: LiveGateway
    namespace: str

    async def tell(self) -> None:
        """Created, served; curated; trained, proven, promoted, validated; once more, and taken back.

        Raises NotInTimeError, naming the passage.
        """
        await self._apply()
        await self._reach("the base model is served", _is_well)
        await self._apply("curate:1")
        await self._reach("curated", lambda status: status["curation"]["state"] == "Succeeded")
        await self._apply("finetune:1")
        await self._reach("promoted", _has_rollout(_GOOD, "Done"))
        await self._apply("finetune:2")
        await self._reach("taken back", _has_rollout(_BAD, "RolledBack"))
        await self._reach("the first model is served again", _is_well)

    async def play_node(self) -> None:
        """Serving pods become ready, Jobs' pods end with the report that the story has for them."""
        while True:
            with contextlib.suppress(ClusterError):  # a pod may go while we speak for it
                for pod in (await self.gateway.list_all(_POD, self.namespace))[0]:
                    await self._play_kubelet(pod)
            await asyncio.sleep(_NODE_POLL_SECONDS)

    async def state(self) -> Raw:
        """What is left: status, children, revisions, and how many Jobs and Events there are of each sort."""
        agent = await self.gateway.read(AGENT, self.namespace, NAME)
        state: Raw = {
            "status": agent["status"],
            "children": {},
            "revisions": {},
            "jobs": Counter(),
            "events": Counter(
                event["reason"]
                for event in await self._all(EVENT)
                if event.get("reportingController") == names.MANAGED_BY and event["reason"] not in PASSING
            ),
        }
        for kind in OWNED:
            for raw in await self._all(kind):
                name = raw["metadata"]["name"]
                if kind == REVISION:
                    state["revisions"][name] = {"spec": raw["spec"], "status": raw["status"]}
                elif kind.kind == "Job":
                    state["jobs"][component_of(name)] += 1
                elif kind != _POD:
                    state["children"][f"{kind.kind}/{name}"] = _essence(raw)
        text = json.dumps(state).replace(agent["metadata"]["uid"], "UID").replace(self.namespace, "NAMESPACE")
        normal: Raw = json.loads(_TIME.sub("TIME", text))
        return normal

    async def _apply(self, run: str | None = None) -> None:
        metadata: Raw = {"name": NAME, "namespace": self.namespace}
        if run is not None:
            metadata["annotations"] = {names.ANNOTATION_RUN: run}
        agent = {"apiVersion": AGENT.api_version, "kind": AGENT.kind, "metadata": metadata, "spec": SPEC}
        await self.gateway.apply(agent)

    async def _reach(self, passage: str, is_reached: Callable[[Raw], bool]) -> None:
        async def reached() -> bool:
            try:
                return is_reached((await self.gateway.read(AGENT, self.namespace, NAME))["status"])
            except (KeyError, ClusterError):  # a field that is not there yet, or a server that is busy
                return False

        await eventually_async(reached, PASSAGE_SECONDS, passage)

    async def _play_kubelet(self, pod: Raw) -> None:
        labels, phase = pod["metadata"]["labels"], pod.get("status", {}).get("phase")
        job = labels.get("batch.kubernetes.io/job-name")
        if job is None and phase == "Pending":
            status = pod_status(pod, "Running", running(), ready=True)
        elif phase == "Pending" and (report := _REPORTS.get(job)) is not None:
            status = pod_status(pod, "Succeeded", {"terminated": terminated(report, 0)}, ready=False)
        else:
            return
        metadata = {"name": pod["metadata"]["name"], "namespace": self.namespace}
        await self.gateway.apply_status(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}
        )

    async def _all(self, kind: Kind) -> list[Raw]:
        return (await self.gateway.list_all(kind, self.namespace))[0]


def _essence(raw: Raw) -> Raw:
    """Of a child, what the operator asks for. Its hash covers the UID and says nothing between runs."""
    annotations = {
        key: value
        for key, value in raw["metadata"].get("annotations", {}).items()
        if key.startswith(names.GROUP) and key != names.ANNOTATION_APPLIED_HASH
    }
    spec = {key: value for key, value in raw.get("spec", {}).items() if key not in _ALLOTTED}
    return {
        "labels": raw["metadata"]["labels"],
        "annotations": annotations,
        "owners": raw["metadata"].get("ownerReferences"),
        "spec": spec,
        "data": raw.get("data"),
    }


def component_of(job: str) -> str:
    """`evaluate` of `support-evaluate-1a2b3c4d`."""
    return job.removeprefix(f"{NAME}-").partition("-")[0]


def _is_well(status: Raw) -> bool:
    conditions = {item["type"]: item for item in status["conditions"]}
    found = conditions["Progressing"]["reason"], conditions["Ready"]["status"]
    return found == ("Converged", "True")


def _has_rollout(revision: str, step: str) -> Callable[[Raw], bool]:
    return lambda status: (status["rollout"]["revision"], status["rollout"]["step"]) == (revision, step)


# --- what the Jobs report -------------------------------------------------------------------------

_GOOD, _BAD = revision_of(NAME, "smollm2-ft-1"), revision_of(NAME, "smollm2-ft-2")


def _suite(candidate: int) -> SuiteResult:
    return SuiteResult(
        suite="holdout",
        samples=50,
        baseline_bps=2000,
        candidate_bps=candidate,
        delta_bps=candidate - 2000,
        lower_bps=candidate - 3500,
    )


def _reports() -> Iterator[tuple[str, Report]]:
    """By the name of the Job. A Job that is not in the story never ends."""
    dataset = DatasetRef(version="d1", digest="digest-d1", examples=100, holdout=50)
    succeeded = {"run_id": "run", "outcome": Outcome.SUCCEEDED, "message": ""}
    yield (
        names.on_demand_job(NAME, "curate", "curate:1"),
        CurationReport(**succeeded, reason="DatasetWritten", dataset=dataset),
    )
    for number, revision, score in ((1, _GOOD, 8500), (2, _BAD, 3000)):
        yield (
            names.on_demand_job(NAME, "finetune", f"finetune:{number}"),
            training_report(f"smollm2-ft-{number}"),
        )
        yield (
            names.evaluate_job(revision, ""),
            EvaluationReport(
                **succeeded,
                reason="Measured",
                candidate="candidate",
                incumbent="incumbent",
                suites=(_suite(8500),),
            ),
        )
        yield (
            names.validate_job(revision),
            ValidationReport(**succeeded, reason="Measured", revision=revision, suites=(_suite(score),)),
        )


_REPORTS = dict(_reports())
