"""The log's writer: groups that are on the disk when they are acknowledged, rotation, disks that refuse."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from evolving_agent.store.journal import Journal, Rotation
from support.disks import ext4_disk, fill_up, frozen, make_writable, needs_root, small_disk
from support.journals import Observed, closed, lines


def numbers(directory: Path) -> list[int]:
    return [record["n"] for record in map(json.loads, lines(directory)) if "n" in record]


def gaps(directory: Path) -> list[int]:
    return [record["lost"] for record in map(json.loads, lines(directory)) if record.get("type") == "gap"]


def sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.glob("*")}


async def test_a_line_is_synced_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = {"bytes": 0, "times": 0}
    real = os.fdatasync

    def watched(file: int) -> None:
        real(file)
        synced["bytes"] = os.fstat(file).st_size
        synced["times"] += 1

    monkeypatch.setattr(os, "fdatasync", watched)
    journal = Journal("episode", tmp_path, Observed())
    await journal.append(b'{"n":1}')
    assert lines(tmp_path) == ['{"n":1}']
    assert synced == {"bytes": 8, "times": 1}

    await asyncio.gather(*(journal.append(b'{"n":%d}' % number) for number in range(2, 100)))

    assert numbers(tmp_path) == list(range(1, 100))
    assert synced["bytes"] == sizes(tmp_path)["00000001.jsonl"]
    assert synced["times"] < 50  # what waits together is synced together
    await closed(journal)


async def test_files_are_numbered_rotated_and_never_continued(tmp_path: Path) -> None:
    for _ in range(2):
        journal = Journal("episode", tmp_path, Observed(), rotation=Rotation(max_bytes=100))
        for _ in range(10):
            await journal.append(b"x" * 29)
        await closed(journal)

    assert sizes(tmp_path) == {
        f"{number:08d}.jsonl": size for number, size in enumerate([120, 120, 60] * 2, start=1)
    }


async def test_files_are_rotated_by_age(tmp_path: Path) -> None:
    journal = Journal("episode", tmp_path, Observed(), rotation=Rotation(max_seconds=0))
    for number in range(3):
        await journal.append(b'{"n":%d}' % number)
    await closed(journal)

    assert sizes(tmp_path) == {f"{number:08d}.jsonl": 8 for number in (1, 2, 3)}


async def test_after_a_failed_sync_the_line_is_written_again_to_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports a lost page once, and holds it for clean from then on."""
    observed = Observed()
    journal = Journal("episode", tmp_path, observed)
    await journal.append(b'{"n":1}')
    real, failures = os.fdatasync, [OSError(errno.EIO, "Input/output error")]

    def failing_once(file: int) -> None:
        if failures:
            raise failures.pop()
        real(file)

    monkeypatch.setattr(os, "fdatasync", failing_once)
    await journal.append(b'{"n":2}')
    await observed.until("written", 2)
    await closed(journal)

    assert sizes(tmp_path) == {"00000001.jsonl": 8, "00000002.jsonl": 8}
    assert numbers(tmp_path) == [1, 2]
    assert observed.counts["failed"] == 1
    assert observed.counts["dropped"] == 0


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

    assert numbers(directory) == [2, 3, 4]
    assert gaps(directory) == [2]  # the log itself says what it lacks
    assert observed.counts["dropped"] == 2
    assert observed.counts["late"] == 5
    assert observed.counts["buffered"] == 0
    await closed(journal)


async def test_what_is_left_at_the_end_of_a_refusing_store_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    observed = Observed()
    journal = Journal("episode", tmp_path / "file", observed)
    await journal.append(b"{}")
    await closed(journal)

    assert observed.counts["dropped"] == 1


@needs_root
async def test_a_full_disk_gets_its_lines_once_there_is_room(tmp_path: Path) -> None:
    disk, observed = tmp_path / "disk", Observed()
    with small_disk(disk, "256k"):
        journal = Journal("episode", disk / "episodes", observed)
        await journal.append(b'{"n":0}')
        fill_up(disk / "ballast")
        for number in range(1, 40):
            await journal.append(b'{"n":%d,"pad":"%s"}' % (number, b"x" * 1000))
        await observed.until("failed", 1)
        (disk / "ballast").unlink()
        await observed.until("written", 40)
        await closed(journal)

        assert numbers(disk / "episodes") == list(range(40))  # whole lines, in order, each once
        assert observed.counts["dropped"] == 0


@needs_root
async def test_a_read_only_disk_gets_its_lines_once_it_is_writable(tmp_path: Path) -> None:
    disk, observed = tmp_path / "disk", Observed()
    with small_disk(disk, "256k", "ro"):
        journal = Journal("episode", disk / "episodes", observed)
        await journal.append(b'{"n":0}')
        await observed.until("failed", 1)
        make_writable(disk)
        await observed.until("written", 1)
        await closed(journal)

        assert numbers(disk / "episodes") == [0]


@needs_root
async def test_a_disk_that_hangs_holds_no_answer_up_for_long(tmp_path: Path) -> None:
    disk, observed = tmp_path / "disk", Observed()
    with ext4_disk(disk):
        journal = Journal("episode", disk / "episodes", observed)
        await journal.append(b'{"n":0}')
        with frozen(disk):
            await journal.append(b'{"n":1}')  # returns although the write of it hangs
            await journal.append(b'{"n":2}')
            assert observed.counts["late"] == 2
            assert observed.counts["written"] == 1
        await observed.until("written", 3)
        await journal.append(b'{"n":3}')
        await closed(journal)

        assert numbers(disk / "episodes") == [0, 1, 2, 3]
        assert observed.counts["late"] == 2
        assert observed.counts["dropped"] == 0


@needs_root
async def test_a_disk_that_hangs_holds_no_pods_end_up_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolving_agent.store.journal.CLOSE_SECONDS", 0.2)
    disk, observed = tmp_path / "disk", Observed()
    with ext4_disk(disk):
        journal = Journal("episode", disk / "episodes", observed)
        await journal.append(b'{"n":0}')
        with frozen(disk):
            await journal.append(b'{"n":1}')
            await closed(journal)
            assert observed.counts["dropped"] == 1
        await observed.until("written", 2)  # for the writer to be done before the disk goes
        await closed(journal)


def test_a_write_that_is_cut_off_leaves_no_torn_line(tmp_path: Path) -> None:
    """A real limit on file sizes cuts a write in the middle, as a full disk does; then it is lifted."""
    script = textwrap.dedent(
        """
        import asyncio, resource, sys
        from pathlib import Path
        from evolving_agent.store.journal import Journal
        from support.journals import Observed

        async def main():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
            observed = Observed()
            journal = Journal("episode", Path(sys.argv[1]), observed)
            for number in range(10):
                await journal.append(b'{"n":%d,"pad":"%s"}' % (number, b"x" * 400))
            await observed.until("failed", 1)
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
            await asyncio.to_thread(journal.close)

        asyncio.run(main())
        """
    )
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60, env=environment)

    assert numbers(tmp_path) == list(range(10))
