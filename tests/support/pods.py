"""Serving pods for tests: the real service on real ports, in this process or in one of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import httpx
import msgspec
import openai

from evolving_agent.contract import env
from evolving_agent.contract.config import (
    AgentConfig,
    AgentConfigFile,
    Reflection,
    ReflectionMode,
    ServedModel,
    Traffic,
)
from evolving_agent.runtime.app import PodState, build_app
from evolving_agent.runtime.metrics import Metrics
from evolving_agent.runtime.serve import start_service
from evolving_agent.runtime.settings import Settings
from evolving_agent.store.layout import StoreLayout
from evolving_agent.store.records import Episode, ReflectionRecord
from evolving_agent.testing.scripted_model import served
from support.cluster import eventually_async

T = TypeVar("T")

DEADLINE_SECONDS = 120.0  # a pod takes seconds to import, and tests share machines
NO_SHARES = Traffic()


def a_config(model_url: str, **changes: Any) -> AgentConfig:
    """A small agent on the scripted model; reflections are off where a test does not ask for them."""
    return AgentConfig(
        **{
            "revision": "support-00000001",
            "model": ServedModel(id="tiny", base_url=f"{model_url}/v1"),
            "instructions": "You are a support agent.",
            "reflection": Reflection(mode=ReflectionMode.DISABLED),
            **changes,
        }
    )


@overload
async def eventually(predicate: Callable[[], Awaitable[T]], message: str) -> T: ...
@overload
async def eventually(predicate: Callable[[], T], message: str) -> T: ...
async def eventually(predicate: Callable[[], Awaitable[T] | T], message: str) -> T:
    """The first true value of a predicate, awaited or not, within this module's deadline."""

    async def value() -> T:
        got = predicate()
        return await got if isinstance(got, Awaitable) else got

    return await eventually_async(value, DEADLINE_SECONDS, message)


@dataclass
class Pod:
    """A serving pod's directories, and its URL once it listens."""

    directory: Path
    config: AgentConfig
    name: str = "support-0"
    url: str = ""
    others: list[AgentConfig] = field(default_factory=list)
    previous: AgentConfig | None = None  # what was served before
    active: AgentConfig | None = None  # what all pods are to serve, if that is another entry by now
    is_rolled_out: bool = False
    variables: dict[str, str] = field(default_factory=dict)  # more of its environment

    @property
    def store(self) -> StoreLayout:
        return StoreLayout(self.directory / "data")

    @property
    def termination_log(self) -> Path:
        return self.directory / f"termination-{self.name}"

    @property
    def settings(self) -> Settings:
        return replace(
            Settings.from_environment(self.environment()),
            config_poll_seconds=0.05,
            config_wait_seconds=1.0,
            model_wait_seconds=30.0,
            drain_work_seconds=0.2,
        )

    def environment(self) -> dict[str, str]:
        return {
            env.AGENT_NAME: "support",
            env.POD_NAME: self.name,
            env.CONFIG_DIR: str(self.directory / "config"),
            env.CONFIG_HASH: self.config.hash,
            env.STORE: str(self.store.root),
            env.TERMINATION_LOG: str(self.termination_log),
            **self.variables,
        }

    def write_config(self, traffic: Traffic = NO_SHARES) -> None:
        """As the kubelet does it: the new content appears at once."""
        configs = [self.config, *self.others, *filter(None, (self.previous, self.active))]
        file = AgentConfigFile(
            agent="support",
            model=self.config.model.id,
            configs={config.hash: config for config in configs},
            traffic=traffic,
            active=self.active.hash if self.active else self.config.hash,
            previous=self.previous.hash if self.previous else None,
            rolled_out=self.config.hash if self.is_rolled_out else None,
        )
        self.write_config_text(json.dumps(file.to_wire()))

    def write_config_text(self, text: str) -> None:
        directory = self.directory / "config"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "new").write_text(text)
        (directory / "new").replace(directory / "agent_config.json")

    def episodes(self) -> list[Episode]:
        return [_decoded(line, Episode) for path in self.store.episode_files for line in _lines(path)]

    def reflections(self) -> list[ReflectionRecord]:
        return [
            _decoded(line, ReflectionRecord) for path in self.store.reflection_files for line in _lines(path)
        ]

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)

    async def ask(self, text: str, **headers: str) -> dict[str, Any]:
        """A chat request over plain HTTP; the body of its answer."""
        async with httpx.AsyncClient(timeout=DEADLINE_SECONDS) as http:
            response = await http.post(
                f"{self.url}/v1/chat/completions",
                json={"model": "support", "messages": [{"role": "user", "content": text}]},
                headers=headers,
            )
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    async def post(self, path: str, body: Any) -> httpx.Response:
        async with httpx.AsyncClient(timeout=DEADLINE_SECONDS) as http:
            return await http.post(f"{self.url}{path}", json=body)

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(timeout=DEADLINE_SECONDS) as http:
            return await http.get(f"{self.url}{path}")

    async def metric(self, line: str) -> float:
        """The value of the metric with exactly these labels, 0 where it is absent."""
        for row in (await self.get("/metrics")).text.splitlines():
            if row.startswith(line + " "):
                return float(row.rpartition(" ")[2])
        return 0.0


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def _decoded(line: bytes, kind: Any) -> Any:
    return msgspec.json.decode(line, type=kind)


@asynccontextmanager
async def running(pod: Pod, traffic: Traffic = NO_SHARES) -> AsyncIterator[Pod]:
    """The pod's service in this process, on a port of its own."""
    pod.write_config(traffic)
    state = PodState(Metrics())
    async with served(build_app(state)) as pod.url, AsyncExitStack() as resources:
        await start_service(pod.settings, state, resources)
        yield pod


@dataclass
class PodProcess:
    """A pod as a process of its own, as the container runs it."""

    pod: Pod
    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, pod: Pod, **environment: str) -> PodProcess:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        pod.url = f"http://127.0.0.1:{port}"
        log = (pod.directory / f"{pod.name}.log").open("ab")
        with log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "evolving_agent",
                "serve",
                env={**os.environ, **pod.environment(), "EVOLVING_PORT": str(port), **environment},
                stderr=log,
            )
        return cls(pod, process)

    async def until_ready(self) -> None:
        async def ready() -> bool:
            assert self.process.returncode is None, self.log()
            try:
                return (await self.pod.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(ready, "a ready pod")

    def log(self) -> str:
        return (self.pod.directory / f"{self.pod.name}.log").read_text()

    async def terminate(self) -> int:
        """SIGTERM, as the kubelet sends it; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), DEADLINE_SECONDS)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
