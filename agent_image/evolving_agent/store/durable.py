"""Writes that are whole or not there, and a lock between Jobs that share one store."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A network volume without lock support answers one of these. Runs are then kept apart by the CronJob's
# `concurrencyPolicy: Forbid` alone.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


class StoreBusyError(Exception):
    """Another run holds the lock, or has changed what this one was about to change."""


class StoreUnavailableError(Exception):
    """The object store did not do what it was asked; the message says where and what to look at."""


def sync_directory(directory: Path) -> None:
    """Makes renames within `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Makes a directory and its missing parents, and returns when they would survive a power cut."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Writes a new file and returns when it lies on the disk. For files that nobody reads yet."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces `path`: a reader, and a restart after a crash, see the old content or the new one."""
    make_directory(path.parent)
    # Random, for in containers every process has the same number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_synced(temporary, content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds the lock file `path`; it is free again when the process ends, however it ends.

    Raises StoreBusyError at once when another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            raise StoreBusyError(f"{path} is held by another run") from busy
        except OSError as unsupported:
            if unsupported.errno not in _NO_LOCKS:
                raise
        yield
