"""What the developer tools fetch is fetched once, also where tests that run side by side ask at once."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from support.cluster import REPOSITORY, eventually

AT_ONCE = 4
MAKE = """
    import os, sys, time
    from pathlib import Path
    from tools.once import made_once

    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])

    def make(target):
        (folder / f"began-{os.getpid()}").touch()
        target.mkdir()
        (target / "first").touch()
        time.sleep(seconds)
        (target / "second").touch()

    made = made_once(folder / "made", make)
    print(sorted(path.name for path in made.iterdir()))
"""
ENVIRONMENT = """
    from tools import pypi

    print(pypi.environment("small", "iniconfig==2.1.0") / "bin" / "python")
"""


def start(script: str, cache: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(REPOSITORY / "hack")}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def printed(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate()
    assert process.returncode == 0
    return out.strip()


def test_of_processes_that_ask_at_once_one_makes_it_and_all_get_it_whole(tmp_path: Path) -> None:
    asking = [start(MAKE, tmp_path / "cache", str(tmp_path), "1") for _ in range(AT_ONCE)]
    assert [printed(process) for process in asking] == ["['first', 'second']"] * AT_ONCE
    assert len(list(tmp_path.glob("began-*"))) == 1


def test_what_a_killed_process_left_is_not_taken_for_made(tmp_path: Path) -> None:
    killed = start(MAKE, tmp_path / "cache", str(tmp_path), "600")
    eventually((tmp_path / ".made.part" / "first").exists, 30, "half of it is written")
    killed.kill()
    killed.communicate()
    assert printed(start(MAKE, tmp_path / "cache", str(tmp_path), "0")) == "['first', 'second']"


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    asking = [start(ENVIRONMENT, tmp_path / "cache") for _ in range(AT_ONCE)]
    (python,) = {printed(process) for process in asking}
    subprocess.run([python, "-c", "import iniconfig"], check=True)
