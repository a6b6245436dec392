"""The temporal knowledge graph, in whatever it is kept: validity, recall, several pods."""

from __future__ import annotations

import asyncio

import pytest

from evolving_agent.memory.graph import Memory, as_prompt
from evolving_agent.memory.learning import learn_from
from evolving_agent.store.records import Correction, ReflectionRecord, ReflectionSource
from support.memories import Pods


@pytest.fixture
async def memory(pods: Pods) -> Memory:
    return await pods.memory()


async def texts(memory: Memory, query: str, at: float | None = None) -> list[str]:
    return [event.text for event in await memory.recall(query, at=at)]


async def test_a_contradicting_fact_ends_the_older_one_which_stays_true_of_its_time(memory: Memory) -> None:
    await memory.assert_fact("Ada", "lives in", "London", source="e1", at=100.0)
    await memory.assert_fact("Ada", "lives in", "Paris", source="e2", at=200.0)

    assert await texts(memory, "Where does Ada live?") == ["Ada lives in Paris"]
    assert await texts(memory, "Where does Ada live?", at=150.0) == ["Ada lives in London"]
    assert await texts(memory, "Where does Ada live?", at=50.0) == []
    (then,) = await memory.recall("Ada lives", at=150.0)
    assert (then.valid_from, then.valid_to, then.source) == (100.0, 200.0, "e1")


async def test_a_fact_that_is_told_late_ends_where_the_next_one_began(memory: Memory) -> None:
    await memory.assert_fact("Ada", "lives in", "Paris", source="e2", at=200.0)
    await memory.assert_fact("Ada", "lives in", "London", source="e1", at=100.0)

    assert await texts(memory, "Ada lives") == ["Ada lives in Paris"]
    assert await texts(memory, "Ada lives", at=150.0) == ["Ada lives in London"]


async def test_facts_about_other_things_stand_beside_each_other(memory: Memory) -> None:
    await memory.assert_fact("Ada", "lives in", "Paris", source="e1")
    await memory.assert_fact("Ada", "works in", "Rome", source="e2")
    await memory.assert_fact("Bob", "lives in", "Rome", source="e3")

    assert set(await texts(memory, "Ada Paris Rome")) == {"Ada lives in Paris", "Ada works in Rome"}


async def test_the_same_thing_told_twice_is_kept_once(memory: Memory) -> None:
    for episode in ("e1", "e2"):
        await memory.assert_fact("Ada", "lives in", "Paris", source=episode)
        await memory.learn("cards", "Block lost cards.", "lost card", source=episode)

    assert await memory.count() == 2


async def test_lessons_do_not_end_each_other(memory: Memory) -> None:
    await memory.learn("cards", "Block lost cards.", "lost card", source="e1")
    await memory.learn("cards", "Ask where the card was lost.", "lost card", source="e2")

    assert len(await texts(memory, "lost card")) == 2


async def test_what_the_agent_believes_never_ends_what_a_person_said(memory: Memory) -> None:
    await memory.correct("lost card", "Block it.", source="e1", certain=True)
    await memory.correct("lost card", "Wait.", source="e2", certain=False)

    assert await texts(memory, "I lost my card") == [
        "When asked 'lost card': Block it.",
        "When asked 'lost card': perhaps Wait.",
    ]


@pytest.mark.parametrize(
    "query",
    ["What is the weather in Rome?", "card", "Which card games do you know?", "", "?!", "I have my the"],
)
async def test_only_what_fits_well_is_recalled(memory: Memory, query: str) -> None:
    await memory.correct("I lost my credit card yesterday", "Block it.", source="e1", certain=True)
    if query == "card":  # its only word is there: that is a fit
        assert len(await texts(memory, query)) == 1
    else:
        assert await texts(memory, query) == []


@pytest.mark.parametrize("query", ['"', "NEAR(a b)", "a AND", "x*", "-x", "col:umn", "(((", "card' OR '1"])
async def test_a_query_is_never_syntax(memory: Memory, query: str) -> None:
    await memory.learn("x", "Never mind.", "something else entirely", source="e1")

    assert await texts(memory, query) == []


async def test_recall_stays_within_its_budget_best_first(memory: Memory) -> None:
    await memory.correct("lost card abroad", "Call the hotline.", source="e0", certain=True)
    for number in range(20):
        await memory.learn("cards", f"Lesson {number}: " + "x" * 80, "lost card", source=f"e{number}")

    recalled = await memory.recall("I lost my card abroad", budget_chars=300)

    assert recalled[0].text == "When asked 'lost card abroad': Call the hotline."
    assert len(recalled) == 3
    assert len(as_prompt(recalled)) <= 300 + len("\n\nRemembered:")


def test_nothing_recalled_adds_nothing_to_the_prompt() -> None:
    assert as_prompt([]) == ""


async def test_a_long_text_is_shortened_for_the_prompt(memory: Memory) -> None:
    await memory.correct("lost card", "word " * 1000, source="e1", certain=True)

    (event,) = await memory.recall("lost card")
    assert len(event.text) == 300
    assert len(event.object) == 5000


async def test_pods_write_and_read_at_once(pods: Pods) -> None:
    memories = [await pods.memory() for _ in range(4)]

    async def pod_writes(memory: Memory, pod: int) -> None:
        for number in range(25):
            await memory.learn("cards", f"Lesson {pod} {number}", "lost card", source="e")
            await memory.recall("lost card")

    await asyncio.gather(*(pod_writes(memory, pod) for pod, memory in enumerate(memories)))

    assert [await memory.count() for memory in memories] == [100] * 4


async def test_pods_that_contradict_each_other_at_once_leave_one_truth(pods: Pods) -> None:
    memories = [await pods.memory() for _ in range(4)]

    await asyncio.gather(
        *(
            memory.assert_fact("Ada", "lives in", f"City {pod}", source="e", at=100.0 + number)
            for number in range(10)
            for pod, memory in enumerate(memories)
        )
    )

    assert len(await memories[0].recall("Ada lives city", budget_chars=10_000)) == 1
    history = [
        event
        for moment in range(100, 110)
        for event in await memories[0].recall("Ada lives city", at=moment + 0.5, budget_chars=10_000)
    ]
    assert len(history) == 10, "one city at each time"


@pytest.mark.parametrize("odd", ["nul \0 inside", "x" * 100_000, "wörter 漢字 🙂", "'; --"])
async def test_any_text_can_be_remembered(memory: Memory, odd: str) -> None:
    await memory.assert_fact(f"Ada {odd}", f"likes {odd}", odd, source=odd)
    await memory.learn(f"cards {odd}", f"Block lost cards. {odd}", f"lost card {odd}", source="e")

    assert await memory.count() == 2
    assert len(await texts(memory, f"lost card cards block {odd}")) >= 1


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
async def test_a_reflection_leaves_its_correction_and_its_lesson(
    memory: Memory, source: ReflectionSource, correction: Correction, remembered: str
) -> None:
    await learn_from(memory, a_reflection(source, correction, "Be quick about lost cards."))

    assert set(await texts(memory, "My card is lost")) == {
        f"When asked 'I lost my card': {remembered}",
        "Be quick about lost cards.",
    }
    assert {event.source for event in await memory.recall("My card is lost")} == {"e1"}


async def test_a_reflection_without_lesson_or_correction_leaves_nothing(memory: Memory) -> None:
    await learn_from(memory, a_reflection(ReflectionSource.AFTER_RUN, None, ""))

    assert await memory.count() == 0
