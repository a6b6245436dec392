"""The cache: the newest version wins, and what has ended does not come back."""

from __future__ import annotations

from typing import Any

from evolving_operator.api import names
from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.kinds import OWNED

KEY = ("default", "support")
JOB = next(kind for kind in OWNED if kind.kind == "Job")


def job(version: int, *, uid: str = "u1", name: str = "j", agent: str | None = "support") -> dict[str, Any]:
    labels = {names.LABEL_AGENT: agent} if agent else {}
    metadata = {
        "name": name,
        "namespace": "default",
        "uid": uid,
        "resourceVersion": str(version),
        "labels": labels,
        "managedFields": [{"manager": "m"}],
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata}


def held(cache: Cache) -> list[str]:
    return [raw["metadata"]["resourceVersion"] for raw in cache.owned(KEY)]


def test_an_older_version_changes_nothing() -> None:
    cache = Cache()

    assert cache.put(job(10)) == (KEY,)
    assert cache.put(job(9)) == ()
    assert cache.put(job(10)) == ()
    assert held(cache) == ["10"]
    assert cache.put(job(11)) == (KEY,)
    assert held(cache) == ["11"]


def test_what_has_ended_is_not_brought_back_by_a_late_event() -> None:
    cache = Cache()
    cache.put(job(10))

    assert cache.remove(job(12)) == (KEY,)
    assert cache.put(job(11)) == ()
    assert held(cache) == []


def test_a_new_object_of_the_name_is_let_in_and_the_end_of_the_old_one_does_not_touch_it() -> None:
    cache = Cache()
    cache.put(job(10, uid="old"))
    cache.put(job(20, uid="new"))

    cache.remove(job(15, uid="old"))

    assert held(cache) == ["20"]


def test_a_list_finds_out_what_went_unseen() -> None:
    cache = Cache()
    cache.put(job(10, name="gone"))
    cache.put(job(11, name="stays", uid="u2"))
    cache.put(job(50, name="newer-than-the-list", uid="u3"))

    news = cache.reconcile(JOB, None, [job(11, name="stays", uid="u2")], "40")

    assert news == {KEY}
    assert sorted(held(cache)) == ["11", "50"]


def test_a_list_of_one_namespace_says_nothing_about_another() -> None:
    cache = Cache()
    cache.put(job(10))

    assert cache.reconcile(JOB, "elsewhere", [], "40") == set()
    assert held(cache) == ["10"]


def test_an_object_that_is_no_agents_is_not_kept() -> None:
    cache = Cache()
    cache.put(job(10))

    assert cache.put(job(11, agent=None)) == (KEY,)  # which has one object less
    assert cache.put(job(12, agent=None)) == ()
    assert held(cache) == []


def test_a_revision_belongs_to_the_agent_that_it_names() -> None:
    cache = Cache()
    metadata = {"name": "support-1", "namespace": "default", "uid": "u", "resourceVersion": "5"}
    raw = {
        "apiVersion": names.API_VERSION,
        "kind": names.REVISION_KIND,
        "metadata": metadata,
        "spec": {"agentRef": {"name": "support"}},
    }

    assert cache.put(raw) == (KEY,)


def test_ballast_is_not_kept() -> None:
    cache = Cache()
    cache.put(job(10))

    assert "managedFields" not in cache.owned(KEY)[0]["metadata"]


def test_an_agent_that_left_the_label_selector_may_come_back() -> None:
    """Its watch says that it is deleted; its UID stays the same."""
    cache = Cache()
    cache.put(job(10))

    cache.remove(job(12))

    assert cache.put(job(12)) == ()
    assert cache.put(job(13)) == (KEY,)


def test_what_a_request_has_shown_to_be_gone_does_not_come_back_unless_it_changes() -> None:
    """It has not gone then: what was not served for a moment, for example."""
    cache = Cache()
    cache.put(job(10))

    cache.forget("Job", "default", "j")

    assert cache.put(job(10)) == ()
    assert held(cache) == []
    assert cache.put(job(11)) == (KEY,)


def test_an_object_that_becomes_another_agents_is_news_for_both() -> None:
    cache, other = Cache(), ("default", "other")
    cache.put(job(10))

    assert set(cache.put(job(11, agent="other"))) == {KEY, other}
    assert held(cache) == []
    assert set(cache.remove(job(12))) == {KEY, other}


def test_an_answer_that_tells_of_an_end_does_not_touch_the_next_object_of_the_name() -> None:
    """A deletion is answered late; meanwhile somebody makes the object anew, and the watch is faster."""
    cache = Cache()
    cache.put(job(10, uid="old"))
    cache.put(job(20, uid="new"))

    cache.forget("Job", "default", "j", "old")

    assert held(cache) == ["20"]
    assert cache.put(job(21, uid="new")) == (KEY,)
