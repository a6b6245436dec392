"""Reflections, feedback and memory, over real HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evolving_agent.contract import env
from evolving_agent.contract.config import (
    Endpoint,
    MemoryType,
    Pricing,
    Reflection,
    ReflectionMode,
    ReflectionModel,
    ServedModel,
)
from evolving_agent.contract.refs import SecretKeyRef
from evolving_agent.memory.graph import Memory
from evolving_agent.memory.sqlite.events import SQLiteEvents
from evolving_agent.store.records import Correction, ReflectionSource
from evolving_agent.testing.scripted_model import Reply, ScriptedModel, served
from support.pods import eventually, running

AFTER_RUN = Reflection(mode=ReflectionMode.AFTER_RUN)
SAID = {
    "task_type": "Card loss",
    "outcome": "failure",
    "score": "35/100",
    "mistakes": "did not ask for the card number",
    "uncertainties": [],
    "missing_context": ["card number"],
    "corrected_answer": "Please block the card at once.",
    "lesson": "Block lost cards before anything else.",
}


def answering_and_reflecting(reflection: str) -> Any:
    """A script that answers users, and reflects when it is asked to review."""

    def script(body: dict[str, Any]) -> Reply:
        reviews = body["messages"][0]["content"].startswith("You review")
        return Reply(text=reflection if reviews else "We will look into it.")

    return script


async def test_a_run_is_reflected_upon_after_its_answer(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod(reflection=AFTER_RUN)) as pod:
        upstream.model.script = answering_and_reflecting(f"Sure!\n```json\n{json.dumps(SAID)}\n```")

        answer = await pod.ask("I lost my bank card")
        await eventually(pod.reflections, "a reflection")

        (record,) = pod.reflections()
        assert record.source is ReflectionSource.AFTER_RUN
        assert (record.episode, record.revision) == (answer["id"], "support-00000001")
        assert (record.task_type, record.outcome, record.score) == ("card loss", "failure", 35)
        assert record.mistakes == ["did not ask for the card number"]
        assert record.missing_context == ["card number"]
        assert record.correction == Correction(answer="Please block the card at once.")
        assert (record.query, record.answer) == ("I lost my bank card", "We will look into it.")
        assert record.unparsed is None
        prompt = upstream.model.requests[-1]
        assert prompt["max_tokens"] == AFTER_RUN.max_output_tokens
        form = prompt["response_format"]["json_schema"]["schema"]
        assert set(form["required"]) == set(SAID)
        assert "I lost my bank card" in prompt["messages"][1]["content"]
        labels = 'arm="active",model="tiny",{}revision="support-00000001",source="after_run"'
        parsed = labels.format('outcome="parsed",')
        assert await pod.metric(f"evolving_agent_reflections_total{{{parsed}}}") == 1
        scores = labels.format("")
        assert await pod.metric(f"evolving_agent_reflection_score_sum{{{scores}}}") == 35


async def test_another_model_reflects_where_one_is_named(
    make_pod: Any, upstream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has an endpoint of its own, with a key from a mounted Secret."""
    reviewer = ScriptedModel(lambda _: Reply(text=json.dumps(SAID)), models=["judge"])
    async with served(reviewer.app) as url:
        ref = SecretKeyRef(name="judge", key="apiKey")
        endpoint = Endpoint(base_url=f"{url}/v1", api_key_secret_ref=ref)
        own = ReflectionModel(name="judge", endpoint=endpoint)
        pod = make_pod(reflection=AFTER_RUN.model_copy(update={"model": own}))
        secret = pod.directory / "files" / "secrets" / "judge" / "apiKey"
        secret.parent.mkdir(parents=True)
        secret.write_text("a-key\n")
        monkeypatch.setenv(env.FILES, str(pod.directory / "files"))
        async with running(pod):
            await pod.ask("I lost my bank card")
            await eventually(pod.reflections, "a reflection")

            (asked,) = reviewer.requests
            assert asked["model"] == "judge"
            assert [request["model"] for request in upstream.model.requests] == ["tiny"] * 2  # probe, answer
            assert pod.reflections()[0].score == 35
            spent = 'evolving_agent_reflection_tokens_total{direction="output",model="judge"}'
            assert await pod.metric(spent) > 0


