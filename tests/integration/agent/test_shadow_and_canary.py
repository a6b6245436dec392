"""Shadow, canary and reloads of agent_config.json, on a running pod."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from evolving_agent.contract.config import ServedModel, Traffic, TrafficShare
from evolving_agent.contract.served import SERVED_PATH, ServedCounts
from evolving_agent.contract.tools import HTTPTool
from evolving_agent.testing.scripted_model import Reply, last_user_text, served
from support.pods import Pod, a_config, eventually, running

WEATHER: Any = {"type": "function", "function": {"name": "weather"}}


def with_candidate(pod: Pod, upstream: Any, **changes: Any) -> str:
    """Adds a candidate that runs on the model "trained"; its hash."""
    upstream.model.models.append("trained")
    model = ServedModel(id="trained", base_url=f"{upstream.url}/v1")
    candidate = a_config(upstream.url, revision="support-00000002", model=model, **changes)
    pod.others.append(candidate)
    return candidate.hash


def by_model(body: dict[str, Any]) -> Reply:
    return Reply(text=f"{body['model']}: {last_user_text(body)}")


async def test_a_shadowed_request_is_answered_by_the_candidate_too_and_logged_so(
    make_pod: Any, upstream: Any
) -> None:
    pod = make_pod()
    share = TrafficShare(config=with_candidate(pod, upstream), percent=100)
    upstream.model.script = by_model
    async with running(pod, Traffic(shadow=share)):
        answer = await pod.ask("Hi")
        await eventually(lambda: len(pod.episodes()) == 2, "the shadow's episode")

        assert answer["choices"][0]["message"]["content"] == "tiny: Hi"
        live, shadow = pod.episodes()
        assert (live.arm, live.revision, live.answer) == ("active", "support-00000001", "tiny: Hi")
        assert (shadow.arm, shadow.revision, shadow.answer) == ("shadow", "support-00000002", "trained: Hi")
        assert shadow.shadow_of == live.id == answer["id"]
        assert shadow.id != live.id
        labels = 'arm="shadow",model="trained",outcome="ok",revision="support-00000002"'
        assert await pod.metric(f"evolving_agent_requests_total{{{labels}}}") == 1


async def test_a_shadow_never_delays_an_answer_and_never_piles_up(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    share = TrafficShare(config=with_candidate(pod, upstream), percent=100)
    upstream.model.script = lambda body: Reply(text="x", seconds=30 if body["model"] == "trained" else 0)
    async with running(pod, Traffic(shadow=share)):
        for _ in range(5):
            await pod.ask("Hi")  # would take 30 s each if it waited for the shadow

        assert [episode.arm for episode in pod.episodes()] == ["active"] * 5
        assert await pod.metric('evolving_agent_shadow_skipped_total{reason="busy"}') == 3


async def test_a_shadow_repeats_the_live_results_of_tools_that_write(make_pod: Any, upstream: Any) -> None:
    written: list[Any] = []

    async def write(request: Request) -> Response:
        written.append(await request.json())
        return PlainTextResponse(f"receipt {len(written)}")

    async with served(Starlette(routes=[Route("/pay", write, methods=["POST"])])) as url:
        tool = HTTPTool(
            type="HTTP",
            name="pay",
            description="Pays.",
            url=f"{url}/pay",
            parameters={"type": "object", "properties": {}},
        )
        pod = make_pod(tools=(tool,))
        share = TrafficShare(config=with_candidate(pod, upstream, tools=(tool,)), percent=100)

        def script(body: dict[str, Any]) -> Reply:
            if body["messages"][-1]["role"] == "tool":
                return Reply(text=body["messages"][-1]["content"])
            return Reply(calls=(("pay", {"amount": 5}),))

        upstream.model.script = script
        async with running(pod, Traffic(shadow=share)):
            await pod.ask("Pay 5")
            await eventually(lambda: len(pod.episodes()) == 2, "the shadow's episode")

            live, shadow = pod.episodes()
            assert written == [{"amount": 5}]
            assert live.tool_calls[0].stubbed is False
            assert (shadow.tool_calls[0].stubbed, shadow.tool_calls[0].result) == (True, "receipt 1")
            assert shadow.answer == live.answer == "receipt 1"


async def test_a_candidate_that_fails_is_seen_in_its_episode_only(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    share = TrafficShare(config=with_candidate(pod, upstream), percent=100)
    async with running(pod, Traffic(shadow=share)):
        upstream.model.models.remove("trained")
        answer = await pod.ask("Hi")
        await eventually(lambda: len(pod.episodes()) == 2, "the shadow's episode")

        assert answer["choices"][0]["message"]["content"] == "echo: Hi"
        shadow = pod.episodes()[1]
        assert shadow.error is not None
        assert shadow.error.startswith("ModelNotFound")


async def test_dry_runs_are_not_shadowed(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    share = TrafficShare(config=with_candidate(pod, upstream), percent=100)
    async with running(pod, Traffic(shadow=share)):
        await pod.ask("Hi", **{"X-Evolving-Dry-Run": "true"})
        await pod.ask("Hi")
        await eventually(lambda: len(pod.episodes()) == 2, "the shadow of the second request")

        asked = [request["model"] for request in upstream.model.requests]
        assert asked.count("trained") == 1


async def test_a_session_keeps_its_arm_during_a_canary(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    share = TrafficShare(config=with_candidate(pod, upstream), percent=50)
    async with running(pod, Traffic(canary=share)):
        arms: dict[str, set[str]] = {}
        for session in map(str, range(16)):
            for _ in range(2):
                answer = await pod.ask("Hi", **{"X-Session-Id": session})
                arms.setdefault(session, set()).add(answer["evolving_agents"]["arm"])

        assert all(len(seen) == 1 for seen in arms.values())
        assert set.union(*arms.values()) == {"active", "canary"}
        canaries = [episode for episode in pod.episodes() if episode.arm == "canary"]
        assert {(episode.revision, episode.model) for episode in canaries} == {
            ("support-00000002", "trained")
        }


async def test_shares_are_taken_over_without_a_restart(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    candidate = with_candidate(pod, upstream)
    async with running(pod):
        assert (await pod.ask("Hi"))["evolving_agents"]["arm"] == "active"

        pod.write_config(Traffic(canary=TrafficShare(config=candidate, percent=100)))
        await eventually(
            lambda: pod.metric('evolving_agent_config_reloads_total{outcome="applied"}'), "the reload"
        )

        assert (await pod.ask("Hi"))["evolving_agents"]["arm"] == "canary"


async def test_a_broken_file_keeps_the_last_good_one_and_shows(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    share = TrafficShare(config=with_candidate(pod, upstream), percent=100)
    async with running(pod, Traffic(canary=share)):
        assert await pod.metric("evolving_agent_config_valid") == 1

        pod.write_config_text('{"version": 1, "configs": ')
        await eventually(
            lambda: pod.metric('evolving_agent_config_reloads_total{outcome="failed"}'), "the failed reload"
        )

        assert await pod.metric("evolving_agent_config_valid") == 0
        assert (await pod.ask("Hi"))["evolving_agents"]["arm"] == "canary"

        pod.write_config()
        await eventually(lambda: pod.metric("evolving_agent_config_valid"), "the mended file")
        assert (await pod.ask("Hi"))["evolving_agents"]["arm"] == "active"


async def test_a_share_of_an_entry_that_is_not_there_is_not_given(make_pod: Any) -> None:
    share = TrafficShare(config="0123456789", percent=100)
    async with running(make_pod(), Traffic(canary=share, shadow=share)) as pod:
        assert (await pod.ask("Hi"))["evolving_agents"]["arm"] == "active"
        assert [episode.arm for episode in pod.episodes()] == ["active"]


async def counts(pod: Pod) -> dict[tuple[str, str], tuple[int, int]]:
    """What the pod tells the operator: requests and errors by configuration and place."""
    told = ServedCounts.model_validate_json((await pod.get(SERVED_PATH)).content)
    return {(item.config, item.served_as): (item.requests, item.errors) for item in told.counts}


async def test_it_counts_the_requests_that_its_own_revision_answers(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    upstream.model.script = lambda body: Reply(text="x", status=400 if last_user_text(body) == "bad" else 200)
    async with running(pod):
        for text in ("Hi", "bad", "Hi"):
            await pod.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]})
        await pod.ask("Hi", **{"X-Evolving-Dry-Run": "true"})  # a validation's question, no user's

        assert await counts(pod) == {(pod.config.hash, "active"): (3, 1)}


async def test_what_another_answers_for_it_counts_as_its_error(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    candidate = with_candidate(pod, upstream)
    async with running(pod, Traffic(canary=TrafficShare(config=candidate, percent=100))):
        upstream.model.models.remove("trained")
        answer = await pod.ask("Hi")

        assert answer["evolving_agents"]["arm"] == "fallback"
        assert await counts(pod) == {(candidate, "canary"): (1, 1)}


async def test_a_shadow_is_counted_apart(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    candidate = with_candidate(pod, upstream)
    upstream.model.script = lambda body: Reply(text="x", status=500 if body["model"] == "trained" else 200)
    async with running(pod, Traffic(shadow=TrafficShare(config=candidate, percent=100))):
        await pod.ask("Hi")
        await eventually(lambda: len(pod.episodes()) == 2, "the shadow's episode")

        assert await counts(pod) == {(pod.config.hash, "active"): (1, 0), (candidate, "shadow"): (1, 1)}


async def test_a_new_trial_counts_anew_on_both_sides(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    candidate = with_candidate(pod, upstream)
    async with running(pod):
        await pod.ask("Hi")
        assert await counts(pod) == {(pod.config.hash, "active"): (1, 0)}

        pod.write_config(Traffic(canary=TrafficShare(config=candidate, percent=100)))
        await eventually(
            lambda: pod.metric('evolving_agent_config_reloads_total{outcome="applied"}'), "the reload"
        )
        assert await counts(pod) == {}
        await pod.ask("Hi")

        assert await counts(pod) == {(candidate, "canary"): (1, 0)}
        told = ServedCounts.model_validate_json((await pod.get(SERVED_PATH)).content)
        assert told.trial == candidate


async def test_a_shadow_may_call_a_clients_tool_and_nobody_is_told(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    share = TrafficShare(config=with_candidate(pod, upstream), percent=100)

    def script(body: dict[str, Any]) -> Reply:
        if body["model"] == "trained":
            return Reply(calls=(("weather", {"city": "Oslo"}),))
        return Reply(text="I do not know.")

    upstream.model.script = script
    async with running(pod, Traffic(shadow=share)), pod.client() as client:
        answer = await client.chat.completions.create(
            model="x", messages=[{"role": "user", "content": "Rain?"}], tools=[WEATHER]
        )
        await eventually(lambda: len(pod.episodes()) == 2, "the shadow's episode")

        assert answer.choices[0].finish_reason == "stop"
        live, shadow = pod.episodes()
        assert (live.client_calls, live.client_tools) == ([], shadow.client_tools)
        assert [call["function"]["name"] for call in shadow.client_calls] == ["weather"]


async def test_a_candidate_with_a_tool_of_the_same_name_is_not_shown_the_request(
    make_pod: Any, upstream: Any
) -> None:
    nothing: Any = {"type": "object", "properties": {}}
    tool = HTTPTool(
        type="HTTP", name="weather", description="Own.", url="http://127.0.0.1:9/", parameters=nothing
    )
    pod = make_pod()
    share = TrafficShare(config=with_candidate(pod, upstream, tools=(tool,)), percent=100)
    async with running(pod, Traffic(shadow=share)), pod.client() as client:
        await client.chat.completions.create(
            model="x", messages=[{"role": "user", "content": "Rain?"}], tools=[WEATHER]
        )

        skipped = 'evolving_agent_shadow_skipped_total{reason="tool_name_taken"}'
        await eventually(lambda: pod.metric(skipped), "the skipped shadow run")
        assert [episode.arm for episode in pod.episodes()] == ["active"]
