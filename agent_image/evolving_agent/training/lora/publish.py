"""Puts a finished adapter where the model server looks for it: `<adapters>/<model ID>/`.

The directory appears complete or not at all, and its content never changes again.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx

ANNOUNCE_TIMEOUT_SECONDS = 60.0
# The rule of the model server: one path component that does not begin with a dot.
_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,199}")


class VolumeError(OSError):
    """The adapter volume is missing, read-only or full. The text says which and what to do."""


class AdapterNameError(ValueError):
    """A model ID that no model server would serve from a directory of its name."""


class AnnouncementError(Exception):
    """The adapter lies in its place, but the model server does not serve it (yet)."""


def published(adapters: Path, model_id: str) -> Path | None:
    """The complete directory of that adapter; None where there is none yet."""
    directory = _place(adapters, model_id)
    return directory if directory.is_dir() else None


def check_writable(adapters: Path) -> None:
    """Finds out before a long training what would stop its result. Raises VolumeError."""
    if not adapters.is_dir():
        raise VolumeError(
            f"there is no directory {adapters}: mount the adapter volume there (adapterVolume.claimName)"
        )
    try:
        with tempfile.TemporaryDirectory(prefix=".check.", dir=adapters):
            pass
    except OSError as error:
        raise _not_writable(adapters, error) from error


def publish(adapters: Path, model_id: str, fill: Callable[[Path], None]) -> Path:
    """Has `fill` write the files into a new directory and moves that to its place.

    An adapter of that name which is there already is kept. Raises VolumeError.
    """
    place = _place(adapters, model_id)
    try:
        for leftover in adapters.glob(f".{model_id}.*"):  # of an attempt that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{model_id}.", dir=adapters))
        try:
            unfinished.chmod(0o755)  # the model server may run as another user
            fill(unfinished)
            _sync(unfinished)
            _move(unfinished, place)
            _sync_directory(adapters)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise _not_writable(adapters, error) from error
    return place


def _not_writable(adapters: Path, error: OSError) -> VolumeError:
    return VolumeError(
        f"cannot write to the adapter volume at {adapters}: {error.strerror or error}. The trainer runs as "
        f"uid {os.getuid()}, gid {os.getgid()}; the volume must be writable for it and have space"
    )


def announce(endpoint: str, model_id: str, directory: Path) -> None:
    """Asks the model server to load the adapter, and checks that it lists it.

    A server that finds adapters by itself need not know the request (404). Raises AnnouncementError.
    """
    base = endpoint.rstrip("/")
    wanted = {"lora_name": model_id, "lora_path": str(directory)}
    try:
        with httpx.Client(timeout=ANNOUNCE_TIMEOUT_SECONDS) as client:
            if model_id in _models(client, base):  # loaded before, or found by the server itself
                return
            answer = client.post(f"{base}/load_lora_adapter", json=wanted)
            if model_id in _models(client, base):
                return
    except httpx.HTTPError as error:
        raise AnnouncementError(f"the model server at {base} does not answer: {error!r}") from error
    raise AnnouncementError(
        f"the model server at {base} does not list {model_id!r} after load_lora_adapter answered "
        f"{answer.status_code}: {answer.text[:300]}"
    )


def _models(client: httpx.Client, base: str) -> list[str]:
    listed = client.get(f"{base}/models").raise_for_status().json()
    return [model["id"] for model in listed["data"]]


def _place(adapters: Path, model_id: str) -> Path:
    if _MODEL_ID.fullmatch(model_id) is None:
        raise AdapterNameError(
            f"{model_id!r} cannot name an adapter: a letter or digit, then letters, digits and ._:@+-, 200 "
            "characters in all; correct training.suffix"
        )
    return adapters / model_id


def _move(unfinished: Path, place: Path) -> None:
    try:
        unfinished.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another run was first: its adapter stays
            raise


def _sync(directory: Path) -> None:
    """Brings the files to the disk before their name does."""
    for file in directory.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
