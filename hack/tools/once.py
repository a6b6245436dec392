"""What the tools fetch or build is made once, also where several processes ask for it at the same time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tools.locks import lock


def made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, a file or a folder; if it is not there yet, `make` writes it under the path that it is given.

    It gets its own name only when it is finished: a process that is killed leaves nothing that looks made.
    """
    if target.exists():
        return target
    with lock(f"make-{target.name}"):
        if not target.exists():
            unfinished = target.with_name(f".{target.name}.part")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.unlink(missing_ok=True)
            make(unfinished)
            unfinished.rename(target)
    return target
