"""A provider forgets a deleted agent: its jobs, its models and its files, and nobody else's."""

from __future__ import annotations

import openai
import pytest

from evolving_agent.contract import env
from evolving_agent.contract.report import Outcome, ReleaseReport, TrainingReport
from evolving_agent.testing.experience import write_log
from evolving_agent.testing.jobs import JobBench
from evolving_agent.training import job, release
from support.learning import RunningProvider, curate, learning_config, taught_requests


def of_agent(bench: JobBench, uid: str) -> dict[str, str]:
    return {env.AGENT_UID: uid}


def trained(bench: JobBench, uid: str, run_id: str = "train-1") -> TrainingReport:
    _, report = bench.run(job.run, run_id, **of_agent(bench, uid))
    assert isinstance(report, TrainingReport)
    assert report.outcome is Outcome.SUCCEEDED
    return report


def released(bench: JobBench, provider: RunningProvider, uid: str) -> tuple[int, ReleaseReport]:
    variables = of_agent(bench, uid) | {env.RELEASE_ENDPOINT: provider.base_url}
    code, report = bench.run(release.run, "release-1", **variables)
    assert isinstance(report, ReleaseReport)
    return code, report


def models(client: openai.OpenAI) -> set[str]:
    return {model.id for model in client.models.list()}


def test_what_the_agent_made_goes_and_what_others_made_stays(
    bench: JobBench, provider: RunningProvider, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mine = trained(bench, "uid-1")
    other = JobBench(tmp_path_factory.mktemp("other"))
    other.configure(learning_config(provider.base_url))
    write_log(other.layout, taught_requests(5, 45))
    curate(other)
    theirs = trained(other, "uid-2")

    with openai.OpenAI(base_url=provider.base_url, api_key="x") as client:
        # one more job of the agent's runs, of which its store knows nothing any more
        provider.control(job_seconds=3600)
        file = client.files.create(file=("any.jsonl", b"{}"), purpose="fine-tune")
        running = client.fine_tuning.jobs.create(
            model="base-model", training_file=file.id, metadata={"evolving_agents_agent": "uid-1"}
        )

        code, report = released(bench, provider, "uid-1")

        assert (code, report.outcome, report.reason) == (env.EXIT_OK, Outcome.SUCCEEDED, "Released")
        assert (report.jobs_cancelled, report.models_deleted, report.files_deleted) == (1, 1, 2)
        assert client.fine_tuning.jobs.retrieve(running.id).status == "cancelled"
        assert models(client) == {"base-model", theirs.model_id}
        assert mine.model_id not in models(client)
        assert len(list(client.files.list())) == 1

    # and a second time there is nothing left to do
    code, again = released(bench, provider, "uid-1")
    assert code == env.EXIT_OK
    assert (again.jobs_cancelled, again.models_deleted, again.files_deleted) == (0, 0, 0)


def test_a_provider_that_is_away_is_asked_again_later(
    bench: JobBench, provider: RunningProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(bench, "uid-1")
    monkeypatch.setattr(release, "_RETRIES", 0)
    provider.control(outage=True)

    code, report = released(bench, provider, "uid-1")

    assert (code, report.outcome, report.reason) == (env.EXIT_RETRY, Outcome.FAILED, "ProviderRefused")
    provider.reset()
    code, report = released(bench, provider, "uid-1")
    assert (code, report.models_deleted) == (env.EXIT_OK, 1)


def test_a_key_that_is_no_longer_good_needs_a_person(bench: JobBench, provider: RunningProvider) -> None:
    provider.control(errors_area="files", errors_status=401, errors_count=1)

    code, report = released(bench, provider, "uid-1")

    assert (code, report.reason) == (env.EXIT_PERMANENT, "CredentialsRejected")
