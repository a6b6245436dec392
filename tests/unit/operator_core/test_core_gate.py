"""The gate, as the table in its documentation has it."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_agent.contract.learning import Evaluation, Suite, SuiteObjective
from evolving_agent.contract.report import EvaluationReport, Outcome, SuiteResult
from evolving_operator.api.models import VerdictResult
from evolving_operator.core.gate import judge, nothing_to_measure

PASSED, FAILED = VerdictResult.PASSED, VerdictResult.FAILED
INCONCLUSIVE, ERROR = VerdictResult.INCONCLUSIVE, VerdictResult.ERROR
IMPROVE, NO_REGRESS = SuiteObjective.IMPROVE, SuiteObjective.NO_REGRESS


def measured(suite: str = "routing", **numbers: Any) -> SuiteResult:
    known: dict[str, Any] = {"samples": 100, "baseline_bps": 5000, "candidate_bps": 6000}
    return SuiteResult(suite=suite, **known | numbers)


def report(*suites: SuiteResult, outcome: Outcome = Outcome.SUCCEEDED) -> EvaluationReport:
    return EvaluationReport(
        run_id="r",
        outcome=outcome,
        reason="ModelUnreachable",
        message="no answer",
        candidate="c",
        incumbent="i",
        suites=suites,
    )


@pytest.mark.parametrize(
    ("objective", "least", "delta", "lower", "expected"),
    [
        (IMPROVE, 0, 1000, 1, PASSED),
        (IMPROVE, 0, 1000, 0, INCONCLUSIVE),
        (IMPROVE, 0, 1, -500, INCONCLUSIVE),
        (IMPROVE, 0, 0, -500, FAILED),
        (IMPROVE, 0, -300, -900, FAILED),
        (IMPROVE, 200, 1000, 200, INCONCLUSIVE),
        (IMPROVE, 200, 1000, 201, PASSED),
        (IMPROVE, 200, 200, 100, FAILED),
        (NO_REGRESS, 0, 0, 0, PASSED),
        (NO_REGRESS, 0, 100, -100, INCONCLUSIVE),
        (NO_REGRESS, 0, 0, -100, INCONCLUSIVE),
        (NO_REGRESS, 0, -1, -100, FAILED),
        (NO_REGRESS, -300, -100, -300, PASSED),
        (NO_REGRESS, -300, -100, -301, INCONCLUSIVE),
        (NO_REGRESS, -300, -301, -900, FAILED),
    ],
)
def test_objectives(
    objective: SuiteObjective, least: int, delta: int, lower: int, expected: VerdictResult
) -> None:
    suite = Suite(name="routing", objective=objective, min_delta_bps=least)

    verdict = judge(Evaluation(suites=(suite,)), report(measured(delta_bps=delta, lower_bps=lower)))

    assert verdict.result is expected


@pytest.mark.parametrize(
    ("result", "expected", "reason"),
    [
        (measured(delta_bps=9000, lower_bps=8000, samples=29), INCONCLUSIVE, "TooFewSamples"),
        (measured(delta_bps=-9000, lower_bps=-9500, samples=29), INCONCLUSIVE, "TooFewSamples"),
        (measured(delta_bps=9000, lower_bps=8000, error_reason="NoCases"), ERROR, "NoCases"),
        (measured(delta_bps=9000), ERROR, "IncompleteReport"),
        (measured("another", delta_bps=9000, lower_bps=8000), ERROR, "SuiteMissing"),
    ],
)
def test_what_was_not_measured_counts_neither_for_nor_against(
    result: SuiteResult, expected: VerdictResult, reason: str
) -> None:
    verdict = judge(Evaluation(suites=(Suite(name="routing"),)), report(result))

    assert (verdict.result, verdict.weakest.reason) == (expected, reason)


@pytest.mark.parametrize(
    ("lowers", "expected"),
    [
        ((100, 100), PASSED),
        ((100, -100), INCONCLUSIVE),
        ((100, None), ERROR),
        ((-100, None), ERROR),
    ],
)
def test_the_weakest_suite_decides(lowers: tuple[int | None, ...], expected: VerdictResult) -> None:
    suites = tuple(Suite(name=f"suite-{index}") for index in range(len(lowers)))
    results = (
        measured(f"suite-{index}", delta_bps=500, lower_bps=lower) for index, lower in enumerate(lowers)
    )

    assert judge(Evaluation(suites=suites), report(*results)).result is expected


def test_a_failed_suite_rejects_whatever_could_not_be_measured() -> None:
    suites = (Suite(name="bad"), Suite(name="unmeasured"))

    verdict = judge(Evaluation(suites=suites), report(measured("bad", delta_bps=-500, lower_bps=-900)))

    assert verdict.result is FAILED
    assert verdict.weakest.suite == "bad"


def test_without_suites_the_held_out_split_is_the_suite() -> None:
    verdict = judge(Evaluation(), report(measured("holdout", delta_bps=500, lower_bps=100)))

    assert [suite.suite for suite in verdict.suites] == ["holdout"]
    assert verdict.result is PASSED


def test_an_evaluation_that_failed_as_a_whole_is_an_error_with_its_reason() -> None:
    verdict = judge(Evaluation(), report(outcome=Outcome.FAILED))

    assert (verdict.result, verdict.weakest.reason) == (ERROR, "ModelUnreachable")


def test_without_any_cases_the_verdict_says_what_to_do() -> None:
    verdict = nothing_to_measure(Evaluation())

    assert verdict.result is INCONCLUSIVE
    assert "spec.evaluation.suites" in verdict.weakest.message
