"""Once round the loop: a serving agent is corrected, and what it learns from that is proven and served."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from evolving_agent.contract import env
from evolving_agent.contract.config import AgentConfig, ServedModel, ToolUseBehavior
from evolving_agent.contract.learning import DatasetFormat
from evolving_agent.contract.report import CurationReport, EvaluationReport, TrainingReport
from evolving_agent.curation import job as curation_job
from evolving_agent.evaluation import job as evaluation_job
from evolving_agent.testing.jobs import JobBench
from evolving_agent.testing.taught_model import UNTAUGHT_ANSWER
from evolving_agent.training import job as training_job
from support.learning import REQUESTS, ROUTE, RunningProvider, learning_config, of_format
from support.pods import Pod, running


@pytest.mark.parametrize("wanted", DatasetFormat)
async def test_requests_and_corrections_become_a_better_agent(
    tmp_path: Path, provider: RunningProvider, wanted: DatasetFormat
) -> None:
    # given an agent on a base model that knows nothing, and users who correct it
    base = AgentConfig(
        revision="support-00000000",
        model=ServedModel(id="base-model", base_url=provider.base_url),
        instructions="Route each request to a team.",
        tools=(ROUTE,),
        tool_use_behavior=ToolUseBehavior.STOP_ON_FIRST_TOOL,
    )
    bench = JobBench(tmp_path)
    bench.configure(of_format(learning_config(provider.base_url), wanted))
    pod = Pod(tmp_path, base)
    async with running(pod):
        for text, team in REQUESTS:
            answer = await pod.ask(text)
            assert answer["evolving_agents"]["tool_calls"] == []
            right = {"tool": {"name": "route_request", "arguments": {"team": team}}}
            feedback = {"completion_id": answer["id"], "thumbs": "down", "correction": right}
            assert (await pod.post("/v1/feedback", feedback)).is_success

    # when it is curated, trained and evaluated
    _, curated = await asyncio.to_thread(bench.run, curation_job.run, "curate-1")
    assert isinstance(curated, CurationReport)
    assert curated.dataset is not None, curated.message
    _, trained = await asyncio.to_thread(bench.run, training_job.run, "train-1")
    assert isinstance(trained, TrainingReport)
    assert trained.model_id is not None, trained.message
    better = base.model_copy(
        update={
            "revision": "support-11111111",
            "model": base.model.model_copy(update={"id": trained.model_id}),
        }
    )
    pod = Pod(tmp_path, better, others=[base])
    pod.write_config()
    _, evaluated = await asyncio.to_thread(
        bench.run,
        evaluation_job.run_evaluation,
        "evaluate-1",
        **{
            env.DATASET_VERSION: curated.dataset.version,
            env.CANDIDATE_HASH: better.hash,
            env.INCUMBENT_HASH: base.hash,
        },
    )

    # then every request is accounted for, the gain is proven on what was held out, and users get it
    dataset = curated.dataset
    assert dataset.examples + dataset.holdout + sum(curated.dropped.values()) == len(REQUESTS)
    assert dataset.holdout >= 5
    assert isinstance(evaluated, EvaluationReport)
    (holdout,) = evaluated.suites
    assert holdout.samples == dataset.holdout
    assert (holdout.baseline_bps, holdout.candidate_bps) == (0, 10_000)
    assert holdout.lower_bps is not None
    assert holdout.lower_bps > 0
    async with running(pod):
        said = (await pod.ask("Could you lend me some money for a house?"))["evolving_agents"]
        assert said["revision"] == "support-11111111"
        assert said["tool_calls"] == [{"name": "route_request", "arguments": {"team": "loans"}}]
    # and it was taught under the agent's instructions alone, without what memory recalled for each request
    lines = (bench.layout.dataset(dataset.version) / "train.jsonl").read_text().splitlines()
    taught = [json.loads(line) for line in lines]
    asked = [line["input"] if wanted is DatasetFormat.PREFERENCE else line for line in taught]
    assert {line["messages"][0]["content"] for line in asked} == {base.instructions}
    # and, where it learned from pairs, against what it had really said
    said = [m["content"] for line in taught for m in line.get("non_preferred_output", ())]
    assert said == [UNTAUGHT_ANSWER] * (len(lines) if wanted is DatasetFormat.PREFERENCE else 0)
