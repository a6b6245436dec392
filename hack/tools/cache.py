"""Where the developer tools keep what they download, build and run: never inside the repository."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def root() -> Path:
    """The tools' cache: `$XDG_CACHE_HOME/evolving-agents`, or `~/.cache/evolving-agents`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "evolving-agents"


def folder(*parts: str) -> Path:
    """A folder of the cache, made if it is not there yet."""
    path = root().joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def log_file(name: str) -> Path:
    """The file that gets the full output of the step `name` (each run appends)."""
    return folder("logs") / f"{name}.log"
