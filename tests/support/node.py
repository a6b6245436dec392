"""Plays the nodes of a cluster that has none, for many tests at once: pods become ready, Jobs' pods end.

What the pods of a namespace do is said by its `Ward`; a Job's pod of which it says nothing runs on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from evolving_agent.contract.report import Report
from evolving_operator.api import names
from support.api_client import ApiClient, ApiError
from support.background import background
from support.kubelet import pod_status, running, terminated

Raw = dict[str, Any]

CRASH_LOOP: Raw = {
    "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}
}
BAD_IMAGE: Raw = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}


@dataclass
class Ward:
    """What the pods of one namespace do. Whoever changes it calls `Node.look_again`."""

    reports: dict[str, Report] = field(default_factory=dict)  # by Job: what its pod leaves
    good_stamps: set[str] | None = None  # configurations with which serving pods become ready; None: any
    bad_state: Raw = field(default_factory=lambda: dict(CRASH_LOOP))  # of all other serving pods
    bad_restarts: int = 3

    def status_of(self, pod: Raw) -> Raw | None:
        """What is to be said of the pod; None: nothing new."""
        metadata, phase = pod["metadata"], pod.get("status", {}).get("phase")
        job = metadata.get("labels", {}).get("batch.kubernetes.io/job-name")
        if "deletionTimestamp" in metadata or phase not in ("Pending", "Running"):
            return None
        if job is not None and (report := self.reports.get(job)) is not None:
            return pod_status(pod, "Succeeded", {"terminated": terminated(report, 0)}, ready=False)
        if job is not None or phase == "Running" or self._is_good(metadata):
            status = pod_status(pod, "Running", running(), ready=True)
        else:
            status = pod_status(pod, "Pending", self.bad_state, ready=False)
            status["containerStatuses"][0]["restartCount"] = self.bad_restarts
        is_said = phase == status["phase"] and bool(pod["status"].get("containerStatuses"))
        return None if is_said and not _is_homeless(pod) else status

    def _is_good(self, metadata: Raw) -> bool:
        stamp = metadata.get("annotations", {}).get(names.ANNOTATION_CONFIG_HASH)
        return self.good_stamps is None or stamp in self.good_stamps


def _is_homeless(pod: Raw) -> bool:
    """Whether the scheduler, which knows of no node, has had the last word."""
    conditions = pod["status"].get("conditions", ())
    return any(item["type"] == "PodScheduled" and item["status"] == "False" for item in conditions)


@dataclass
class Node:
    """One watch for all namespaces."""

    api: ApiClient
    _wards: dict[str, Ward] = field(default_factory=dict)
    _pods: dict[tuple[str, str], Raw] = field(default_factory=dict)

    def working(self) -> AbstractAsyncContextManager[None]:
        return background(self._work())

    @asynccontextmanager
    async def caring_for(self, namespace: str) -> AsyncIterator[Ward]:
        self._wards[namespace] = ward = Ward()
        try:
            yield ward
        finally:
            del self._wards[namespace]

    async def look_again(self, namespace: str) -> None:
        """The ward has changed."""
        for (where, _), pod in list(self._pods.items()):
            if where == namespace:
                await self._tend(pod)

    async def _work(self) -> None:
        while True:
            # The server may be away for a while: that is what some tests are about.
            with suppress(aiohttp.ClientError, ApiError, TimeoutError, OSError):
                async for event, pod in self.api.watch("pods", names.LABEL_AGENT):
                    await self._see(event, pod)
            await asyncio.sleep(0.5)

    async def _see(self, event: str, pod: Raw) -> None:
        if event not in ("ADDED", "MODIFIED", "DELETED"):
            return
        key = pod["metadata"]["namespace"], pod["metadata"]["name"]
        if event == "DELETED":
            self._pods.pop(key, None)
            return
        self._pods[key] = pod
        await self._tend(pod)

    async def _tend(self, pod: Raw) -> None:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        ward = self._wards.get(namespace)
        status = ward.status_of(pod) if ward is not None else None
        if status is None:
            return
        with suppress(ApiError):  # a pod may go while we speak for it
            patched = await self.api.merge(namespace, "pods", f"{name}/status", {"status": status})
            self._pods[namespace, name] = patched
