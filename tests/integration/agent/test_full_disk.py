"""A pod on a disk that gets full: it answers, keeps what it can, and writes it once there is room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evolving_agent.contract.served import SERVED_PATH, ProblemReason, ServedCounts
from support.disks import fill_up, needs_root, small_disk
from support.pods import Pod, eventually, running

REFUSED = 'evolving_agent_log_write_failures_total{kind="episode"}'
WAITING = 'evolving_agent_log_buffered_bytes{kind="episode"}'


async def told(pod: Pod) -> ServedCounts:
    """As the operator asks."""
    return ServedCounts.model_validate_json((await pod.get(SERVED_PATH)).content)


@needs_root
async def test_no_request_fails_on_a_full_disk_and_no_record_is_lost(make_pod: Any) -> None:
    pod: Pod = make_pod()
    root: Path = pod.store.root
    with small_disk(root, "512k"):
        async with running(pod):
            asked = [(await pod.ask("before"))["id"]]
            fill_up(root / "ballast")
            asked += [(await pod.ask("x" * 2000))["id"] for _ in range(10)]
            thanked = await pod.post("/v1/feedback", {"completion_id": asked[-1], "thumbs": "up"})
            assert thanked.status_code == 201

            async def refused() -> bool:
                return await pod.metric(REFUSED) > 0 and await pod.metric(WAITING) > 0

            await eventually(refused, "a store that refuses, by its metrics")
            assert (await pod.get("/readyz")).status_code == 200  # without learning is better than not at all
            (problem, *_) = (await told(pod)).problems
            assert problem.reason is ProblemReason.EXPERIENCE_NOT_STORED
            assert "No space left on device" in problem.message
            assert "what they teach waits in memory" in problem.message

            (root / "ballast").unlink()
            await eventually(
                lambda: len(pod.episodes()) == len(asked), "the episodes, now that there is room"
            )
            await eventually(lambda: len(pod.reflections()) == 1, "the feedback as well")

            assert [episode.id for episode in pod.episodes()] == asked
            assert await pod.metric(WAITING) == 0
            assert (await told(pod)).problems == ()
            assert await pod.metric('evolving_agent_log_dropped_total{kind="episode"}') == 0