async def test_what_tokens_cost_is_counted_where_their_price_is_known(make_pod: Any, upstream: Any) -> None:
    priced = ServedModel(
        id="tiny",
        base_url=f"{upstream.url}/v1",
        pricing=Pricing(input_micro_usd=2_500_000, output_micro_usd=10_000_000),
    )
    async with running(make_pod(model=priced)) as pod:
        await pod.ask("Hi")
        tokens = [
            await pod.metric(
                f'evolving_agent_tokens_total{{arm="active",direction="{direction}",model="tiny",'
                'revision="support-00000001"}'
            )
            for direction in ("input", "output")
        ]
        spent = 'evolving_agent_cost_usd_total{arm="active",model="tiny",revision="support-00000001"}'
        cost = await pod.metric(spent)
    assert min(tokens) > 0
    assert cost == pytest.approx((2.5 * tokens[0] + 10 * tokens[1]) / 1_000_000)


async def test_a_reflection_that_is_none_is_kept_as_it_was_said_and_counted(
    make_pod: Any, upstream: Any
) -> None:
    async with running(make_pod(reflection=AFTER_RUN)) as pod:
        upstream.model.script = answering_and_reflecting("I did great {really}")

        await pod.ask("I lost my bank card")
        await eventually(pod.reflections, "a reflection")

        (record,) = pod.reflections()
        assert record.unparsed == "I did great {really}"
        assert (record.score, record.lesson, record.outcome) == (None, "", "unknown")
        labels = 'arm="active",model="tiny",outcome="unparsed",revision="support-00000001",source="after_run"'
        assert await pod.metric(f"evolving_agent_reflections_total{{{labels}}}") == 1


@pytest.mark.parametrize(
    ("mode", "sources"),
    [
        (ReflectionMode.AFTER_RUN, {ReflectionSource.AFTER_RUN}),
        (ReflectionMode.TOOL, {ReflectionSource.TOOL}),
        (ReflectionMode.BOTH, {ReflectionSource.AFTER_RUN, ReflectionSource.TOOL}),
        (ReflectionMode.DISABLED, set()),
    ],
)
async def test_a_mode_says_when_the_agent_reflects(
    make_pod: Any, upstream: Any, mode: ReflectionMode, sources: set[ReflectionSource]
) -> None:
    """The model calls record_reflection whenever it is offered, and reflects whenever it is asked to."""

    def script(body: dict[str, Any]) -> Reply:
        if body["messages"][0]["content"].startswith("You review"):
            return Reply(text=json.dumps(SAID))
        if body["messages"][-1]["role"] == "user" and "tools" in body:
            return Reply(calls=(("record_reflection", {"lesson": "Ask first.", "score": 40}),))
        return Reply(text="Done.")

    async with running(make_pod(reflection=Reflection(mode=mode))) as pod:
        upstream.model.script = script
        await pod.ask("I lost my bank card")
        await eventually(lambda: len(pod.reflections()) == len(sources), f"what {mode} leaves")

    assert {record.source for record in pod.reflections()} == sources  # and no more at the pod's end


async def test_runs_outside_the_sample_are_not_reflected_upon(make_pod: Any, upstream: Any) -> None:
    reflection = Reflection(mode=ReflectionMode.AFTER_RUN, sample_percent=0)
    async with running(make_pod(reflection=reflection)) as pod:
        await pod.ask("Hi")

        assert await pod.metric('evolving_agent_reflections_skipped_total{reason="sampled_out"}') == 1
        assert len(upstream.model.requests) == 2


async def test_what_a_reflection_teaches_is_in_the_next_prompt(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod(reflection=AFTER_RUN)) as pod:
        upstream.model.script = answering_and_reflecting(json.dumps(SAID))
        await pod.ask("I lost my bank card")
        await eventually(
            lambda: pod.metric('evolving_agent_memory_writes_total{outcome="ok"}'), "the lesson in memory"
        )

        upstream.model.say(Reply(text="Blocked."))
        await pod.ask("I have lost the card of my bank")
        upstream.model.say(Reply(text="Sunny."))
        await pod.ask("How is the weather in Rome?")

        related, unrelated = pod.episodes()[1:]
        assert "Block lost cards before anything else." in related.system
        assert related.system.startswith("You are a support agent.\n\nRemembered:\n- ")
        assert len(related.system) < 700
        assert unrelated.system == "You are a support agent."
        assert await pod.metric('evolving_agent_memory_recalls_total{outcome="hit"}') == 1


