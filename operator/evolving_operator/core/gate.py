"""The promotion gate: numbers of an evaluation → a verdict, with its reason.

Accuracies are basis points of the mean score over paired cases, `delta` is candidate minus incumbent, and
`lower` its one-sided lower confidence bound. With m = the suite's `minDeltaBps`:

| objective | Passed      | Inconclusive             | Failed    |
|-----------|-------------|--------------------------|-----------|
| Improve   | lower >  m  | delta >  m, not lower    | delta <= m |
| NoRegress | lower >= m  | delta >= m, not lower    | delta <  m |

So NoRegress with m = 0 asks for proof that nothing got worse; a negative m is the loss one can bear.
Fewer samples than the suite asks for are Inconclusive, whatever they say. Error means that nothing was
measured: it counts neither for nor against the candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from evolving_agent.contract.learning import Evaluation, Suite, SuiteObjective
from evolving_agent.contract.report import EvaluationReport, Outcome, SuiteResult
from evolving_operator.api.models import SuiteVerdict, VerdictResult

# A failed suite rejects the candidate even where another could not be measured.
_SEVERITY = {
    VerdictResult.PASSED: 0,
    VerdictResult.INCONCLUSIVE: 1,
    VerdictResult.ERROR: 2,
    VerdictResult.FAILED: 3,
}


@dataclass(frozen=True)
class Verdict:
    """Over all suites: the weakest suite's result and numbers."""

    suites: tuple[SuiteVerdict, ...]

    @property
    def weakest(self) -> SuiteVerdict:
        return weakest(self.suites)

    @property
    def result(self) -> VerdictResult:
        return self.weakest.result


def cases_of(suite: Suite) -> str:
    """Where a suite's cases come from, for comparing; "" for the held-out part of a dataset."""
    ref = suite.config_map_ref
    return "" if ref is None else f"{ref.name}/{ref.key}"


def weakest(suites: Iterable[SuiteVerdict]) -> SuiteVerdict:
    """The suite that decides. Expects at least one."""
    return max(suites, key=lambda suite: _SEVERITY[suite.result])


def judge(evaluation: Evaluation, report: EvaluationReport) -> Verdict:
    """The verdict on a finished evaluation, suite by suite."""
    results = {result.suite: result for result in report.suites}
    if report.outcome is Outcome.FAILED and not results:
        return unmeasured(evaluation, report.reason, report.message)
    return Verdict(
        tuple(_judge_suite(suite, results.get(suite.name)) for suite in evaluation.effective_suites)
    )


def judge_again(evaluation: Evaluation, recorded: tuple[SuiteVerdict, ...]) -> Verdict | None:
    """The verdict on numbers that were measured before; None where it is the recorded one.

    Thresholds decide about numbers, so other thresholds need no other numbers.
    """
    known = {verdict.suite: verdict for verdict in recorded}
    if set(known) != {suite.name for suite in evaluation.effective_suites}:
        return None
    suites = tuple(_judge_again(suite, known[suite.name]) for suite in evaluation.effective_suites)
    return None if suites == recorded else Verdict(suites)


def _judge_again(suite: Suite, recorded: SuiteVerdict) -> SuiteVerdict:
    if recorded.result is VerdictResult.ERROR or recorded.lower_bps is None or recorded.delta_bps is None:
        return recorded
    return _judge_suite(
        suite,
        SuiteResult(
            suite=suite.name,
            samples=recorded.samples,
            baseline_bps=recorded.baseline,
            candidate_bps=recorded.candidate,
            delta_bps=recorded.delta_bps,
            lower_bps=recorded.lower_bps,
        ),
    )


def unmeasured(evaluation: Evaluation, reason: str, message: str) -> Verdict:
    """The verdict where the evaluation itself failed."""
    return Verdict(
        tuple(
            SuiteVerdict(
                suite=suite.name,
                cases=cases_of(suite),
                result=VerdictResult.ERROR,
                reason=reason,
                message=message,
            )
            for suite in evaluation.effective_suites
        )
    )


def nothing_to_measure(evaluation: Evaluation) -> Verdict:
    """The verdict where no suite is named and no dataset exists whose held-out split could be one."""
    return Verdict(
        tuple(
            SuiteVerdict(
                suite=suite.name,
                cases=cases_of(suite),
                result=VerdictResult.INCONCLUSIVE,
                reason="NothingToMeasure",
                message="There are no validation queries: name a suite in spec.evaluation.suites, or let a "
                "curation run write a dataset with held-out examples.",
            )
            for suite in evaluation.effective_suites
        )
    )


Policy = Callable[[Suite, SuiteResult], tuple[VerdictResult, str, str] | None]


def _measured(suite: Suite, result: SuiteResult) -> tuple[VerdictResult, str, str] | None:
    if result.error_reason is not None:
        return VerdictResult.ERROR, result.error_reason, result.error or "the suite could not be measured"
    if result.delta_bps is None or result.lower_bps is None:
        return VerdictResult.ERROR, "IncompleteReport", "the evaluation reported no comparison"
    return None


def _enough_samples(suite: Suite, result: SuiteResult) -> tuple[VerdictResult, str, str] | None:
    if result.samples >= suite.min_samples:
        return None
    return (
        VerdictResult.INCONCLUSIVE,
        "TooFewSamples",
        f"{result.samples} cases, but minSamples asks for {suite.min_samples}",
    )


def _compared(suite: Suite, result: SuiteResult) -> tuple[VerdictResult, str, str]:
    delta, lower = result.delta_bps or 0, result.lower_bps or 0
    least = suite.min_delta_bps
    improve = suite.objective is SuiteObjective.IMPROVE
    numbers = (
        f"{_percent(result.baseline_bps)} → {_percent(result.candidate_bps)}: {_points(delta)}, with "
        f"{suite.confidence_percent} % confidence at least {_points(lower)} (n={result.samples})"
    )
    if lower > least or (lower == least and not improve):
        return VerdictResult.PASSED, "Better" if improve else "NotWorse", numbers
    if delta > least or (delta == least and not improve):
        return VerdictResult.INCONCLUSIVE, "NotProven", f"{numbers}; asked for: {_points(least)}"
    return (
        VerdictResult.FAILED,
        "NotBetter" if improve else "Worse",
        f"{numbers}; asked for: {_points(least)}",
    )


_POLICIES: tuple[Policy, ...] = (_measured, _enough_samples, _compared)


def _judge_suite(suite: Suite, result: SuiteResult | None) -> SuiteVerdict:
    if result is None:
        return SuiteVerdict(
            suite=suite.name,
            cases=cases_of(suite),
            result=VerdictResult.ERROR,
            reason="SuiteMissing",
            message="the evaluation reported nothing on this suite",
        )
    outcome, reason, message = next(
        answer for policy in _POLICIES if (answer := policy(suite, result)) is not None
    )
    return SuiteVerdict(
        suite=suite.name,
        cases=cases_of(suite),
        result=outcome,
        reason=reason,
        message=message,
        baseline=result.baseline_bps,
        candidate=result.candidate_bps,
        delta_bps=result.delta_bps,
        lower_bps=result.lower_bps,
        samples=result.samples,
    )


def _percent(bps: int | None) -> str:
    return "?" if bps is None else f"{bps / 100:.1f} %"


def _points(bps: int) -> str:
    return f"{bps / 100:+.1f} points"
