"""Candidate against incumbent, and what is served, over HTTP: numbers, errors, and what is asked twice."""

from __future__ import annotations

import asyncio
import json

import pytest

from evolving_agent.contract import env
from evolving_agent.contract.config import AgentConfig, AgentConfigFile, ServedModel, ToolUseBehavior
from evolving_agent.contract.learning import Suite
from evolving_agent.contract.refs import ConfigMapKeyRef
from evolving_agent.contract.report import EvaluationReport, Outcome, TrainingReport, ValidationReport
from evolving_agent.contract.tools import MCPTool
from evolving_agent.curation.dataset import latest_manifest
from evolving_agent.evaluation import asking
from evolving_agent.evaluation import job as evaluation_job
from evolving_agent.testing.jobs import JobBench
from evolving_agent.training import job as training_job
from support.learning import REQUESTS, ROUTE, RunningProvider, learning_config
from support.pods import Pod, running

SUITES = (
    Suite(name="routing", config_map_ref=ConfigMapKeyRef(name="v", key="cases.jsonl")),
    Suite(name="holdout"),
)


def a_config(provider: RunningProvider, revision: str, model: str) -> AgentConfig:
    return AgentConfig(
        revision=revision,
        model=ServedModel(id=model, base_url=provider.base_url),
        instructions="Route each request to a team.",
        tools=(ROUTE,),
        tool_use_behavior=ToolUseBehavior.STOP_ON_FIRST_TOOL,
    )


class Rivals:
    """A base model and what was trained from it, configured as the operator would."""

    def __init__(self, bench: JobBench, provider: RunningProvider) -> None:
        self.bench, self.provider = bench, provider
        _, trained = bench.run(training_job.run, "train-1")
        assert isinstance(trained, TrainingReport)
        assert trained.model_id is not None
        self.model_id = trained.model_id
        self.incumbent = a_config(provider, "support-00000000", "base-model")
        self.candidate = a_config(provider, "support-11111111", trained.model_id)
        file = AgentConfigFile(
            agent="support",
            model="base-model",
            configs={config.hash: config for config in (self.incumbent, self.candidate)},
        )
        bench.configure(learning_config(provider.base_url, suites=SUITES), file)
        dataset = latest_manifest(bench.layout)
        assert dataset is not None
        self.held_out = dataset.holdout
        self.variables = {env.DATASET_VERSION: dataset.version}
        unseen = [(text, team) for text, team in REQUESTS[40:]]
        bench.add_suite(
            "routing",
            [
                json.dumps(
                    {
                        "id": str(number),
                        "input": text,
                        "expected": {"tool": {"name": "route_request", "arguments": {"team": team}}},
                    }
                )
                for number, (text, team) in enumerate(unseen)
            ],
        )

    def evaluated(self, run_id: str = "evaluate-1") -> tuple[int, EvaluationReport]:
        code, report = self.bench.run(
            evaluation_job.run_evaluation,
            run_id,
            **self.variables,
            **{env.CANDIDATE_HASH: self.candidate.hash, env.INCUMBENT_HASH: self.incumbent.hash},
        )
        assert isinstance(report, EvaluationReport)
        return code, report


@pytest.fixture
def rivals(bench: JobBench, provider: RunningProvider, monkeypatch: pytest.MonkeyPatch) -> Rivals:
    monkeypatch.setattr(asking, "FIRST_PAUSE_SECONDS", 0.01)
    return Rivals(bench, provider)


def test_a_model_that_learned_is_better_with_confidence(rivals: Rivals) -> None:
    code, report = rivals.evaluated()
    assert (code, report.outcome) == (env.EXIT_OK, Outcome.SUCCEEDED)
    assert (report.candidate, report.incumbent) == ("support-11111111", "support-00000000")
    routing, holdout = report.suites
    assert (routing.suite, routing.samples) == ("routing", len(REQUESTS) - 40)
    assert (holdout.suite, holdout.samples) == ("holdout", rivals.held_out)
    for suite in report.suites:
        assert suite.baseline_bps == 0
        assert suite.candidate_bps is not None
        assert suite.candidate_bps >= 8000
        assert suite.lower_bps is not None
        assert 0 < suite.lower_bps < suite.candidate_bps


def test_the_incumbent_is_not_asked_again_and_a_degraded_candidate_loses(rivals: Rivals) -> None:
    rivals.evaluated()
    asked = rivals.provider.count("chat:base-model")
    rivals.provider.control(degrade=rivals.model_id)
    _, report = rivals.evaluated("evaluate-2")
    assert rivals.provider.count("chat:base-model") == asked
    assert all(suite.candidate_bps == 0 for suite in report.suites)
    assert all(suite.lower_bps is not None and suite.lower_bps < 0 for suite in report.suites)


