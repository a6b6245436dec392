"""The lock between Jobs that share an object store, against a real S3 server."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from evolving_agent.store.durable import StoreBusyError
from evolving_agent.store.lease import leased
from support.cluster import eventually
from support.s3 import S3Server

KEY = "runs/training/.lock"


def test_one_of_many_gets_it_and_it_is_free_afterwards(s3: S3Server) -> None:
    store = s3.store("bank/support")
    everybody_tried = threading.Barrier(4)

    def try_it(owner: str) -> bool:
        try:
            with leased(store, KEY, owner):
                everybody_tried.wait(60)
                return True
        except StoreBusyError:
            everybody_tried.wait(60)
            return False

    with ThreadPoolExecutor(4) as runs:
        assert sum(runs.map(try_it, [f"run-{number}" for number in range(4)])) == 1
    assert store.get(KEY) is None
    with leased(store, KEY, "run-4"):
        pass


def test_a_holder_that_lives_keeps_it_for_longer_than_its_time(s3: S3Server) -> None:
    store = s3.store("bank/support")
    with leased(store, KEY, "run-1", seconds=3.0, renew_seconds=0.3):
        ends = time.monotonic() + 4.5
        while time.monotonic() < ends:
            with pytest.raises(StoreBusyError, match="held by run-1"), leased(store, KEY, "run-2"):
                pass


def test_that_of_a_dead_holder_ends(s3: S3Server) -> None:
    store = s3.store("bank/support")
    store.put(KEY, b'{"owner":"run-1","until":%d}' % (time.time() + 6))

    def got() -> bool:
        try:
            with leased(store, KEY, "run-2"):
                return True
        except StoreBusyError:
            return False

    assert not got()
    eventually(got, 30, "the lease of the dead holder ends")


def test_the_next_pod_of_the_same_run_waits_for_the_end_of_the_last_ones(s3: S3Server) -> None:
    store = s3.store("bank/support")
    until = int(time.time()) + 2
    store.put(KEY, b'{"owner":"run-1","until":%d}' % until)

    with leased(store, KEY, "run-1"):
        assert time.time() >= until
