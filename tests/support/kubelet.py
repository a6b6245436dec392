"""Plays kubelet where there are controllers but no node: says that pods are ready, and ends Jobs' pods."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from evolving_agent.contract.report import Report, encode_report
from evolving_operator.api import names
from support.cluster import RunningCluster, eventually

Raw = dict[str, Any]


@dataclass(frozen=True)
class Kubelet:
    cluster: RunningCluster
    namespace: str
    pod_ip: str = ""  # of all pods, where somebody is to find them

    def pods(self, *selector: str) -> list[Raw]:
        listed = self.cluster.get("pods", "-n", self.namespace, "-l", ",".join(selector))
        items: list[Raw] = listed["items"]
        return items

    def serve(self, agent: str) -> int:
        """Every serving pod of the agent becomes ready. Returns how many there are."""
        pods = self.pods(f"{names.LABEL_AGENT}={agent}", f"{names.LABEL_COMPONENT}={names.COMPONENT_AGENT}")
        for pod in pods:
            self._report(pod, "Running", running(), ready=True)
        return len(pods)

    def wait_for_service(self, agent: str, stamp: str, replicas: int) -> None:
        """Go on making pods ready until `replicas` of them, all with the stamp, are what is left."""

        def settled() -> bool:
            self.serve(agent)
            found = self.cluster.get("deployment", names.deployment(agent), "-n", self.namespace)
            status, template = found.get("status", {}), found["spec"]["template"]["metadata"]
            counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")]
            is_stamped = template["annotations"][names.ANNOTATION_CONFIG_HASH] == stamp
            return is_stamped and counts == [replicas] * 3

        eventually(settled, timeout=60, message=f"{replicas} pods of {agent} serve {stamp}")

    def fail_to_start(self, agent: str, reason: str, message: str) -> None:
        """The serving pods wait, and say why."""
        selector = (f"{names.LABEL_AGENT}={agent}", f"{names.LABEL_COMPONENT}={names.COMPONENT_AGENT}")
        for pod in eventually(lambda: self.pods(*selector), timeout=30, message="a serving pod"):
            self._report(pod, "Pending", {"waiting": {"reason": reason, "message": message}}, ready=False)

    def end_job(self, job: str, report: Report | None, *, exit_code: int = 0) -> None:
        """The Job's pod runs and leaves the report."""
        selector = f"batch.kubernetes.io/job-name={job}"
        pod = eventually(lambda: self.pods(selector), timeout=30, message=f"a pod of Job {job}")[0]
        phase = "Succeeded" if exit_code == 0 else "Failed"
        self._report(pod, phase, {"terminated": terminated(report, exit_code)}, ready=False)

    def _report(self, pod: Raw, phase: str, state: Raw, *, ready: bool) -> None:
        if pod.get("status", {}).get("phase") == phase and phase == "Running":
            return
        status = pod_status(pod, phase, state, ready=ready)
        if self.pod_ip:
            status |= {"podIP": self.pod_ip, "podIPs": [{"ip": self.pod_ip}]}
        self.cluster.kubectl(
            "patch",
            "pod",
            pod["metadata"]["name"],
            "-n",
            self.namespace,
            "--subresource=status",
            "--type=merge",
            "-p",
            json.dumps({"status": status}),
            check=False,  # a pod may go while we speak for it
        )


def pod_status(pod: Raw, phase: str, state: Raw, *, ready: bool) -> Raw:
    """What kubelet says of a pod whose only container is in `state`."""
    container = pod["spec"]["containers"][0]
    word = "True" if ready else "False"
    return {
        "phase": phase,
        "conditions": [
            {"type": kind, "status": word, "lastTransitionTime": _now()}
            for kind in ("Ready", "ContainersReady")
        ]
        # A scheduler that knows of no node says otherwise.
        + [{"type": "PodScheduled", "status": "True", "lastTransitionTime": _now()}],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": ready,
                "restartCount": 0,
                "state": state,
            }
        ],
    }


def running() -> Raw:
    """The state of a container that runs."""
    return {"running": {"startedAt": _now()}}


def terminated(report: Report | None, exit_code: int) -> Raw:
    """How a container ended, and the report that it left."""
    return {
        "exitCode": exit_code,
        "reason": "Completed" if exit_code == 0 else "Error",
        "startedAt": _now(),
        "finishedAt": _now(),
        "message": encode_report(report).decode() if report is not None else "",
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
