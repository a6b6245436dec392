"""The door to the object store, against a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolving_agent.store.durable import StoreBusyError, StoreUnavailableError
from evolving_agent.store.layout import StoreLayout
from evolving_agent.store.object_store import ObjectStore
from support.s3 import S3Server


def test_two_agents_in_one_bucket_see_only_their_own(s3: S3Server) -> None:
    ours, theirs = s3.store("bank/support"), s3.store("bank/support-2")
    ours.put("episodes/a/1.jsonl", b"ours")
    theirs.put("episodes/a/2.jsonl", b"theirs")

    assert [info.key for info in ours.list("episodes")] == ["episodes/a/1.jsonl"]
    assert ours.get("episodes/a/2.jsonl") is None
    found = ours.get("episodes/a/1.jsonl")
    assert found is not None
    assert found[0] == b"ours"
    ours.delete("episodes/a/1.jsonl")
    assert ours.list("episodes") == []


def test_a_conditional_write_succeeds_for_one_of_two(s3: S3Server) -> None:
    store = s3.store("bank/support")
    tag = store.put_if("state.json", b"begun by one", None)
    with pytest.raises(StoreBusyError, match=r"state\.json was changed by another run"):
        store.put_if("state.json", b"begun by two", None)

    newer = store.put_if("state.json", b"gone on by one", tag)
    with pytest.raises(StoreBusyError):
        store.put_if("state.json", b"gone on by two", tag)
    found = store.get("state.json")
    assert found == (b"gone on by one", newer)


def test_a_write_whose_answer_was_lost_is_not_taken_for_another_run(s3: S3Server) -> None:
    store = s3.store("bank/support")
    tag = store.put_if("state.json", b"begun", None)
    assert store.put_if("state.json", b"begun", None) == tag


def test_a_job_sees_what_an_earlier_one_saved_on_another_disk(s3: S3Server, tmp_path: Path) -> None:
    first = StoreLayout(tmp_path / "first", s3.store("bank/support"))
    second = StoreLayout(tmp_path / "second", s3.store("bank/support"))
    state, pointer = Path("runs/training/1/state.json"), Path("datasets/LATEST")
    first.replace(first.root / state, b"one")
    first.save(first.root / pointer, b"ds-1")
    first.save(first.root / pointer, b"ds-2")

    second.pull(second.runs("training"))
    second.pull_file(second.root / pointer)
    second.pull_file(second.root / "datasets" / "none")

    assert (second.root / state).read_bytes() == b"one"
    assert (second.root / pointer).read_bytes() == b"ds-2"
    assert not (second.root / "datasets" / "none").exists()
    second.replace(second.root / state, b"two")
    with pytest.raises(StoreBusyError):
        first.replace(first.root / state, b"three")
    assert (first.root / state).read_bytes() == b"one"


def test_a_store_that_is_away_or_refuses_says_what_to_look_at(s3: S3Server) -> None:
    variables = s3.variables("bank/support")
    stranger = ObjectStore("s3://agents/bank", variables | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    with pytest.raises(StoreUnavailableError, match=r"s3://agents/bank/a: .*check storage\.objectStore"):
        stranger.put("a", b"")
    nowhere = ObjectStore("s3://no-such-bucket/bank", variables)
    with pytest.raises(StoreUnavailableError, match=r"cannot write s3://no-such-bucket/bank/a"):
        nowhere.put("a", b"")