async def test_a_dry_run_neither_recalls_nor_leaves_anything(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod(reflection=AFTER_RUN)) as pod:
        events = SQLiteEvents.open(pod.store.memory_database)
        memory = Memory(events)
        await memory.learn("cards", "Block lost cards first.", "lost card", source="test")

        await pod.ask("I lost my card", **{"X-Evolving-Dry-Run": "true"})

        assert upstream.model.requests[-1]["messages"][0]["content"] == "You are a support agent."
        assert pod.episodes() == []
        assert pod.reflections() == []
        assert await memory.count() == 1
        events.close()


async def test_without_memory_nothing_is_kept_or_recalled(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod(memory=MemoryType.DISABLED)) as pod:
        answer = await pod.ask("I lost my card")
        correction = {"completion_id": answer["id"], "correction": {"answer": "Block it."}}
        assert (await pod.post("/v1/feedback", correction)).status_code == 201
        await pod.ask("I lost my card")

        assert not pod.store.memory_database.exists()
        assert pod.episodes()[1].system == "You are a support agent."


@pytest.mark.parametrize(
    ("word", "score", "outcome"),
    [
        ({"thumbs": "up"}, 100, "success"),
        ({"thumbs": "down"}, 0, "failure"),
        ({"score": 80}, 80, "success"),
        ({"score": 20, "thumbs": "up"}, 20, "failure"),
        ({"comment": "hm"}, None, "unknown"),
        ({"correction": {"answer": "Block it."}}, None, "failure"),
    ],
)
async def test_feedback_becomes_a_reflection_on_its_episode(
    make_pod: Any, word: dict[str, Any], score: int | None, outcome: str
) -> None:
    async with running(make_pod()) as pod:
        answer = await pod.ask("I lost my card")

        response = await pod.post("/v1/feedback", {"completion_id": answer["id"], **word})

        assert response.status_code == 201
        (record,) = pod.reflections()
        assert response.json()["id"] == record.id
        assert record.source is ReflectionSource.FEEDBACK
        assert (record.episode, record.query) == (answer["id"], "I lost my card")
        assert record.answer == "echo: I lost my card"
        assert (record.score, record.outcome) == (score, outcome)


async def test_a_corrected_tool_call_is_kept_and_remembered(make_pod: Any) -> None:
    async with running(make_pod()) as pod:
        answer = await pod.ask("I lost my card")
        right = {"name": "route_ticket", "arguments": {"team": "cards"}}

        await pod.post("/v1/feedback", {"completion_id": answer["id"], "correction": {"tool": right}})
        await pod.ask("I lost my card")

        (record,) = pod.reflections()
        assert record.correction == Correction(tool_name="route_ticket", tool_arguments={"team": "cards"})
        assert 'call route_ticket with {"team": "cards"}' in pod.episodes()[1].system


async def test_a_newer_correction_ends_the_older_one(make_pod: Any) -> None:
    async with running(make_pod()) as pod:
        answer = await pod.ask("I lost my card")
        for right in ("Call the hotline.", "Block it in the app."):
            await pod.post("/v1/feedback", {"completion_id": answer["id"], "correction": {"answer": right}})
        await pod.ask("I lost my card")

        system = pod.episodes()[1].system
        assert "Block it in the app." in system
        assert "hotline" not in system


async def test_feedback_finds_answers_of_other_pods_and_of_earlier_lives(make_pod: Any) -> None:
    async with running(make_pod("support-0")) as first:
        answer = await first.ask("I lost my card")
    async with running(make_pod("support-1")) as second:
        response = await second.post("/v1/feedback", {"completion_id": answer["id"], "thumbs": "up"})

        assert response.status_code == 201
        assert second.reflections()[0].query == "I lost my card"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"completion_id": "chatcmpl-support-0-1700000000000deadbeef", "thumbs": "up"}, 404),
        ({"completion_id": "chatcmpl-../../etc-1700000000000deadbeef", "thumbs": "up"}, 404),
        ({"completion_id": "x"}, 400),
        ({"thumbs": "up"}, 400),
        ({"completion_id": "x", "score": 101}, 400),
        ({"completion_id": "x", "thumbs": "sideways"}, 400),
        ({"completion_id": "x", "thumbs": "up", "correktion": {}}, 400),
        ({"completion_id": "x", "correction": {}}, 400),
    ],
)
async def test_feedback_that_means_nothing_is_refused(make_pod: Any, body: Any, status: int) -> None:
    async with running(make_pod()) as pod:
        response = await pod.post("/v1/feedback", body)

        assert response.status_code == status
        assert response.json()["error"]["message"]
        assert pod.reflections() == []
