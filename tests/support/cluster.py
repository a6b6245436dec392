"""Real clusters for tests, started and ended through `hack/cluster`, and polling with a deadline."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.2
IMAGES = ("operator", "agent", "model-server")


def image(target: str) -> str:
    """The full name of one of the project's images."""
    return f"localhost/evolving-agents/{target}:0.1.0"


class NotInTimeError(AssertionError):
    """The deadline passed; the text says what was waited for and what was seen last."""


def eventually(predicate: Callable[[], T], timeout: float, message: str) -> T:
    """Poll until `predicate` gives something true, and return that. AssertionError inside: not yet."""
    deadline = time.monotonic() + timeout
    while True:
        seen: object
        try:
            value = predicate()
            if value:
                return value
            seen = value
        except AssertionError as error:
            seen = error
        if time.monotonic() > deadline:
            raise NotInTimeError(f"not within {timeout:g} s: {message}; last seen: {seen!r}")
        time.sleep(POLL_SECONDS)


async def eventually_async(
    predicate: Callable[[], Awaitable[T]],
    timeout: float,  # noqa: ASYNC109 (the deadline is in the message, and the last value with it)
    message: str,
) -> T:
    """`eventually` for a predicate that is awaited; the event loop runs on between the polls."""
    deadline = time.monotonic() + timeout
    while True:
        seen: object
        try:
            value = await predicate()
            if value:
                return value
            seen = value
        except AssertionError as error:
            seen = error
        if time.monotonic() > deadline:
            raise NotInTimeError(f"not within {timeout:g} s: {message}; last seen: {seen!r}")
        await asyncio.sleep(POLL_SECONDS)


def run_tool(tool: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`python3 hack/TOOL ARGUMENTS`; a failure shows what the tool said."""
    command = [sys.executable, str(REPOSITORY / "hack" / tool), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(
            f"hack/{tool} {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}"
        )
    return done


@cache
def program(name: str) -> str:
    """The path of one of the programs that `hack/tools` gets."""
    return run_tool("tools", name).stdout.strip()


@dataclass(frozen=True)
class RunningCluster:
    """A cluster that is up. `kubeconfig` works for clients on this machine (127.0.0.1)."""

    name: str
    kubeconfig: Path

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """kubectl's standard output; with `check`, a failure is an AssertionError in kubectl's own words."""
        command = [program("kubectl"), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """`kubectl get … -o json`, parsed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        """Server-side apply of whole objects."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(listed))

    def helm(self, *arguments: str, check: bool = True) -> str:
        command = [program("helm"), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"helm {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def exec(self, *command: str, check: bool = True) -> str:
        """Output of a command in the cluster's own network, from where pods and services can be reached."""
        return run_tool("cluster", "exec", "--name", self.name, "--", *command, check=check).stdout

    def load_image(self, *images: str) -> None:
        run_tool("cluster", "load-image", "--name", self.name, *images)

    def crash(self, component: str) -> None:
        """Kill a component (kube-apiserver, etcd …) as a power cut would; it starts again by itself."""
        run_tool("cluster", "crash", "--name", self.name, component)

    @contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """A namespace for one test; deleted, without waiting for it, at the end."""
        self.kubectl("create", "namespace", name)
        try:
            # Pods are refused until the controller has made the namespace's default service account.
            eventually(
                lambda: self.kubectl("get", "serviceaccount", "default", "-n", name, check=False),
                timeout=30,
                message=f"default service account in {name}",
            )
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")


@contextmanager
def running_cluster(name: str, tier: str, *options: str) -> Iterator[RunningCluster]:
    """The cluster `name`: used as it is when it is up, else started now and taken down at the end.

    A control plane is built, whatever else there is: tests kill its parts, and read its audit log.
    EVOLVING_KEEP_CLUSTER=1 leaves a started one up, so that the next run begins at once.
    """
    was_up = run_tool("cluster", "status", "--name", name, check=False).returncode == 0
    if tier == "control-plane" and "EVOLVING_CONTEXT" not in os.environ:
        options = ("--provider", "built", *options)
    run_tool("cluster", "up", "--name", name, "--tier", tier, *options)
    try:
        yield RunningCluster(name, Path(run_tool("cluster", "kubeconfig", "--name", name).stdout.strip()))
    finally:
        if not was_up and os.environ.get("EVOLVING_KEEP_CLUSTER") != "1":
            run_tool("cluster", "down", "--name", name)
