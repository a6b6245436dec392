"""The served model is gone: the previous revision answers, and everybody hears of it."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import openai
import pytest

from evolving_agent.contract.config import ServedModel, ToolUseBehavior, Traffic, TrafficShare
from evolving_agent.contract.tools import HTTPTool
from evolving_agent.runtime.app import PodState
from evolving_agent.runtime.metrics import Metrics
from evolving_agent.runtime.serve import StartError, start_service
from evolving_agent.testing.scripted_model import Reply
from support.pods import Pod, a_config, eventually, running

HI: list[Any] = [{"role": "user", "content": "Hi"}]
REVISIONS = 'answered_by="support-00000000",model="tiny",revision="support-00000001"'


def with_previous(pod: Pod, upstream: Any, model: str = "older") -> Pod:
    upstream.model.models.append(model)
    served = ServedModel(id=model, base_url=f"{upstream.url}/v1")
    pod.previous = a_config(
        upstream.url, revision="support-00000000", model=served, instructions="You are older."
    )
    return pod


@pytest.mark.parametrize("stream", [False, True])
async def test_the_previous_revision_answers_for_a_model_that_is_gone(
    make_pod: Any, upstream: Any, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    pod = with_previous(make_pod(), upstream)
    async with running(pod), pod.client() as client:
        upstream.model.models.remove("tiny")

        answer: Any = await client.chat.completions.create(model="x", messages=HI, stream=stream)
        if stream:
            chunks = [chunk async for chunk in answer]
            text: Any = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            models = {chunk.model for chunk in chunks}
        else:
            text, models = answer.choices[0].message.content, {answer.model}

        assert (text, models) == ("echo: Hi", {"older"})
        asked = upstream.model.requests[-1]
        assert (asked["model"], asked["messages"][0]["content"]) == ("older", "You are older.")
        (episode,) = pod.episodes()
        assert (episode.revision, episode.model, episode.arm) == ("support-00000000", "older", "fallback")
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert "'tiny' of revision support-00000001 is gone" in errors[0]
        assert await pod.metric(f"evolving_agent_fallbacks_total{{{REVISIONS}}}") == 1
        assert await pod.metric('evolving_agent_model_missing{model="tiny"}') == 1
        ready = await pod.get("/readyz")
        assert ready.status_code == 200
        assert "pin" in ready.json()["problems"][0]


async def test_a_model_that_comes_back_answers_again(make_pod: Any, upstream: Any) -> None:
    pod = with_previous(make_pod(), upstream)
    async with running(pod):
        upstream.model.models.remove("tiny")
        assert (await pod.ask("Hi"))["model"] == "older"

        upstream.model.models.append("tiny")

        assert (await pod.ask("Hi"))["model"] == "tiny"
        assert await pod.metric('evolving_agent_model_missing{model="tiny"}') == 0
        assert "problems" not in (await pod.get("/readyz")).json()


async def test_a_pod_that_is_about_to_be_replaced_lets_the_active_revision_answer(
    make_pod: Any, upstream: Any
) -> None:
    """The operator has gone back because of the missing model: there is no previous revision any more."""
    pod = with_previous(make_pod(), upstream)
    async with running(pod):
        upstream.model.models.remove("tiny")
        assert (await pod.ask("Hi"))["model"] == "older"

        pod.active, pod.previous = pod.previous, None
        pod.write_config()
        await eventually(
            lambda: pod.metric('evolving_agent_config_reloads_total{outcome="applied"}'), "the reload"
        )

        answer = await pod.ask("Hi")
        assert (answer["model"], answer["evolving_agents"]["arm"]) == ("older", "fallback")


async def test_a_canary_without_its_model_gives_way_to_the_active_revision(
    make_pod: Any, upstream: Any
) -> None:
    pod = make_pod()
    upstream.model.models.append("trained")
    model = ServedModel(id="trained", base_url=f"{upstream.url}/v1")
    candidate = a_config(upstream.url, revision="support-00000002", model=model)
    pod.others.append(candidate)
    async with running(pod, Traffic(canary=TrafficShare(config=candidate.hash, percent=100))):
        upstream.model.models.remove("trained")

        answer = await pod.ask("Hi")

        assert (answer["model"], answer["evolving_agents"]["arm"]) == ("tiny", "fallback")


@pytest.mark.parametrize("gone", [{"tiny"}, {"tiny", "older"}])
async def test_where_nothing_else_can_answer_the_error_says_which_model_is_gone(
    make_pod: Any, upstream: Any, gone: set[str]
) -> None:
    pod = make_pod() if gone == {"tiny"} else with_previous(make_pod(), upstream)
    async with running(pod), pod.client() as client:
        for model in gone:
            upstream.model.models.remove(model)

        with pytest.raises(openai.APIStatusError, match="check the model's name") as raised:
            await client.chat.completions.create(model="x", messages=HI)

        assert (raised.value.status_code, raised.value.code) == (502, "ModelNotFound")


async def test_a_run_that_has_acted_is_not_run_again(make_pod: Any, upstream: Any) -> None:
    """The model goes in the middle of a run, after a tool was called: that must not happen twice."""
    tool = HTTPTool(
        type="HTTP",
        name="pay",
        description="Pays.",
        url=f"{upstream.url}/v1/models",  # answers anything
        method="GET",
        parameters={"type": "object", "properties": {}},
    )
    pod = with_previous(make_pod(tools=(tool,), tool_use_behavior=ToolUseBehavior.RUN_LLM_AGAIN), upstream)
    async with running(pod), pod.client() as client:
        upstream.model.say(Reply(calls=(("pay", {}),)), Reply(status=404, code="model_not_found"))

        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(model="x", messages=HI)

        assert raised.value.status_code == 502
        assert [request["model"] for request in upstream.model.requests] == ["tiny"] * 3


async def test_a_pod_of_a_finished_rollout_starts_although_its_model_is_gone(
    make_pod: Any, upstream: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pod = with_previous(make_pod(), upstream)
    pod.is_rolled_out = True
    upstream.model.models.remove("tiny")
    async with running(pod):
        problems = (await pod.get("/readyz")).json()["problems"]
        assert len(problems) == 1
        assert problems[0].startswith("model 'tiny' of revision support-00000001 is gone")
        assert problems[0] in [record.getMessage() for record in caplog.records]
        assert await pod.metric('evolving_agent_model_missing{model="tiny"}') == 1
        assert (await pod.ask("Hi"))["model"] == "older"

        upstream.model.models.append("tiny")
        assert (await pod.ask("Hi"))["model"] == "tiny"
        assert "problems" not in (await pod.get("/readyz")).json()


@pytest.mark.parametrize("why", ["its rollout has not ended", "the other model is gone, too"])
async def test_otherwise_a_pod_waits_for_its_model(make_pod: Any, upstream: Any, why: str) -> None:
    """A rollout whose pods became ready by another's answers would look as if it had ended well."""
    pod = with_previous(make_pod(), upstream)
    upstream.model.models.remove("tiny")
    if why == "the other model is gone, too":
        pod.is_rolled_out = True
        upstream.model.models.remove("older")
    pod.write_config()
    state = PodState(Metrics())
    settings = replace(pod.settings, model_wait_seconds=0.5)
    async with AsyncExitStack() as resources:
        with pytest.raises(StartError, match="'tiny'") as raised:
            await start_service(settings, state, resources)

    assert raised.value.reason == "ModelNotFound"
    assert state.service is None