@pytest.mark.parametrize(
    ("fault", "reason", "code"),
    [
        ({"outage": True}, "UpstreamError", env.EXIT_RETRY),
        ({"gone": "the candidate"}, "ModelNotFound", env.EXIT_PERMANENT),
    ],
)
def test_an_outage_is_an_error_and_never_a_score(
    rivals: Rivals, fault: dict[str, object], reason: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_job, "MODEL_RETRIES", 0)
    rivals.provider.control(
        **{name: rivals.model_id if value == "the candidate" else value for name, value in fault.items()}
    )
    left_with, report = rivals.evaluated()
    assert (left_with, report.outcome, report.reason) == (code, Outcome.FAILED, reason)
    for suite in report.suites:
        assert suite.error_reason == reason
        assert suite.error
        assert suite.candidate_bps is None
        assert suite.lower_bps is None
    rivals.provider.reset()
    assert rivals.evaluated()[1].outcome is Outcome.SUCCEEDED


def test_an_agent_without_its_tools_is_not_measured(rivals: Rivals) -> None:
    gone = MCPTool(type="MCP", name="desk", url="http://127.0.0.1:9/mcp")
    rivals.bench.configure(
        learning_config(rivals.provider.base_url, suites=SUITES),
        AgentConfigFile(
            agent="support",
            model="base-model",
            configs={
                config.hash: config.model_copy(update={"tools": (ROUTE, gone)})
                for config in (rivals.incumbent, rivals.candidate)
            },
        ),
    )
    status, report = rivals.evaluated()

    assert status == env.EXIT_RETRY  # its server may come back
    assert report.reason == "ToolUnavailable"
    assert "the MCP server desk at http://127.0.0.1:9/mcp cannot be reached" in (report.suites[0].error or "")


def test_a_run_that_is_tried_again_does_not_ask_the_candidate_again(rivals: Rivals) -> None:
    rivals.provider.control(gone="base-model")
    assert rivals.evaluated()[1].reason == "ModelNotFound"
    asked = rivals.provider.count(f"chat:{rivals.model_id}")
    assert asked > 0
    rivals.provider.reset()
    assert rivals.evaluated()[1].outcome is Outcome.SUCCEEDED
    assert rivals.provider.count(f"chat:{rivals.model_id}") == asked


def test_many_long_errors_still_fit_into_a_termination_message(rivals: Rivals) -> None:
    names = [f"suite-{number}" for number in range(16)]
    suites = tuple(
        Suite(name=name, config_map_ref=ConfigMapKeyRef(name="v", key="cases.jsonl")) for name in names
    )
    rivals.bench.configure(learning_config(rivals.provider.base_url, suites=suites))
    for name in names:
        rivals.bench.add_suite(name, [json.dumps({"id": "x" * 300, "input": "x"})] * 2)
    code, report = rivals.evaluated()
    assert code == env.EXIT_PERMANENT
    assert [suite.error_reason for suite in report.suites] == ["InvalidSuite"] * 16


def test_a_broken_suite_does_not_hide_the_numbers_of_the_other(rivals: Rivals) -> None:
    rivals.bench.add_suite("routing", ['{"id": "1", "input": "x", "expected": {"answer": 3}}'])
    code, report = rivals.evaluated()
    assert (code, report.reason) == (env.EXIT_PERMANENT, "InvalidSuite")
    routing, holdout = report.suites
    assert "cases.jsonl:1: expected.answer: " in (routing.error or "")
    assert holdout.candidate_bps is not None


def test_without_cases_nothing_is_claimed(rivals: Rivals) -> None:
    rivals.bench.configure(learning_config(rivals.provider.base_url, suites=(Suite(name="holdout"),)))
    rivals.variables.clear()
    _, report = rivals.evaluated()
    (holdout,) = report.suites
    assert (holdout.samples, holdout.candidate_bps, holdout.delta_bps, holdout.lower_bps) == (
        0,
        None,
        0,
        -10_000,
    )


async def validated(rivals: Rivals, url: str, served: AgentConfig, run_id: str) -> ValidationReport:
    _, report = await asyncio.to_thread(
        rivals.bench.run,
        evaluation_job.run_validation,
        run_id,
        **rivals.variables,
        **{env.CONFIG_HASH: served.hash, env.SERVICE_URL: url},
    )
    assert isinstance(report, ValidationReport)
    return report


async def test_what_is_served_is_validated_through_the_agents_own_api(rivals: Rivals) -> None:
    pod = Pod(rivals.bench.root, rivals.candidate, others=[rivals.incumbent])
    before = len(pod.episodes())
    async with running(pod):
        good = await validated(rivals, pod.url, rivals.candidate, "validate-1")
        rivals.provider.control(degrade=rivals.model_id)
        worse = await validated(rivals, pod.url, rivals.candidate, "validate-2")
        other = await validated(rivals, pod.url, rivals.incumbent, "validate-3")
    gone = await validated(rivals, pod.url, rivals.candidate, "validate-4")

    assert (good.outcome, good.revision) == (Outcome.SUCCEEDED, "support-11111111")
    assert all((suite.candidate_bps or 0) >= 8000 for suite in good.suites)
    assert all(suite.candidate_bps == 0 for suite in worse.suites)
    assert (other.outcome, other.reason) == (Outcome.FAILED, "WrongRevision")
    assert all(suite.candidate_bps is None for suite in other.suites)
    assert (gone.outcome, gone.reason) == (Outcome.FAILED, "ServiceUnreachable")
    assert len(pod.episodes()) == before  # dry: nothing of it is logged
