"""The evaluation Job (candidate against incumbent) and the validation Job (what users are served)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from evolving_agent.chat.endpoint import ModelEndpoint
from evolving_agent.contract import env
from evolving_agent.contract.config import AgentConfig, AgentConfigFile
from evolving_agent.contract.learning import Suite
from evolving_agent.contract.report import (
    MAX_MESSAGE_CHARS,
    EvaluationReport,
    Outcome,
    Report,
    SuiteResult,
    ValidationReport,
)
from evolving_agent.curation.cases import CaseError, CaseSet
from evolving_agent.evaluation.asking import (
    SERVICE_TIMEOUT_SECONDS,
    UnansweredError,
    scores,
    through_the_loop,
    through_the_service,
)
from evolving_agent.evaluation.score_cache import ScoreCache
from evolving_agent.evaluation.statistics import compare, share_in_basis_points
from evolving_agent.evaluation.suites import cases_of
from evolving_agent.reporting import JobContext, JobError, log_to_stderr, run_job
from evolving_agent.runtime.tools.toolbox import Toolbox

EVALUATION, VALIDATION = "evaluation", "validation"
MAX_ERROR_CHARS = 400
ERROR_CHARS_IN_ALL = 2000  # what a termination message has room for beside the numbers of 16 suites
MODEL_RETRIES = 4

log = logging.getLogger(__name__)


def main_evaluate() -> int:
    """The container's entry: returns its exit code."""
    log_to_stderr()
    return run_evaluation(JobContext.from_environment())


def main_validate() -> int:
    """The container's entry: returns its exit code."""
    log_to_stderr()
    return run_validation(JobContext.from_environment())


def run_evaluation(context: JobContext) -> int:
    def failed(context: JobContext, reason: str, message: str) -> Report:
        return EvaluationReport(
            run_id=context.run_id,
            outcome=Outcome.FAILED,
            reason=reason,
            message=message,
            candidate="",
            incumbent="",
        )

    return run_job(EVALUATION, evaluate, failed, context)


def run_validation(context: JobContext) -> int:
    def failed(context: JobContext, reason: str, message: str) -> Report:
        return ValidationReport(
            run_id=context.run_id, outcome=Outcome.FAILED, reason=reason, message=message, revision=""
        )

    return run_job(VALIDATION, validate, failed, context)


@dataclass(frozen=True)
class _Measured:
    """One suite's numbers; `permanent_error` says of an unmeasured one that trying again is useless."""

    result: SuiteResult
    permanent_error: bool = False


Measure = Callable[[Suite, CaseSet], Awaitable[SuiteResult]]


def evaluate(context: JobContext) -> EvaluationReport:
    """Asks candidate and incumbent every suite's cases.

    Raises JobError, with what was measured, where a suite could not be: an outage is an error and no score.
    """
    file = context.agent_config()
    candidate = _config(file, context.required(env.CANDIDATE_HASH))
    incumbent = _config(file, context.required(env.INCUMBENT_HASH))
    suites = context.learning().evaluation.effective_suites
    cache = ScoreCache(context.layout)

    async def measure(suite: Suite, cases: CaseSet) -> SuiteResult:
        new = await _scores_of(candidate, suite, cases, context, cache, own_run_only=True)
        old = await _scores_of(incumbent, suite, cases, context, cache, own_run_only=False)
        numbers = compare(new, old, suite.confidence_percent)
        return SuiteResult(
            suite=suite.name,
            samples=numbers.samples,
            baseline_bps=numbers.baseline,
            candidate_bps=numbers.candidate,
            delta_bps=numbers.delta,
            lower_bps=numbers.lower,
        )

    measured = asyncio.run(_measure_all(context, suites, measure))
    report = EvaluationReport(
        run_id=context.run_id,
        outcome=Outcome.SUCCEEDED,
        reason="Evaluated",
        message=_summary(measured),
        candidate=candidate.revision,
        incumbent=incumbent.revision,
        suites=tuple(one.result for one in measured),
    )
    _raise_unless_complete(measured, report)
    return report


