"""A pod's life as a process: start, what keeps it from starting, drain, sudden death."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx

from evolving_agent.contract.report import Outcome, ServeReport, parse_report
from evolving_agent.testing.scripted_model import Reply
from support.pods import DEADLINE_SECONDS, Pod, eventually
from support.sudden_death import Ledger, live_and_die, pod_process, read_ids

IMPATIENT = {"EVOLVING_MODEL_WAIT_SECONDS": "1", "EVOLVING_CONFIG_WAIT_SECONDS": "1"}


async def test_a_pod_says_what_it_waits_for_and_is_ready_once_the_model_has_answered(
    make_pod: Any, upstream: Any
) -> None:
    pod = make_pod()
    upstream.model.models.clear()
    async with pod_process(pod) as started:

        async def waits_for(reason: str) -> bool:
            try:
                response = await pod.get("/readyz")
            except httpx.TransportError:
                return False
            return response.status_code == 503 and bool(response.json()["reason"] == reason)

        await eventually(lambda: waits_for("WaitingForConfiguration"), "waiting for the configuration")
        assert (await pod.get("/healthz")).status_code == 200
        refused = await pod.post("/v1/chat/completions", {"model": "x", "messages": []})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "WaitingForConfiguration"

        pod.write_config()
        await eventually(lambda: waits_for("ModelNotFound"), "waiting for the model")

        upstream.model.models.append("tiny")
        await started.until_ready()
        assert (await pod.ask("Hi"))["choices"][0]["message"]["content"] == "echo: Hi"
        assert await started.terminate() == 0


async def start_failure(pod: Pod, **environment: str) -> ServeReport:
    """What a pod that gives up leaves behind for the operator."""
    async with pod_process(pod, **IMPATIENT, **environment) as started:
        assert await asyncio.wait_for(started.process.wait(), DEADLINE_SECONDS) == 1
    report = parse_report(pod.termination_log.read_text())
    assert isinstance(report, ServeReport)
    assert report.outcome is Outcome.FAILED
    return report


async def test_a_pod_without_its_model_gives_up_and_says_what_to_do(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    pod.write_config()
    upstream.model.models.clear()

    report = await start_failure(pod)

    assert report.reason == "ModelNotFound"
    assert upstream.url in report.message
    assert "'tiny'" in report.message
    assert "check the model's name" in report.message


async def test_a_pod_with_a_wrong_key_gives_up_at_once(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    pod.write_config()
    upstream.model.script = lambda _: Reply(status=401, text="wrong key")

    report = await start_failure(pod)

    assert report.reason == "Unauthorized"
    assert "apiKeySecretRef" in report.message
    assert len(upstream.model.requests) == 1


async def test_a_pod_whose_entry_never_comes_gives_up(make_pod: Any) -> None:
    pod = make_pod()
    pod.write_config()

    report = await start_failure(pod, EVOLVING_CONFIG_HASH="0123456789")

    assert report.reason == "ConfigurationMissing"
    assert "0123456789" in report.message
    assert pod.config.hash in report.message


async def test_a_pod_without_its_environment_says_which_variable(make_pod: Any) -> None:
    async with pod_process(make_pod(), EVOLVING_AGENT_NAME="") as started:
        assert await asyncio.wait_for(started.process.wait(), DEADLINE_SECONDS) == 1
        assert "EVOLVING_AGENT_NAME is not set" in started.log()


async def test_no_request_fails_while_a_pod_is_replaced_under_load(make_pod: Any, upstream: Any) -> None:
    """As in a rolling restart: the new pod is ready, then the old one is told to stop; clients go on."""
    old, new = make_pod("support-0"), make_pod("support-1")
    old.write_config()
    upstream.model.script = lambda body: Reply(text="a b c d", seconds=0.1, piece_seconds=0.05)
    outcomes: Counter[str] = Counter()
    target = {"pod": old}
    stop = asyncio.Event()

    async def client(stream: bool) -> None:
        async with httpx.AsyncClient(timeout=DEADLINE_SECONDS) as http:
            while not stop.is_set():
                pod = target["pod"]
                body = {"model": "x", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
                try:
                    response = await http.post(f"{pod.url}/v1/chat/completions", json=body)
                    complete = response.status_code == 200 and (
                        response.text.endswith("data: [DONE]\n\n") if stream else bool(response.json())
                    )
                    outcomes[f"{pod.name} {'ok' if complete else 'failed'}"] += 1
                except httpx.HTTPError as error:
                    outcomes[f"{pod.name} failed: {error!r}"] += 1

    async with (
        pod_process(old, EVOLVING_DRAIN_ACCEPT_SECONDS="10") as first,
        pod_process(new) as second,
    ):
        await asyncio.gather(first.until_ready(), second.until_ready())
        clients = [asyncio.create_task(client(stream)) for stream in (False, False, True, True)]
        await eventually(lambda: outcomes["support-0 ok"] >= 10, "load on the old pod")

        leaving = asyncio.create_task(first.terminate())
        await eventually(lambda: not_ready(old), "an unready old pod")
        before = outcomes["support-0 ok"]
        await eventually(lambda: outcomes["support-0 ok"] > before, "requests that still come are answered")
        target["pod"] = new  # now the Service has noticed
        assert await leaving == 0
        await eventually(lambda: outcomes["support-1 ok"] >= 10, "load on the new pod")
        stop.set()
        await asyncio.gather(*clients)
        assert await second.terminate() == 0

    failed = {outcome: count for outcome, count in outcomes.items() if not outcome.endswith(" ok")}
    assert failed == {}
    assert len(old.episodes()) == sum(outcomes.values())  # one store, every answer in it


async def not_ready(pod: Pod) -> bool:
    return (await pod.get("/readyz")).status_code == 503


async def test_what_runs_at_sigterm_is_finished(make_pod: Any, upstream: Any) -> None:
    pod = make_pod()
    pod.write_config()
    async with pod_process(pod, EVOLVING_DRAIN_ACCEPT_SECONDS="0.1") as started:
        await started.until_ready()
        upstream.model.script = lambda _: Reply(text="took its time", seconds=2)
        asking = [asyncio.create_task(pod.ask(f"Hi {number}")) for number in range(5)]
        await eventually(lambda: len(upstream.model.requests) == 6, "five running requests")

        status = await started.terminate()
        answers = await asyncio.gather(*asking)

        assert status == 0
        said = {answer["choices"][0]["message"]["content"] for answer in answers}
        assert said == {"took its time"}
        assert len(pod.episodes()) == 5


async def test_sudden_death_loses_no_acknowledged_answer_and_no_feedback(make_pod: Any) -> None:
    pod = make_pod()
    pod.write_config()
    ledger = Ledger()

    for _ in range(5):
        await live_and_die(pod, ledger, answers=25)

    logged, torn = read_ids(pod.store.episode_files)
    assert ledger.answers <= logged
    assert len(ledger.answers) >= 125
    reflections, torn_reflections = read_ids(pod.store.reflection_files)
    assert ledger.feedback <= reflections
    assert torn + torn_reflections <= 5  # at most the line that was being written, per life
    assert len(pod.store.episode_files) == 5  # no life writes on in a file that may end in a torn line


async def test_the_collector_passes_over_what_the_start_has_loaded(make_pod: Any) -> None:
    """To look through it takes 100 ms and more, in which nobody is answered."""
    pod = make_pod()
    pod.write_config()
    counted = pod.directory / "objects"
    told_at_the_end = (
        "import atexit, gc, pathlib\n"
        f"tell = pathlib.Path({str(counted)!r}).write_text\n"
        "atexit.register(lambda: tell(f'{len(gc.get_objects())} {gc.get_freeze_count()}'))\n"
    )
    (pod.directory / "sitecustomize.py").write_text(told_at_the_end)
    environment = {"PYTHONPATH": str(pod.directory), "EVOLVING_DRAIN_ACCEPT_SECONDS": "0"}
    async with pod_process(pod, **environment) as started:
        await started.until_ready()
        await pod.ask("Hi")
        assert await started.terminate() == 0

    looked_at, passed_over = map(int, counted.read_text().split())
    assert looked_at < passed_over / 10
