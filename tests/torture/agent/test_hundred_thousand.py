"""A hundred thousand requests of all sorts to one pod: not one may fail.

TORTURE_REQUESTS says how many. Prints a table and writes docs/results/torture-agent-requests.json.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from evolving_agent.testing.scripted_model import Reply, ScriptedModel, served
from support.cluster import REPOSITORY
from support.pods import Pod, a_config
from support.sudden_death import pod_process

REQUESTS = int(os.environ.get("TORTURE_REQUESTS", "100000"))
USERS = 50
SORTS = ("chat", "chat streamed", "chat in a session", "response", "response streamed", "response continued")
RESULTS = REPOSITORY / "docs" / "results" / "torture-agent-requests.json"


def model() -> ScriptedModel:
    """One that forgets what it was asked: a hundred thousand requests would fill the memory."""

    class Forgetful(list[dict[str, Any]]):
        def append(self, _: dict[str, Any]) -> None:
            return

    scripted = ScriptedModel(lambda _: Reply(text="one two three"))
    scripted.requests = Forgetful()
    return scripted


class User:
    """Asks in one way after the other; each has a session of its own."""

    def __init__(self, http: aiohttp.ClientSession, number: int) -> None:
        self._http = http
        self._session = f"user-{number}"
        self._previous: str | None = None

    async def ask(self, sort: str) -> str:
        """What went wrong; "" for a right answer."""
        try:
            said = await (self._chat(sort) if sort.startswith("chat") else self._respond(sort))
        except (aiohttp.ClientError, KeyError, ValueError) as error:
            return repr(error)
        return "" if said == "one two three" else f"wrong answer {said[:200]!r}"

    async def _chat(self, sort: str) -> str:
        headers = {"X-Session-Id": self._session} if "session" in sort else {}
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": "streamed" in sort}
        async with self._http.post("/v1/chat/completions", json=body, headers=headers) as response:
            text = await response.text()
        if "streamed" not in sort:
            return str(json.loads(text)["choices"][0]["message"]["content"])
        *chunks, done, _ = text.split("\n\n")
        assert done == "data: [DONE]", text
        pieces = [json.loads(chunk.removeprefix("data: "))["choices"][0]["delta"] for chunk in chunks]
        return "".join(piece.get("content") or "" for piece in pieces)

    async def _respond(self, sort: str) -> str:
        previous = self._previous if "continued" in sort else None
        body = {"input": "Hi", "stream": "streamed" in sort, "previous_response_id": previous}
        async with self._http.post("/v1/responses", json=body) as response:
            text = await response.text()
        if "streamed" in sort:
            last = text.rstrip().rpartition("\n")[2]
            answer = json.loads(last.removeprefix("data: "))["response"]
        else:
            answer = json.loads(text)
        self._previous = answer["id"]
        return str(answer["output"][0]["content"][0]["text"])


def peak_memory_mib(pid: int) -> int:
    """The most that the process was resident with."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


async def test_no_request_fails_in_a_hundred_thousand(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    left = iter(range(REQUESTS))
    async with served(model().app) as url:
        pod = Pod(tmp_path, a_config(url), "support-0")
        pod.write_config()
        async with pod_process(pod) as started:
            await started.until_ready()
            began = time.monotonic()
            async with aiohttp.ClientSession(pod.url) as http:

                async def use(user: User) -> None:
                    for number in left:
                        sort = SORTS[number % len(SORTS)]
                        counts[sort] += 1
                        if problem := await user.ask(sort):
                            errors[f"{sort}: {problem}"] += 1

                await asyncio.gather(*(use(User(http, number)) for number in range(USERS)))
            seconds = time.monotonic() - began
            peak = peak_memory_mib(started.process.pid)
            assert await started.terminate() == 0
        logged = sum(path.read_bytes().count(b"\n") for path in pod.store.episode_files)

    results = {
        "command": f"TORTURE_REQUESTS={REQUESTS} .venv/bin/python -m pytest -s tests/torture/agent",
        "requests": dict(counts),
        "errors": dict(errors.most_common(10)),
        "episodes": logged,
        "peak_memory_mib": peak,
        "requests_per_second": round(REQUESTS / seconds, 1),
    }
    print("\n| request | count |\n| --- | ---: |")
    print("\n".join(f"| {sort} | {count} |" for sort, count in counts.items()))
    print(f"\n{sum(errors.values())} errors, {logged} episodes, peak memory {peak} MiB")
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")

    assert dict(errors) == {}
    assert logged == REQUESTS
    assert peak <= 250
