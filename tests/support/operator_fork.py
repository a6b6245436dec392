"""Operators that start within milliseconds, each a process of its own that SIGKILL ends like any other.

To import the operator takes most of a second of CPU. One process does that once, and forks an operator for
each request: `python -m support.operator_fork` is that process, `OperatorForks` the tests' end of it.

    in:  {"log": "/tmp/a.log", "environment": {"KUBECONFIG": …}}
    out: {"started": 4711}    later    {"ended": 4711, "code": -9}
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.cluster import REPOSITORY

Raw = dict[str, Any]


# --- the tests' end -------------------------------------------------------------------------------


@dataclass
class ForkedOperator:
    """One operator process. `ended` holds its exit code; negative: the signal."""

    pid: int
    ended: asyncio.Future[int]

    def kill(self) -> None:
        """At once, as a power cut would."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """As Kubernetes would."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if not self.ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass
class OperatorForks:
    """An async context manager; at its end no process is left."""

    _process: asyncio.subprocess.Process = field(init=False)
    _reader: asyncio.Task[None] = field(init=False)
    _starting: list[asyncio.Future[ForkedOperator]] = field(default_factory=list)
    _running: dict[int, ForkedOperator] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "support.operator_fork",
            cwd=REPOSITORY / "tests",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        endings = [operator.ended for operator in self._running.values()]
        for operator in list(self._running.values()):
            operator.kill()
        await asyncio.gather(*endings)
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()
        await self._reader

    async def start(self, log: Path, environment: dict[str, str]) -> ForkedOperator:
        """`evolving-operator run` with these variables; its standard error is appended to `log`."""
        assert self._process.stdin is not None
        started: asyncio.Future[ForkedOperator] = asyncio.get_running_loop().create_future()
        self._starting.append(started)
        request = {"log": str(log), "environment": environment}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return await started

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            if "started" in message:
                pid = message["started"]
                operator = ForkedOperator(pid, asyncio.get_running_loop().create_future())
                self._running[pid] = operator
                self._starting.pop(0).set_result(operator)
            else:
                self._running.pop(message["ended"]).ended.set_result(message["code"])


# --- the forking process --------------------------------------------------------------------------


def _serve() -> None:
    """Fork on each line of standard input, tell of each end; leave when standard input ends."""
    from evolving_operator.__main__ import main  # noqa: PLC0415 - the tests' end has no need of it

    _ = main
    gc.collect()
    gc.freeze()  # what is there now stays in pages that the children share
    noticed, notify = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    buffered = b""
    while True:
        ready, _, _ = select.select([0, noticed], [], [])
        if noticed in ready:
            os.read(noticed, 4096)
            _tell_endings()
        if 0 not in ready:
            continue
        piece = os.read(0, 1 << 16)
        if not piece:
            return
        *lines, buffered = (buffered + piece).split(b"\n")
        for line in lines:
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                _become_operator(request)
            _tell({"started": pid})


def _become_operator(request: Raw) -> None:
    """Never returns."""
    code = 70
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        os.environ.update(request["environment"])
        from evolving_operator.__main__ import main  # noqa: PLC0415 - imported before the fork

        code = main(["run"])
    finally:
        os._exit(code)


def _tell_endings() -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            _tell({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _tell(message: Raw) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    _serve()
