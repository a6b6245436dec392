"""Jobs whose store is an object store: each runs in a pod of its own, with an empty disk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from evolving_agent.contract import env
from evolving_agent.contract.config import AgentConfig, AgentConfigFile, ServedModel, ToolUseBehavior
from evolving_agent.contract.learning import LearningConfig
from evolving_agent.contract.report import CurationReport, EvaluationReport, Outcome, Report, TrainingReport
from evolving_agent.curation import job as curation_job
from evolving_agent.evaluation import job as evaluation_job
from evolving_agent.store.layout import StoreLayout
from evolving_agent.testing.experience import write_log
from evolving_agent.testing.jobs import JobBench
from evolving_agent.training import job as training_job
from support.learning import ROUTE, RunningProvider, learning_config, running_provider, taught_requests
from support.s3 import S3Server


@dataclass
class Jobs:
    """Makes a fresh pod for every Job of an agent."""

    root: Path
    s3: S3Server
    learning: LearningConfig

    def __post_init__(self) -> None:
        self._pods = count()

    def pod(self) -> JobBench:
        bench = JobBench(self.root / f"job-{next(self._pods)}", self.s3.variables("bank/support"))
        bench.configure(self.learning)
        return bench

    def curate(self) -> CurationReport:
        _, report = self.pod().run(curation_job.run, "curate-1")
        assert isinstance(report, CurationReport)
        assert report.dataset is not None, report.message
        return report

    def train(self, run_id: str) -> tuple[int, TrainingReport]:
        code, report = self.pod().run(training_job.run, run_id)
        assert isinstance(report, TrainingReport)
        return code, report


@pytest.fixture
def provider() -> Iterator[RunningProvider]:
    with running_provider() as running:
        yield running


@pytest.fixture
def jobs(tmp_path: Path, s3: S3Server, provider: RunningProvider) -> Jobs:
    """The store holds what a pod shipped: 40 taught requests."""
    log = StoreLayout(tmp_path / "spool")
    write_log(log, taught_requests(0, 40))
    store = s3.store("bank/support")
    for path in (*log.episode_files, *log.reflection_files):
        store.put(log.key(path), path.read_bytes())
    return Jobs(tmp_path, s3, learning_config(provider.base_url))


async def test_experience_becomes_a_proven_model(jobs: Jobs, provider: RunningProvider) -> None:
    curated = await asyncio.to_thread(jobs.curate)
    again = await asyncio.to_thread(jobs.curate)  # the same run in another pod: its report is handed in again
    assert again == curated
    _, trained = await asyncio.to_thread(jobs.train, "train-1")
    assert trained.model_id is not None, trained.message

    base = AgentConfig(
        revision="support-00000000",
        model=ServedModel(id="base-model", base_url=provider.base_url),
        instructions="Route each request to a team.",
        tools=(ROUTE,),
        tool_use_behavior=ToolUseBehavior.STOP_ON_FIRST_TOOL,
    )
    served = base.model.model_copy(update={"id": trained.model_id})
    better = base.model_copy(update={"revision": "support-11111111", "model": served})
    bench = jobs.pod()
    configs = {config.hash: config for config in (better, base)}
    bench.configure(jobs.learning, AgentConfigFile(agent="support", model=served.id, configs=configs))
    assert curated.dataset is not None
    variables = {
        env.DATASET_VERSION: curated.dataset.version,
        env.CANDIDATE_HASH: better.hash,
        env.INCUMBENT_HASH: base.hash,
    }
    _, evaluated = await asyncio.to_thread(
        bench.run, evaluation_job.run_evaluation, "evaluate-1", **variables
    )

    assert isinstance(evaluated, EvaluationReport)
    (holdout,) = evaluated.suites
    assert holdout.samples == curated.dataset.holdout
    assert (holdout.baseline_bps, holdout.candidate_bps) == (0, 10_000)


def test_of_trainings_that_run_at_once_one_pays(jobs: Jobs, provider: RunningProvider) -> None:
    """No lock holds across pods here: the store takes the first write of a run's state, and no other."""
    jobs.curate()
    with ThreadPoolExecutor(4) as pods:
        ended = list(pods.map(jobs.train, [f"train-{number}" for number in range(4)]))

    assert provider.count("fine_tuning_jobs_created") == 1
    models = {report.model_id for code, report in ended if report.model_id is not None}
    assert len(models) == 1
    for code, report in ended:
        if report.model_id is None:
            assert (code, report.reason) in {
                (env.EXIT_RETRY, "AnotherRunIsActive"),
                (env.EXIT_OK, "DatasetAlreadyTrained"),
            }
    _, report = jobs.train("train-5")  # whoever was turned away tries again, and finds it done
    assert report.model_id in {None, *models}
    assert provider.count("fine_tuning_jobs_created") == 1


def test_a_training_whose_pod_is_lost_is_gone_on_with_elsewhere(
    jobs: Jobs, provider: RunningProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.curate()
    real, writes = StoreLayout.replace, count(1)

    def dying(layout: StoreLayout, path: Path, content: bytes) -> None:
        real(layout, path, content)
        if next(writes) == 3:  # the provider's job has been created
            raise KeyboardInterrupt

    monkeypatch.setattr(StoreLayout, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        jobs.train("train-1")
    monkeypatch.setattr(StoreLayout, "replace", real)

    code, report = jobs.train("train-1")

    assert (code, report.outcome) == (env.EXIT_OK, Outcome.SUCCEEDED)
    assert report.model_id is not None
    assert provider.count("fine_tuning_jobs_created") == 1
    assert provider.count("files_created") == 1


def test_a_dataset_without_its_manifest_is_not_there(jobs: Jobs, s3: S3Server) -> None:
    """A curation that died in the middle of its upload is done again."""
    version = _version(jobs.curate())
    store = s3.store("bank/support")
    store.delete(f"datasets/{version}/manifest.json")
    store.delete("runs/curation/curate-1/report.json")

    assert _version(jobs.curate()) == version
    assert [info.key for info in store.list(f"datasets/{version}")] == [
        f"datasets/{version}/{name}" for name in ("holdout.jsonl", "manifest.json", "train.jsonl")
    ]


def test_a_store_that_is_away_is_reported_and_tried_again(jobs: Jobs, s3: S3Server) -> None:
    s3.stop()
    code, report = jobs.pod().run(curation_job.run, "curate-1")

    assert (code, report.outcome, report.reason) == (env.EXIT_RETRY, Outcome.FAILED, "StoreUnavailable")
    assert "s3://agents/bank/support" in report.message


def _version(report: Report) -> str:
    assert isinstance(report, CurationReport)
    assert report.dataset is not None
    return report.dataset.version
