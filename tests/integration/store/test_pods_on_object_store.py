"""Serving pods whose experience goes to an object store."""

from __future__ import annotations

import asyncio
from pathlib import Path

from evolving_agent.store.journal import Journal, Rotation
from evolving_agent.store.layout import StoreLayout
from evolving_agent.store.shipper import Shipper
from support.cluster import eventually
from support.journals import Observed, closed
from support.pods import Pod, running
from support.pods import eventually as pod_eventually
from support.s3 import BUCKET, S3Server
from support.sudden_death import Ledger, live_and_die, pod_process, read_ids

FEEDBACK = {"thumbs": "up"}


def shipped(s3: S3Server, kind: str) -> list[Path]:
    return sorted((s3.directory / BUCKET / "bank/support" / kind).glob("*/*.jsonl"))


async def test_feedback_reaches_an_episode_of_another_pod(s3: S3Server, pods: list[Pod]) -> None:
    first, second = pods
    async with running(first), running(second):
        answer = (await first.ask("Hi"))["id"]
        response = await second.post("/v1/feedback", {"completion_id": answer, **FEEDBACK})
        assert response.status_code == 201

    (reflection,) = second.reflections()
    assert (reflection.episode, reflection.query) == (answer, "Hi")
    assert read_ids(shipped(s3, "episodes")) == ({answer}, 0)
    assert read_ids(shipped(s3, "reflections")) == ({reflection.id}, 0)


async def test_what_a_pod_knows_is_shipped_before_it_leaves(s3: S3Server, pods: list[Pod]) -> None:
    pod = pods[0]
    async with pod_process(pod, EVOLVING_DRAIN_ACCEPT_SECONDS="0") as process:
        await process.until_ready()
        answers = {(await pod.ask(f"Hi {number}"))["id"] for number in range(5)}
        assert await process.terminate() == 0

    assert read_ids(shipped(s3, "episodes")) == (answers, 0)


async def test_sudden_deaths_of_the_container_lose_nothing(s3: S3Server, pods: list[Pod]) -> None:
    """The pod, and with it its disk, outlives the container: the next one ships what the last one left."""
    pod, ledger = pods[0], Ledger()
    for _ in range(3):
        await live_and_die(pod, ledger, answers=20)
    async with pod_process(pod, EVOLVING_DRAIN_ACCEPT_SECONDS="0") as process:
        await process.until_ready()
        await pod.ask("the last one")
        assert await process.terminate() == 0

    episodes, _ = read_ids(shipped(s3, "episodes"))
    reflections, _ = read_ids(shipped(s3, "reflections"))
    assert len(ledger.answers) >= 60
    assert ledger.answers <= episodes
    assert ledger.feedback <= reflections
    assert len(shipped(s3, "episodes")) == 4  # one object of each life: none was written over


async def test_no_request_fails_while_the_store_is_away_and_all_is_shipped_later(
    s3: S3Server, pods: list[Pod]
) -> None:
    pod = pods[0]
    async with running(pod):
        s3.stop()
        answers = {(await pod.ask(f"Hi {number}"))["id"] for number in range(5)}
        own = {"completion_id": next(iter(answers)), **FEEDBACK}
        assert (await pod.post("/v1/feedback", own)).status_code == 201

        async def problems() -> list[str]:
            ready = await pod.get("/readyz")
            assert ready.status_code == 200
            found: list[str] = ready.json().get("problems", [])
            return found

        (problem,) = await pod_eventually(problems, "a problem, told by a pod that is ready")
        assert "s3://agents/bank/support" in problem
        assert "check storage.objectStore" in problem
        assert await pod.metric("evolving_agent_log_ship_failures_total") > 0
        assert await pod.metric("evolving_agent_log_unshipped_bytes") > 0

        other = "chatcmpl-support-9-1700000000000deadbeef"
        refused = await pod.post("/v1/feedback", {"completion_id": other, **FEEDBACK})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")

        await asyncio.to_thread(s3.start)

        async def all_shipped() -> bool:
            return read_ids(shipped(s3, "episodes"))[0] == answers

        await pod_eventually(all_shipped, "everything in the object store")
        await pod_eventually(lambda: shipped(s3, "reflections"), "the feedback too")


async def test_a_spool_that_is_full_loses_its_oldest_files_and_counts_their_lines(
    s3: S3Server, tmp_path: Path
) -> None:
    layout = StoreLayout(tmp_path / "data", s3.store("bank/support"))
    assert layout.remote is not None
    s3.stop()
    directory, observed = layout.episodes("support-0"), Observed()
    journal = Journal("episode", directory, observed, rotation=Rotation(max_bytes=100))
    for number in range(40):
        await journal.append(b'{"n":%02d}' % number)  # 9 bytes and its end: files of 108 and 36 bytes
    shipper = Shipper(
        layout, layout.remote, {"episode": directory}, observed, every_seconds=0.05, max_spool_bytes=220
    )

    await observed.until("dropped", 24)
    s3.start()
    eventually(lambda: len(shipped(s3, "episodes")) == 2, 60, "what was kept is shipped")
    await closed(journal)
    await asyncio.to_thread(shipper.close)

    assert observed.counts["dropped"] == 24
    assert observed.counts["unshipped"] == 0
    kept = [line for path in shipped(s3, "episodes") for line in path.read_text().splitlines()]
    assert kept == [f'{{"n":{number:02d}}}' for number in range(24, 40)]
    assert [path.name for path in directory.glob("*")] == ["00000004.jsonl"]  # numbers go on from there
