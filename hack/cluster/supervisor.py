"""PID 1 of a built cluster's own pid, mount and network namespaces, started by `up`.

    supervisor.py INSTRUCTIONS.json LISTENER_FD

It mounts what the components need (all of it vanishes with the namespace), keeps the components
running, hands the connections of LISTENER_FD (a socket opened on the machine's 127.0.0.1, where it
stays) to the API server inside, and opens new volume directories to the pods. It needs nothing but
this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# kube-controller-manager's hostpath provisioner has this path built in.
PROVISIONED = Path("/tmp/hostpath_pv")
POLL_SECONDS = 0.1
RESTART_SECONDS = 1.0
RELAY_BYTES = 1 << 16


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def prepare_mounts(volumes: Path) -> None:
    """/sys of this network namespace with the machine's cgroups, private /run and /var/log, the volumes."""
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/mnt")
    Path("/mnt/cgroups").mkdir()
    mount("--rbind", "/sys/fs/cgroup", "/mnt/cgroups")
    mount("-t", "sysfs", "sysfs", "/sys")  # hides the cgroups: hence the bind before it and the one after
    mount("--rbind", "/mnt/cgroups", "/sys/fs/cgroup")
    subprocess.run(["umount", "-l", "/mnt/cgroups"], check=True)
    subprocess.run(["umount", "-l", "/mnt"], check=True)
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for name in ("lock", "netns"):
        Path("/run", name).mkdir()
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/var/log")
    PROVISIONED.mkdir(exist_ok=True)
    mount("--bind", str(volumes), str(PROVISIONED))
    mount("--make-rshared", "/")


def answers(condition: str) -> bool:
    """Whether a URL answers 200, or a path exists."""
    if not condition.startswith("http"):
        return not condition or Path(condition).exists()
    # Loopback in the cluster's own namespace: only liveness counts, not whose certificate it is.
    context = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(condition, timeout=2, context=context) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


class Supervisor:
    """Starts the components in order and starts again what ends."""

    def __init__(self, instructions: Mapping[str, Any]) -> None:
        self.instructions = instructions
        self.logs = Path(instructions["logs"])
        self.pids = Path(instructions["pids"])
        self.ended: dict[int, asyncio.Future[int]] = {}
        self.environment = {
            "PATH": f"{instructions['binaries']}:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            # With Go's default, collecting garbage takes a third of the time in which thousands of objects
            # are made. This takes memory instead, within a bound.
            "GOGC": "300",
            "GOMEMLIMIT": "8GiB",
        }

    def reap(self) -> None:
        """Collect every child that ended: the components, and the orphans that PID 1 inherits."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if waiting := self.ended.pop(pid, None):
                waiting.set_result(os.waitstatus_to_exitcode(status))

    def start(self, name: str, command: list[str]) -> asyncio.Future[int]:
        """Start a component; the future gives its exit status (negative: the signal that ended it)."""
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, cwd="/"
            )
        (self.pids / name).write_text(f"{process.pid}\n", encoding="utf-8")
        # reap() is what waits for it: Popen must not try to when the object goes.
        process.returncode = 0
        ended = asyncio.get_running_loop().create_future()
        self.ended[process.pid] = ended
        return ended

    async def keep_running(self, name: str, command: list[str], after: str) -> None:
        """One component, for as long as the cluster lives."""
        while not await asyncio.to_thread(answers, after):  # noqa: ASYNC110 (another process decides)
            await asyncio.sleep(POLL_SECONDS)
        while True:
            status = await self.start(name, command)
            print(f"{name} ended with status {status}; starting it again", flush=True)
            await asyncio.sleep(RESTART_SECONDS)

    async def open_volumes(self) -> None:
        """Let pods write to their volumes, whatever user they run as.

        The hostpath provisioner makes each directory root's own with mode 0750, and kubelet applies
        fsGroup to no hostPath volume: a container that is not root could not even list its own volume.
        """
        opened: set[str] = set()
        while True:
            names = set(os.listdir(PROVISIONED))
            for name in names - opened:
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(PROVISIONED / name, 0o777)
            opened = names
            await asyncio.sleep(POLL_SECONDS)

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from the machine to the API server, both ways until both sides are done."""

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(RELAY_BYTES):
                sink.write(data)
                await sink.drain()
            sink.write_eof()

        inner: asyncio.StreamWriter | None = None
        with contextlib.suppress(OSError):
            answers_from, inner = await asyncio.open_connection("127.0.0.1", self.instructions["target_port"])
            await asyncio.gather(copy(reader, inner), copy(answers_from, writer))
        for side in (inner, writer):
            if side is not None:
                side.close()

    async def run(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        loop.add_signal_handler(signal.SIGCHLD, self.reap)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        server = await asyncio.start_server(self.relay, sock=listener)
        tasks = [asyncio.create_task(self.open_volumes())]
        tasks += [
            asyncio.create_task(self.keep_running(item["name"], item["command"], item["after"]))
            for item in self.instructions["components"]
        ]
        stop = asyncio.create_task(stopped.wait())
        done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        server.close()
        for task in done - {stop}:
            task.result()  # a task that ended is a defect: let its error reach the log


def main() -> None:
    instructions = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    prepare_mounts(Path(instructions["volumes"]))
    listener = socket.socket(fileno=int(sys.argv[2]))
    listener.set_inheritable(False)
    asyncio.run(Supervisor(instructions).run(listener))


if __name__ == "__main__":
    main()
