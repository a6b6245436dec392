"""Pods that are killed under load, and users who note every answer that they were given."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from support.pods import DEADLINE_SECONDS, Pod, PodProcess, eventually

USERS = 8


@dataclass
class Ledger:
    """IDs that users were given: what the store owes them."""

    answers: set[str] = field(default_factory=set)
    feedback: set[str] = field(default_factory=set)


@asynccontextmanager
async def pod_process(pod: Pod, **environment: str) -> AsyncIterator[PodProcess]:
    """The pod as a process, dead at the end of the block."""
    started = await PodProcess.start(pod, **environment)
    try:
        yield started
    finally:
        await started.kill()


async def live_and_die(pod: Pod, ledger: Ledger, answers: int) -> None:
    """One life of the pod: users ask and send feedback until kill -9, after so many answers or a few more."""
    async with pod_process(pod) as started:
        await started.until_ready()
        users = [asyncio.create_task(_use(pod, ledger)) for _ in range(USERS)]
        enough = len(ledger.answers) + answers
        await eventually(lambda: len(ledger.answers) >= enough, f"{answers} answers under load")
        await started.kill()
        await asyncio.gather(*users)


async def _use(pod: Pod, ledger: Ledger) -> None:
    """Asks and thanks until the pod dies. Only what was received whole is noted."""
    question = {"model": "x", "messages": [{"role": "user", "content": "Hi"}]}
    async with httpx.AsyncClient(base_url=pod.url, timeout=DEADLINE_SECONDS) as http:
        while True:
            try:
                answer = (await http.post("/v1/chat/completions", json=question)).json()["id"]
                ledger.answers.add(answer)
                thanks = {"completion_id": answer, "thumbs": "up"}
                ledger.feedback.add((await http.post("/v1/feedback", json=thanks)).json()["id"])
            except httpx.HTTPError:
                return


def read_ids(files: Iterable[Path]) -> tuple[set[str], int]:
    """IDs of all whole lines, and how many lines were not whole."""
    ids, torn = set(), 0
    for path in files:
        for line in path.read_bytes().splitlines():
            try:
                ids.add(json.loads(line)["id"])
            except ValueError:
                torn += 1
    return ids, torn
