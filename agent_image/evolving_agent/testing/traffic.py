"""A client that behaves like an agent's users: asks, teaches by feedback, and counts what fails.

Run inside the cluster (`kubectl exec -i POD -- python -m evolving_agent.testing.traffic …`), with the
requests as JSON Lines on standard input; prints one JSON document per line.

    measure  asks every case once, dry (nothing is logged or learned), and grades the tool call
    teach    asks every request once, live, and sends feedback: thumbs up, or the right tool call
    load     asks live, at a constant rate, until the time is up or SIGTERM comes, and counts failed requests

Nothing is asked before the Service has answered /readyz once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from evolving_agent.contract import env

REQUEST_TIMEOUT_SECONDS = 120.0
FIRST_ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Question:
    """One request and the tool call that would be right."""

    text: str
    tool: str
    arguments: dict[str, Any]

    @classmethod
    def parse(cls, line: str, tool: str) -> Question:
        """A suite case (`input`, `expected.tool`), or a request with its team (`text`, `team`)."""
        row = json.loads(line)
        if "expected" in row:
            expected = row["expected"]["tool"]
            return cls(row["input"], expected["name"], expected.get("arguments", {}))
        return cls(row["text"], tool, {"team": row["team"]})

    def answered_by(self, calls: list[dict[str, Any]]) -> bool:
        return any(
            call["name"] == self.tool and self.arguments.items() <= call["arguments"].items()
            for call in calls
        )


def emit(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


async def ask(client: httpx.AsyncClient, text: str, headers: dict[str, str]) -> dict[str, Any]:
    response = await client.post(
        "/v1/chat/completions",
        json={"model": "agent", "messages": [{"role": "user", "content": text}]},
        headers=headers,
    )
    response.raise_for_status()
    body: dict[str, Any] = response.json()
    return body


async def wait_for_the_service(client: httpx.AsyncClient) -> None:
    """Until the Service answers once: a node learns of a ready pod a moment after its agent is Ready.

    Raises SystemExit after FIRST_ANSWER_SECONDS.
    """
    deadline = time.monotonic() + FIRST_ANSWER_SECONDS
    while True:
        try:
            (await client.get("/readyz")).raise_for_status()
        except httpx.HTTPError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"{client.base_url} does not answer: {error}") from error
            await asyncio.sleep(0.2)
        else:
            return


def calls_of(completion: dict[str, Any]) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = completion["evolving_agents"]["tool_calls"]
    return calls


async def measure(client: httpx.AsyncClient, questions: list[Question]) -> None:
    right = 0
    seconds: list[float] = []
    revisions: Counter[str] = Counter()
    for number, question in enumerate(questions, 1):
        started = time.monotonic()
        completion = await ask(client, question.text, {env.DRY_RUN_HEADER: "true"})
        seconds.append(time.monotonic() - started)
        right += question.answered_by(calls_of(completion))
        revisions[completion["evolving_agents"]["revision"]] += 1
        emit("progress", done=number, total=len(questions), right=right)
    emit(
        "summary",
        asked=len(questions),
        right=right,
        accuracy=round(right / len(questions), 4),
        mean_seconds=round(sum(seconds) / len(seconds), 3),
        revisions=dict(revisions),
    )


async def teach(client: httpx.AsyncClient, questions: list[Question]) -> None:
    """Feedback on one answer goes out while the next question is being answered."""
    right = 0

    async def tell(feedback: dict[str, Any]) -> None:
        (await client.post("/v1/feedback", json=feedback)).raise_for_status()

    async with asyncio.TaskGroup() as telling:
        for number, question in enumerate(questions, 1):
            completion = await ask(client, question.text, {})
            feedback: dict[str, Any] = {"completion_id": completion["id"]}
            if question.answered_by(calls_of(completion)):
                right += 1
                feedback["thumbs"] = "up"
            else:
                correction = {"tool": {"name": question.tool, "arguments": question.arguments}}
                feedback |= {"thumbs": "down", "correction": correction}
            telling.create_task(tell(feedback))
            emit("progress", done=number, total=len(questions), right=right)
    emit("summary", asked=len(questions), right=right, corrected=len(questions) - right)


async def load(clients: list[httpx.AsyncClient], texts: list[str], rate: float, seconds: float) -> None:
    """Open loop: a slow answer does not slow the next request down. Nothing is retried."""
    counts: Counter[str] = Counter()
    revisions: Counter[str] = Counter()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    loop.call_later(seconds, stop.set)

    async def one(number: int) -> None:
        counts["requests"] += 1
        try:
            completion = await ask(clients[number % len(clients)], texts[number % len(texts)], {})
        except httpx.HTTPError as error:
            counts["failed"] += 1
            emit("failed", number=number, error=f"{type(error).__name__}: {error}")
        else:
            revisions[completion["evolving_agents"]["revision"]] += 1

    async with asyncio.TaskGroup() as running:
        number = 0
        while not stop.is_set():
            running.create_task(one(number))
            number += 1
            if number % max(1, int(rate * 5)) == 0:
                emit(
                    "progress",
                    requests=counts["requests"],
                    failed=counts["failed"],
                    revisions=dict(revisions),
                )
            try:
                await asyncio.wait_for(stop.wait(), 1 / rate)
            except TimeoutError:
                continue
    emit("summary", requests=counts["requests"], failed=counts["failed"], revisions=dict(revisions))


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Two kinds of users: one that connects anew for each request, one that keeps its connection."""
    anew = httpx.AsyncClient(
        base_url=url, timeout=REQUEST_TIMEOUT_SECONDS, limits=httpx.Limits(max_keepalive_connections=0)
    )
    kept = httpx.AsyncClient(
        base_url=url, timeout=REQUEST_TIMEOUT_SECONDS, limits=httpx.Limits(keepalive_expiry=2.0)
    )
    async with anew, kept:
        yield [anew, kept]


async def run(arguments: argparse.Namespace) -> None:
    questions = [Question.parse(line, arguments.tool) for line in sys.stdin if line.strip()]
    if not questions:
        raise SystemExit("no requests on standard input: pass them as JSON Lines")
    async with connect(arguments.url) as clients:
        await wait_for_the_service(clients[0])
        match arguments.mode:
            case "measure":
                await measure(clients[0], questions)
            case "teach":
                await teach(clients[0], questions)
            case _:
                await load(clients, [q.text for q in questions], arguments.rate, arguments.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="traffic", description=__doc__)
    parser.add_argument("mode", choices=["measure", "teach", "load"])
    parser.add_argument("--url", required=True, help="the agent's Service, without /v1")
    parser.add_argument(
        "--tool", default="route_request", help="tool expected where a line names only a team"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="requests per second (load)")
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long (load)")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
