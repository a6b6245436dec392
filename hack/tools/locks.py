"""Locks between the processes that use the tools at the same time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from tools import cache


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Only one process at a time; released when the process ends, however it ends."""
    with (cache.folder("locks") / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
