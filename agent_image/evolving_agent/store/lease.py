"""A lock between Jobs that share an object store: an object that its holder writes again and again.

Who finds it older than its time takes it, by a conditional write, so that of several one gets it. Clocks of
pods may differ by a few seconds. A holder that is suspended for longer than the lease and then goes on is
stopped by its next conditional write (`StoreLayout.replace`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from evolving_agent.store.durable import StoreBusyError, StoreUnavailableError

if TYPE_CHECKING:  # only pods with an object store load its client
    from evolving_agent.store.object_store import ObjectStore

LEASE_SECONDS = 30.0
RENEW_SECONDS = 8.0
POLL_SECONDS = 2.0

logger = logging.getLogger(__name__)


class _Held(msgspec.Struct, frozen=True):
    owner: str
    until: float  # seconds since the epoch


@contextmanager
def leased(
    remote: ObjectStore,
    key: str,
    owner: str,
    *,
    seconds: float = LEASE_SECONDS,
    renew_seconds: float = RENEW_SECONDS,
) -> Iterator[None]:
    """Holds the lease for as long as the block.

    Where an earlier pod of the same `owner` holds it, which has died or is about to, waits until it ends.
    Raises StoreBusyError where another owner holds it, StoreUnavailableError.
    """
    tag = _taken(remote, key, owner, seconds)
    done = threading.Event()

    def renew_forever() -> None:
        held = tag
        while not done.wait(renew_seconds):
            try:
                held = remote.put_if(key, _content(owner, seconds), held)
            except StoreUnavailableError as error:
                logger.warning("the lease was not renewed: %s", error)
            except StoreBusyError:
                logger.error("the lease %s/%s was taken over by another run", remote.url, key)
                return

    renewing = threading.Thread(target=renew_forever, name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        with suppress(StoreUnavailableError):  # then it ends by itself
            _given_back(remote, key, owner)


def _taken(remote: ObjectStore, key: str, owner: str, seconds: float) -> str:
    while True:
        found = remote.get(key)
        held = _read(found[0]) if found is not None else None
        if held is None or held.until <= time.time():
            try:
                return remote.put_if(key, _content(owner, seconds), found[1] if found is not None else None)
            except StoreBusyError:
                continue  # somebody was faster: see who
        if held.owner != owner:
            raise StoreBusyError(f"{remote.url}/{key} is held by {held.owner}")
        logger.info("an earlier pod of this run may still be at work; waiting until its lease ends")
        time.sleep(POLL_SECONDS)


def _given_back(remote: ObjectStore, key: str, owner: str) -> None:
    found = remote.get(key)
    held = _read(found[0]) if found is not None else None
    if held is not None and held.owner == owner:
        remote.delete(key)


def _read(content: bytes) -> _Held | None:
    """None for what is no lease: it holds nobody up."""
    try:
        return msgspec.json.decode(content, type=_Held)
    except msgspec.MsgspecError:
        return None


def _content(owner: str, seconds: float) -> bytes:
    return msgspec.json.encode(_Held(owner, time.time() + seconds))
