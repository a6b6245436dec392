"""LiteLLM's proxy for comparison, in a virtual environment of its own: the project does not depend on it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

VERSION = "1.106.2"


async def installed_litellm() -> Path:
    """The path of the `litellm` program; the first call installs it (half a GiB) into the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "evolving-agents" / "bench" / f"litellm-{VERSION}"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        sys.stderr.write(f"installing LiteLLM {VERSION} for comparison into {home}\n")
        await _run(sys.executable, "-m", "venv", str(home))
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        await _run(*pip, "--disable-pip-version-check", f"litellm[proxy]=={VERSION}")
        (home / "complete").touch()
    return home / "bin" / "litellm"


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    if await process.wait() != 0:
        raise RuntimeError(
            f"{' '.join(command)} failed with status {process.returncode}; what it said is above"
        )
