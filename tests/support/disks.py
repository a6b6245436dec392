"""Real file systems that are small, read-only or stuck, mounted for one test. Needs root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def small_disk(path: Path, size: str, *options: str) -> Iterator[None]:
    """A tmpfs of that size at `path`."""
    path.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "tmpfs", path)
    try:
        yield
    finally:
        _run("umount", "--lazy", path)


def fill_up(path: Path) -> None:
    """Takes the last byte of the file system, by the file at `path`."""
    with path.open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))


def make_writable(path: Path) -> None:
    _run("mount", "-o", "remount,rw", path)


@contextmanager
def ext4_disk(path: Path) -> Iterator[None]:
    """An ext4 of 16 MiB at `path`, on a file beside it."""
    path.mkdir(parents=True, exist_ok=True)
    image = path.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(16 * 2**20)
    _run("mkfs.ext4", "-q", image)
    _run("mount", "-o", "loop", image, path)
    try:
        yield
    finally:
        _run("umount", path)


@contextmanager
def frozen(path: Path) -> Iterator[None]:
    """Writes to the file system at `path` neither end nor fail."""
    _run("fsfreeze", "--freeze", path)
    try:
        yield
    finally:
        _run("fsfreeze", "--unfreeze", path)
