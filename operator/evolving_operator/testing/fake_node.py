"""Plays the controllers and kubelet on a `FakeCluster`: rolls Deployments out, runs and ends Jobs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from evolving_agent.contract.report import Report, encode_report
from evolving_operator.api import names
from evolving_operator.core.clock import rfc3339
from evolving_operator.testing.fake_cluster import FakeCluster

Raw = dict[str, Any]


@dataclass
class FakeNode:
    cluster: FakeCluster
    namespace: str = "default"

    @property
    def _now(self) -> datetime:
        return self.cluster.clock()

    def deployment(self, agent: str) -> Raw:
        found = self.cluster.get("Deployment", names.deployment(agent), self.namespace)
        assert found is not None, f"there is no Deployment of {agent}"  # noqa: S101 - a test's own fault
        return found

    def roll_out(self, agent: str) -> None:
        """All serving pods run what the Deployment asks for."""
        raw = self.deployment(agent)
        count = raw["spec"].get("replicas", 1)
        raw["status"] = {
            "observedGeneration": raw["metadata"]["generation"],
            "replicas": count,
            "updatedReplicas": count,
            "readyReplicas": count,
            "availableReplicas": count,
        }
        self.cluster.put(raw)
        for pod in self.pods(agent, names.COMPONENT_AGENT):
            self.cluster.remove("Pod", pod["metadata"]["name"], self.namespace)
        for index in range(count):
            self._pod(agent, raw, index, ready=True)

    def stick(
        self, agent: str, status: Raw | None = None, *, restarts: int = 0, pod: Raw | None = None
    ) -> str:
        """One new pod that does not become ready, beside the old ones. Returns its name.

        `status` is the container's status, e.g. `{"state": {"waiting": {"reason": …}}}`; `pod` adds to
        that of the pod.
        """
        raw = self.deployment(agent)
        old = raw.get("status") or {}
        ready = old.get("readyReplicas", 0)
        raw["status"] = {
            "observedGeneration": raw["metadata"]["generation"],
            "replicas": ready + 1,
            "updatedReplicas": 1,
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        self.cluster.put(raw)
        container = {**(status or {}), "restartCount": restarts}
        return self._pod(agent, raw, 99, ready=False, container=container, more=pod)

    def lose_readiness(self, agent: str, since: datetime | None = None) -> None:
        """No serving pod answers its probe any more; all of them run. Pods may tell since when."""
        raw = self.deployment(agent)
        raw["status"] |= {"readyReplicas": 0, "availableReplicas": 0}
        self.cluster.put(raw)
        told = {} if since is None else {"lastTransitionTime": rfc3339(since)}
        for pod in self.pods(agent, names.COMPONENT_AGENT):
            pod["status"]["conditions"] = [{"type": "Ready", "status": "False", **told}]
            self.cluster.put(pod)

    def exceed_deadline(self, agent: str) -> None:
        """The Deployment controller gives the rolling restart up."""
        message = "ReplicaSet has timed out progressing."
        self._tell(agent, "Progressing", "False", "ProgressDeadlineExceeded", message)

    def refuse_pods(self, agent: str, message: str | None) -> None:
        """The API server takes no pod of the Deployment; None: it does again."""
        self._tell(agent, "Progressing", "True", "ReplicaSetUpdated", "")
        failing = "False" if message is None else "True"
        self._tell(agent, "ReplicaFailure", failing, "FailedCreate", message or "")

    def _tell(self, agent: str, kind: str, status: str, reason: str, message: str) -> None:
        """A condition of the Deployment, as its controller sees it now."""
        raw = self.deployment(agent)
        told = {"type": kind, "status": status, "reason": reason, "message": message}
        others = [item for item in raw["status"].get("conditions", ()) if item["type"] != kind]
        raw["status"] |= {"conditions": [*others, told], "observedGeneration": raw["metadata"]["generation"]}
        self.cluster.put(raw)

    def start_job(self, agent: str, component: str, name: str) -> None:
        """A Job as the CronJob controller creates it, where the CronJob is there."""
        cron_job = self.cluster.get("CronJob", f"{agent}-{component}", self.namespace)
        owners: list[Raw] = []
        annotations: Raw = {}
        spec: Raw = {"template": {"spec": {"containers": []}}}
        if cron_job is not None:
            owners = [{"uid": cron_job["metadata"]["uid"], "controller": True}]
            template = cron_job["spec"]["jobTemplate"]
            annotations, spec = template["metadata"].get("annotations", {}), template["spec"]
        self.cluster.put(
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {
                    "name": name,
                    "namespace": self.namespace,
                    "labels": names.labels(agent, component),
                    "annotations": annotations,
                    "ownerReferences": owners,
                },
                "spec": spec,
            }
        )

    def finish_job(self, name: str, report: Report | None, *, failed: tuple[str, str] | None = None) -> None:
        """The Job's pod ends and leaves the report; `failed` is reason and message of a failed Job."""
        raw = self.cluster.get("Job", name, self.namespace)
        assert raw is not None, f"there is no Job {name}"  # noqa: S101 - a test's own fault
        now = rfc3339(self._now)
        labels = raw["metadata"]["labels"]
        if report is not None:
            self.cluster.put(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "name": f"{name}-pod",
                        "namespace": self.namespace,
                        "labels": {**labels, "batch.kubernetes.io/job-name": name},
                    },
                    "status": {
                        "phase": "Succeeded",
                        "containerStatuses": [
                            {
                                "name": names.CONTAINER_JOB,
                                "state": {
                                    "terminated": {
                                        "message": encode_report(report).decode(),
                                        "finishedAt": now,
                                    }
                                },
                            }
                        ],
                    },
                }
            )
        kind = "Complete" if failed is None else "Failed"
        reason, message = failed or ("CompletionsReached", "")
        raw["status"] = {
            "conditions": [
                {
                    "type": kind,
                    "status": "True",
                    "reason": reason,
                    "message": message,
                    "lastTransitionTime": now,
                }
            ]
        }
        self.cluster.put(raw)

    def pods(self, agent: str, component: str) -> list[Raw]:
        wanted = names.labels(agent, component)
        return [
            pod
            for pod in self.cluster.all("Pod")
            if wanted.items() <= (pod["metadata"].get("labels") or {}).items()
        ]

    def _pod(
        self,
        agent: str,
        deployment: Raw,
        index: int,
        *,
        ready: bool,
        container: Raw | None = None,
        more: Raw | None = None,
    ) -> str:
        template = copy.deepcopy(deployment["spec"]["template"]["metadata"])
        stamp = template["annotations"][names.ANNOTATION_CONFIG_HASH]
        name = f"{agent}-{stamp}-{index}"
        self.cluster.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {**template, "name": name, "namespace": self.namespace},
                "status": {
                    "phase": "Running" if ready else "Pending",
                    "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
                    "containerStatuses": [
                        {"name": names.CONTAINER_AGENT, "restartCount": 0, **(container or {})}
                    ],
                    "podIP": f"10.0.0.{index + 1}",
                    **(more or {}),
                },
            }
        )
        return name
