"""The experience log's writer: files, rotation, a store that refuses, finding episodes again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from evolving_agent.store.experience_log import ExperienceLog, Journal, find_episode, new_episode_id
from evolving_agent.store.layout import StoreLayout
from evolving_agent.store.records import Episode, ToolCall
from support.cluster import eventually_async


class Observed:
    """Counts what the log tells."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def line_written(self, kind: str) -> None:
        self.counts["written"] += 1

    def line_dropped(self, kind: str) -> None:
        self.counts["dropped"] += 1

    def write_failed(self, kind: str) -> None:
        self.counts["failed"] += 1

    def buffered(self, kind: str, size: int) -> None:
        self.counts["buffered"] = size

    async def until(self, what: str, count: int) -> None:
        async def enough() -> bool:
            return self.counts[what] >= count

        await eventually_async(enough, 10, f"{what} {count} times")


def an_episode(identity: str) -> Episode:
    return Episode(
        id=identity,
        time="2030-01-01T00:00:00Z",
        agent="support",
        revision="support-00000001",
        model="tiny",
        arm="active",
        messages=[{"role": "user", "content": "Hi"}],
        system="You are.",
        tool_calls=[ToolCall(name="route", arguments={"team": "cards"}, result="ok")],
        answer="Hello",
    )


def lines(directory: Path) -> list[str]:
    return [line for path in sorted(directory.glob("*.jsonl")) for line in path.read_text().splitlines()]


def sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.glob("*")}


async def closed(journal: Journal) -> None:
    await asyncio.to_thread(journal.close)


async def test_a_line_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    journal = Journal("episode", tmp_path, Observed())
    await journal.append(b'{"n":1}')
    assert lines(tmp_path) == ['{"n":1}']
    await asyncio.gather(*(journal.append(b'{"n":%d}' % number) for number in range(2, 100)))
    assert [json.loads(line)["n"] for line in lines(tmp_path)] == list(range(1, 100))
    await closed(journal)


async def test_files_are_numbered_rotated_and_never_continued(tmp_path: Path) -> None:
    for _ in range(2):
        journal = Journal("episode", tmp_path, Observed(), rotate_bytes=100)
        for _ in range(10):
            await journal.append(b"x" * 29)
        await closed(journal)

    assert sizes(tmp_path) == {
        f"{number:08d}.jsonl": size for number, size in enumerate([120, 120, 60] * 2, start=1)
    }


async def test_a_store_that_refuses_never_blocks_and_loses_the_oldest_first(tmp_path: Path) -> None:
    directory = tmp_path / "episodes"
    directory.write_text("in the way")  # a directory cannot be made here
    observed = Observed()
    journal = Journal("episode", directory, observed, max_buffered_bytes=35)
    for number in range(5):
        await asyncio.wait_for(journal.append(b'{"n":%d}   ' % number), 10)  # 11 bytes each

    await observed.until("failed", 1)
    directory.unlink()
    await observed.until("written", 3)

    assert [json.loads(line)["n"] for line in lines(directory)] == [2, 3, 4]
    assert observed.counts["dropped"] == 2
    assert observed.counts["buffered"] == 0
    await closed(journal)


async def test_what_is_left_at_the_end_of_a_refusing_store_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    observed = Observed()
    journal = Journal("episode", tmp_path / "file", observed)
    await journal.append(b"{}")
    await closed(journal)

    assert observed.counts["dropped"] == 1


def test_a_write_that_is_cut_off_leaves_no_torn_line(tmp_path: Path) -> None:
    """A real limit on file sizes cuts a write in the middle, as a full disk does; then it is lifted."""
    script = textwrap.dedent(
        """
        import asyncio, resource, sys
        from pathlib import Path
        from evolving_agent.store.experience_log import Journal

        class Silent:
            def line_written(self, kind): pass
            def line_dropped(self, kind): pass
            def write_failed(self, kind): failed.append(kind)
            def buffered(self, kind, size): pass

        async def main():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
            journal = Journal("episode", Path(sys.argv[1]), Silent())
            for number in range(30):
                await journal.append(b'{"n":%d,"pad":"%s"}' % (number, b"x" * 80))
            while not failed:
                await asyncio.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
            await asyncio.to_thread(journal.close)

        failed = []
        asyncio.run(main())
        """
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)

    assert [json.loads(line)["n"] for line in lines(tmp_path)] == list(range(30))


async def test_an_episode_is_found_again_by_its_id_from_any_pod(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path)
    episode = an_episode(new_episode_id("support-6b9f.x-1"))
    log = ExperienceLog(layout, "support-6b9f.x-1", Observed())
    await log.append_episode(an_episode(new_episode_id("support-6b9f.x-1")))
    await log.append_episode(episode)
    assert await log.episode(episode.id) is episode
    await log.close()

    other = ExperienceLog(layout, "support-2", Observed())
    assert await other.episode(episode.id) == episode
    assert await other.episode(new_episode_id("support-6b9f.x-1")) is None
    await other.close()


@pytest.mark.parametrize(
    "identity", ["", "x", "chatcmpl-../../etc-1700000000000deadbeef", "chatcmpl-pod-17deadbeef"]
)
def test_an_id_that_none_of_ours_is_finds_nothing(tmp_path: Path, identity: str) -> None:
    assert find_episode(StoreLayout(tmp_path), identity) is None


async def test_torn_and_foreign_lines_do_not_hide_an_episode(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path)
    episode = an_episode(new_episode_id("pod"))
    log = ExperienceLog(layout, "pod", Observed())
    await log.append_episode(episode)
    await log.close()
    (path,) = layout.episode_files
    good = path.read_bytes()
    path.write_bytes(b'{"type":"episode"\n\xff\xfe\n' + good[:40] + b"\n" + good + good[:60])

    assert find_episode(layout, episode.id) == episode
