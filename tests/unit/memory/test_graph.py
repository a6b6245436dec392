"""The temporal knowledge graph: validity, recall, several processes, damage."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolving_agent.memory.graph import Memory, MemoryUnavailableError, as_prompt
from evolving_agent.memory.learning import learn_from
from evolving_agent.memory.schema import MIGRATIONS
from evolving_agent.store.records import Correction, ReflectionRecord, ReflectionSource


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory" / "memory.db"


@pytest.fixture
def memory(path: Path) -> Iterator[Memory]:
    memory = Memory.open(path)
    yield memory
    memory.close()


def texts(memory: Memory, query: str, at: float | None = None) -> list[str]:
    return [event.text for event in memory.recall(query, at=at)]


def test_a_contradicting_fact_ends_the_older_one_which_stays_true_of_its_time(memory: Memory) -> None:
    memory.assert_fact("Ada", "lives in", "London", source="e1", at=100.0)
    memory.assert_fact("Ada", "lives in", "Paris", source="e2", at=200.0)

    assert texts(memory, "Where does Ada live?") == ["Ada lives in Paris"]
    assert texts(memory, "Where does Ada live?", at=150.0) == ["Ada lives in London"]
    assert texts(memory, "Where does Ada live?", at=50.0) == []
    (then,) = memory.recall("Ada lives", at=150.0)
    assert (then.valid_from, then.valid_to, then.source) == (100.0, 200.0, "e1")


def test_a_fact_that_is_told_late_ends_where_the_next_one_began(memory: Memory) -> None:
    memory.assert_fact("Ada", "lives in", "Paris", source="e2", at=200.0)
    memory.assert_fact("Ada", "lives in", "London", source="e1", at=100.0)

    assert texts(memory, "Ada lives") == ["Ada lives in Paris"]
    assert texts(memory, "Ada lives", at=150.0) == ["Ada lives in London"]


def test_facts_about_other_things_stand_beside_each_other(memory: Memory) -> None:
    memory.assert_fact("Ada", "lives in", "Paris", source="e1")
    memory.assert_fact("Ada", "works in", "Rome", source="e2")
    memory.assert_fact("Bob", "lives in", "Rome", source="e3")

    assert set(texts(memory, "Ada Paris Rome")) == {"Ada lives in Paris", "Ada works in Rome"}


def test_the_same_thing_told_twice_is_kept_once(memory: Memory) -> None:
    for episode in ("e1", "e2"):
        memory.assert_fact("Ada", "lives in", "Paris", source=episode)
        memory.learn("cards", "Block lost cards.", "lost card", source=episode)

    assert memory.count() == 2


def test_lessons_do_not_end_each_other(memory: Memory) -> None:
    memory.learn("cards", "Block lost cards.", "lost card", source="e1")
    memory.learn("cards", "Ask where the card was lost.", "lost card", source="e2")

    assert len(texts(memory, "lost card")) == 2


def test_what_the_agent_believes_never_ends_what_a_person_said(memory: Memory) -> None:
    memory.correct("lost card", "Block it.", source="e1", certain=True)
    memory.correct("lost card", "Wait.", source="e2", certain=False)

    assert texts(memory, "I lost my card") == [
        "When asked 'lost card': Block it.",
        "When asked 'lost card': perhaps Wait.",
    ]


@pytest.mark.parametrize(
    "query",
    ["What is the weather in Rome?", "card", "Which card games do you know?", "", "?!", "I have my the"],
)
def test_only_what_fits_well_is_recalled(memory: Memory, query: str) -> None:
    memory.correct("I lost my credit card yesterday", "Block it.", source="e1", certain=True)
    if query == "card":  # its only word is there: that is a fit
        assert len(texts(memory, query)) == 1
    else:
        assert texts(memory, query) == []


@pytest.mark.parametrize("query", ['"', "NEAR(a b)", "a AND", "x*", "-x", "col:umn", "(((", "card' OR '1"])
def test_a_query_is_never_syntax(memory: Memory, query: str) -> None:
    memory.learn("x", "Never mind.", "something else entirely", source="e1")

    assert texts(memory, query) == []


def test_recall_stays_within_its_budget_best_first(memory: Memory) -> None:
    memory.correct("lost card abroad", "Call the hotline.", source="e0", certain=True)
    for number in range(20):
        memory.learn("cards", f"Lesson {number}: " + "x" * 80, "lost card", source=f"e{number}")

    recalled = memory.recall("I lost my card abroad", budget_chars=300)

    assert recalled[0].text == "When asked 'lost card abroad': Call the hotline."
    assert len(recalled) == 3
    assert len(as_prompt(recalled)) <= 300 + len("\n\nRemembered:")


def test_nothing_recalled_adds_nothing_to_the_prompt() -> None:
    assert as_prompt([]) == ""


def test_a_long_text_is_shortened_for_the_prompt(memory: Memory) -> None:
    memory.correct("lost card", "word " * 1000, source="e1", certain=True)

    (event,) = memory.recall("lost card")
    assert len(event.text) == 300
    assert len(event.object) == 5000


def test_pods_on_one_node_write_and_read_at_once(path: Path) -> None:
    pods = [Memory.open(path) for _ in range(4)]

    def pod_writes(memory: Memory, pod: int) -> None:
        for number in range(25):
            memory.learn("cards", f"Lesson {pod} {number}", "lost card", source="e")
            memory.recall("lost card")

    threads = [threading.Thread(target=pod_writes, args=(memory, pod)) for pod, memory in enumerate(pods)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [memory.count() for memory in pods] == [100] * 4
    for memory in pods:
        memory.close()


def test_pods_that_start_together_make_the_schema_once(path: Path) -> None:
    for start in range(30):  # it is a race: one start in eight lost it before the opening was retried
        opened: list[Memory] = []
        fresh = path.with_name(f"{start}.db")
        threads = [threading.Thread(target=_open_into, args=(opened, fresh)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(opened) == 12
        for memory in opened:
            memory.close()


def _open_into(opened: list[Memory], path: Path) -> None:
    opened.append(Memory.open(path))


def test_a_database_of_a_newer_version_is_left_alone(path: Path) -> None:
    Memory.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()

    with pytest.raises(MemoryUnavailableError, match="run the version of the agent image"):
        Memory.open(path)
    assert list(path.parent.glob("*damaged*")) == []


def test_a_damaged_database_is_set_aside_and_serving_goes_on(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 1000)

    memory = Memory.open(path)
    memory.assert_fact("Ada", "lives in", "Paris", source="e1")

    assert texts(memory, "Ada lives") == ["Ada lives in Paris"]
    (aside,) = path.parent.glob("memory.db.damaged-*")
    assert aside.read_bytes().startswith(b"this is no database")
    memory.close()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(MemoryUnavailableError, match="file"):
        Memory.open(tmp_path / "file" / "memory.db")


def test_a_locked_database_gives_up_with_a_reason(memory: Memory, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(MemoryUnavailableError, match="locked"):
            memory.assert_fact("Ada", "lives in", "Paris", source="e1")
        assert memory.recall("Ada lives") == []  # reading goes on
    finally:
        other.close()


def a_reflection(source: ReflectionSource, correction: Correction | None, lesson: str) -> ReflectionRecord:
    return ReflectionRecord(
        id="r1",
        episode="e1",
        time="2030-01-01T00:00:00Z",
        agent="support",
        revision="support-00000001",
        source=source,
        query="I lost my card",
        task_type="cards",
        correction=correction,
        lesson=lesson,
    )


@pytest.mark.parametrize(
    ("source", "correction", "remembered"),
    [
        (ReflectionSource.FEEDBACK, Correction(answer="Block it."), "Block it."),
        (ReflectionSource.AFTER_RUN, Correction(answer="Block it."), "perhaps Block it."),
        (
            ReflectionSource.FEEDBACK,
            Correction(answer="Done.", tool_name="block", tool_arguments={"card": 7}),
            'call block with {"card": 7}; Done.',
        ),
    ],
)
def test_a_reflection_leaves_its_correction_and_its_lesson(
    memory: Memory, source: ReflectionSource, correction: Correction, remembered: str
) -> None:
    learn_from(memory, a_reflection(source, correction, "Be quick about lost cards."))

    assert set(texts(memory, "My card is lost")) == {
        f"When asked 'I lost my card': {remembered}",
        "Be quick about lost cards.",
    }
    assert {event.source for event in memory.recall("My card is lost")} == {"e1"}


def test_a_reflection_without_lesson_or_correction_leaves_nothing(memory: Memory) -> None:
    learn_from(memory, a_reflection(ReflectionSource.AFTER_RUN, None, ""))

    assert memory.count() == 0