def validate(context: JobContext) -> ValidationReport:
    """Asks every suite's cases through the agent's Service. Raises JobError as `evaluate` does."""
    served = _config(context.agent_config(), context.required(env.CONFIG_HASH))
    service = context.required(env.SERVICE_URL)
    suites = context.learning().evaluation.effective_suites

    async def measure(suite: Suite, cases: CaseSet) -> SuiteResult:
        async with httpx.AsyncClient(base_url=service, timeout=SERVICE_TIMEOUT_SECONDS) as client:
            right = await scores(cases, through_the_service(client, served.revision), suite.name)
        share = share_in_basis_points(sum(right), len(right)) if right else None
        return SuiteResult(suite=suite.name, samples=len(right), candidate_bps=share)

    measured = asyncio.run(_measure_all(context, suites, measure))
    report = ValidationReport(
        run_id=context.run_id,
        outcome=Outcome.SUCCEEDED,
        reason="Validated",
        message=_summary(measured),
        revision=served.revision,
        suites=tuple(one.result for one in measured),
    )
    _raise_unless_complete(measured, report)
    return report


def _config(file: AgentConfigFile, config_hash: str) -> AgentConfig:
    """The configuration with that hash. The kubelet may mount it a moment after the Job has begun."""
    if config_hash not in file.configs:
        known = ", ".join(sorted(file.configs))
        raise JobError("ConfigMissing", f"no configuration {config_hash} among {known}", permanent=False)
    return file.configs[config_hash]


async def _scores_of(
    config: AgentConfig,
    suite: Suite,
    cases: CaseSet,
    context: JobContext,
    cache: ScoreCache,
    *,
    own_run_only: bool,
) -> list[bool]:
    """Measured, or known: of the incumbent from any run, of the candidate from this one before a restart."""
    known = cache.find(config.hash, cases.digest, context.run_id if own_run_only else None)
    if known is not None:
        log.info("%s: scores of %s are known", suite.name, config.revision)
        return known
    key = context.variables.get(env.API_KEY)
    async with (
        ModelEndpoint(config.model.base_url, key, max_retries=MODEL_RETRIES) as endpoint,
        Toolbox() as toolbox,
    ):
        await toolbox.open(config)
        if toolbox.problems:  # without its tools it is another agent
            raise UnansweredError("ToolUnavailable", "; ".join(toolbox.problems), permanent=False)
        ask = through_the_loop(config, endpoint, toolbox)
        right = await scores(cases, ask, f"{suite.name}, {config.revision} ({config.model.id})")
    cache.keep(config.hash, cases.digest, context.run_id, right)
    return right


async def _measure_all(context: JobContext, suites: tuple[Suite, ...], measure: Measure) -> list[_Measured]:
    room = min(MAX_ERROR_CHARS, ERROR_CHARS_IN_ALL // len(suites))
    return [await _measured(context, suite, measure, room) for suite in suites]


async def _measured(context: JobContext, suite: Suite, measure: Measure, error_chars: int) -> _Measured:
    try:
        return _Measured(await measure(suite, cases_of(suite, context)))
    except CaseError as problem:
        reason, message, permanent = "InvalidSuite", str(problem), True
    except UnansweredError as problem:
        reason, message, permanent = problem.reason, problem.message, problem.permanent
    log.error("suite %s cannot be measured: %s: %s", suite.name, reason, message)
    error = SuiteResult(suite=suite.name, error_reason=reason, error=message[:error_chars])
    return _Measured(error, permanent)


def _raise_unless_complete(measured: list[_Measured], report: EvaluationReport | ValidationReport) -> None:
    broken = [one for one in measured if one.result.error_reason is not None]
    if not broken:
        return
    reason = broken[0].result.error_reason or "SuiteNotMeasured"
    raise JobError(
        reason,
        report.message,
        permanent=all(one.permanent_error for one in broken),
        report=report.model_copy(update={"outcome": Outcome.FAILED, "reason": reason}),
    )


def _summary(measured: list[_Measured]) -> str:
    return "; ".join(_words(one.result) for one in measured)[:MAX_MESSAGE_CHARS]


def _words(result: SuiteResult) -> str:
    if result.error_reason is not None:
        return f"{result.suite}: {result.error_reason}: {result.error}"
    if result.candidate_bps is None:
        return f"{result.suite}: no cases"
    before = f"{result.baseline_bps / 100:.1f} % → " if result.baseline_bps is not None else ""
    return f"{result.suite}: {before}{result.candidate_bps / 100:.1f} % of {result.samples} cases"
