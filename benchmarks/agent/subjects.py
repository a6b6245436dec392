"""The processes that are measured, and the model server behind them."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Protocol

import aiohttp

from benchmarks.agent.litellm import installed_litellm
from benchmarks.agent.load import INSTRUCTIONS, MODEL, Answer, Load, Samples, drive
from evolving_agent.contract import env
from evolving_agent.contract.config import (
    AgentConfig,
    AgentConfigFile,
    Reflection,
    ReflectionMode,
    ServedModel,
)

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0  # imports alone take seconds on a busy machine
LINE_BYTES = 16 * 2**20  # samples of one load come as one line
LITELLM_ENVIRONMENT = {
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # asks no server on the Internet for prices
}
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
MIB = 2**20


class Subject(Protocol):
    """Something that answers, in a process of its own."""

    process: Process

    async def drive(self, load: Load) -> Samples: ...


class BareRuns:
    """Asks itself: there is no HTTP in front of a bare run."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def drive(self, load: Load) -> Samples:
        assert self.process.stdin is not None  # noqa: S101 (started with pipes)
        self.process.stdin.write(json.dumps(asdict(load)).encode() + b"\n")
        return Samples(**json.loads(await _line_of(self.process)))


class Served:
    """Is asked over HTTP, by a client in this process: OpenAI's chat completions."""

    def __init__(self, process: Process, url: str, http: aiohttp.ClientSession) -> None:
        self.process = process
        self._url = f"{url}/v1/chat/completions"
        self._http = http

    async def drive(self, load: Load) -> Samples:
        return await drive(load, self._ask)

    async def _ask(self, load: Load) -> Answer:
        message = {"role": "user", "content": load.question}
        body = {"model": MODEL, "messages": [message], "stream": load.stream}
        async with self._http.post(self._url, json=body) as response:
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {await response.text()}")
            if not load.stream:
                return Answer((await response.json())["choices"][0]["message"]["content"])
            text, first_piece = "", None
            async for line in response.content:
                if piece := _piece_of(line):
                    first_piece = first_piece or time.perf_counter()
                    text += piece
            return Answer(text, first_piece)


def _piece_of(line: bytes) -> str:
    """The text in one line of an event stream."""
    data = line.removeprefix(b"data: ").strip()
    if not data or data == b"[DONE]":
        return ""
    return "".join(choice["delta"].get("content") or "" for choice in json.loads(data)["choices"])


@asynccontextmanager
async def model_server() -> AsyncIterator[str]:
    """Its URL."""
    async with _process("benchmarks.agent.model") as process:
        yield (await _line_of(process)).decode().strip()


@asynccontextmanager
async def bare_runs(model_url: str) -> AsyncIterator[BareRuns]:
    async with _process("benchmarks.agent.bare", model_url) as process:
        yield BareRuns(process)


@asynccontextmanager
async def served_agent(directory: Path, model_url: str) -> AsyncIterator[Served]:
    """With memory and the experience log, as by default; no reflection: that comes after the answer.

    `directory` takes its configuration, its store and its log.
    """
    config = AgentConfig(
        revision="support-00000001",
        model=ServedModel(id=MODEL, base_url=f"{model_url}/v1"),
        instructions=INSTRUCTIONS,
        reflection=Reflection(mode=ReflectionMode.DISABLED),
    )
    file = AgentConfigFile(agent="support", model=MODEL, configs={config.hash: config})
    (directory / "agent_config.json").write_text(json.dumps(file.to_wire()))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {
        env.AGENT_NAME: "support",
        env.POD_NAME: "support-0",
        env.CONFIG_DIR: str(directory),
        env.CONFIG_HASH: config.hash,
        env.STORE: str(directory / "store"),
        env.TERMINATION_LOG: str(directory / "termination-log"),
        "EVOLVING_PORT": str(port),
    }
    url = f"http://127.0.0.1:{port}"
    with (directory / "log").open("w+b") as log:
        async with (
            _process("evolving_agent", "serve", stderr=log, **environment) as process,
            aiohttp.ClientSession() as http,
        ):
            await _until_ready(process, http, f"{url}/readyz", log)
            yield Served(process, url, http)


@asynccontextmanager
async def litellm_proxy(directory: Path, model_url: str) -> AsyncIterator[Served]:
    """LiteLLM's proxy as its manual starts it: one worker, and a master key, without which it refuses."""
    program = await installed_litellm()
    key = f"sk-{secrets.token_hex(32)}"
    entry = {"model": f"openai/{MODEL}", "api_base": f"{model_url}/v1", "api_key": "any"}
    # JSON is YAML
    config = {"model_list": [{"model_name": MODEL, "litellm_params": entry}]}
    (directory / "litellm.yaml").write_text(json.dumps(config))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    arguments = ["--config", str(directory / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    with (directory / "litellm.log").open("w+b") as log:
        async with (
            _started(
                [str(program), *arguments, "--telemetry", "False"],
                log,
                {**os.environ, **LITELLM_ENVIRONMENT, "LITELLM_MASTER_KEY": key},
                stdout=log,
            ) as process,
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http,
        ):
            await _until_ready(process, http, f"{url}/health/liveliness", log)
            yield Served(process, url, http)


async def _until_ready(process: Process, http: aiohttp.ClientSession, url: str, log: IO[bytes]) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and process.returncode is None:
        try:
            async with http.get(url) as response:
                if response.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            pass  # it still imports
        await asyncio.sleep(0.2)
    raise RuntimeError(f"{url} was not ready within {START_SECONDS:g} s:\n{_text_of(log)}")


def _text_of(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode()


async def _line_of(process: Process) -> bytes:
    assert process.stdout is not None  # noqa: S101 (started with pipes)
    if line := await process.stdout.readline():
        return line
    raise RuntimeError(f"a process of the measurement ended early, with status {await process.wait()}")


@asynccontextmanager
async def _process(
    module: str, *arguments: str, stderr: IO[bytes] | None = None, **environment: str
) -> AsyncIterator[Process]:
    """A module of this project as a process that is ended with the block."""
    command = [sys.executable, "-m", module, *arguments]
    async with _started(command, stderr, {**os.environ, **environment}) as process:
        yield process


@asynccontextmanager
async def _started(
    command: list[str],
    stderr: IO[bytes] | None,
    environment: dict[str, str],
    *,
    stdout: IO[bytes] | int = PIPE,
) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=REPOSITORY,
        env=environment,
        stdin=PIPE,
        stdout=stdout,
        stderr=stderr,
        limit=LINE_BYTES,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()  # nothing that it holds is needed any more
            await process.wait()


def cpu_seconds(process: Process) -> float:
    """User and system time of all its threads so far, in steps of 10 ms."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def peak_memory_mib(process: Process) -> float:
    """The most memory that it was resident with."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / MIB
