"""Whatever a run has to say, its report arrives: kubelet cuts a termination message that is longer."""

from __future__ import annotations

import json
from collections.abc import Callable
from string import ascii_letters, ascii_lowercase, digits
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evolving_agent.contract.report import (
    MAX_COUNT,
    MAX_MESSAGE_CHARS,
    MAX_REPORT_BYTES,
    CurationReport,
    DatasetRef,
    EvaluationReport,
    Outcome,
    ReleaseReport,
    Report,
    ServeReport,
    SuiteResult,
    TrainingReport,
    ValidationReport,
    encode_report,
    parse_report,
    report_fault,
)
from evolving_agent.reporting import JobError
from evolving_agent.training.backends import TrainingFailedError

LONG_WORDS = {
    "chinese": "模型服务暂时不可用。请稍后重试。",
    "quotes": '"',
    "backslashes": '\\"quoted\\" ',
    "controls": "\x1b[0m",
    "emoji": "🙈",
    "plain": "it does not answer ",
}


def repeated(words: str, length: int) -> str:
    return (words * length)[:length]


def said(most: int) -> st.SearchStrategy[str]:
    """Whatever a provider may say in JSON, half a surrogate pair included, as long as it may be."""
    anything = st.characters(exclude_categories=[])
    return st.builds(repeated, st.text(anything, min_size=1, max_size=8), st.integers(0, most))


def name(most: int) -> st.SearchStrategy[str]:
    """As Kubernetes and the spec allow them."""
    return st.builds(
        repeated, st.text(ascii_lowercase + digits, min_size=1, max_size=8), st.integers(1, most)
    )


def given_by_a_provider(most: int) -> st.SearchStrategy[str]:
    """Names of models and jobs: in any script, but printable."""
    letters = st.characters(exclude_categories=["Cc", "Cs"])
    return st.builds(repeated, st.text(letters, min_size=1, max_size=8), st.integers(0, most))


COUNT = st.integers(0, MAX_COUNT)
BASIS_POINTS = st.integers(-(2**31), MAX_COUNT)
REASON = st.text(ascii_letters, min_size=1, max_size=63).map(lambda letters: f"A{letters}")
DATASET = st.builds(DatasetRef, version=name(253), digest=name(128), examples=COUNT, holdout=COUNT)
SUITES = st.lists(
    st.one_of(
        st.builds(
            SuiteResult,
            suite=name(40),
            samples=COUNT,
            baseline_bps=BASIS_POINTS,
            candidate_bps=BASIS_POINTS,
            delta_bps=BASIS_POINTS,
            lower_bps=BASIS_POINTS,
        ),
        st.builds(SuiteResult, suite=name(40), error_reason=REASON, error=said(400)),
    ),
    max_size=16,
).map(tuple)
COMMON = {
    "run_id": name(63),
    "outcome": st.sampled_from(Outcome),
    "reason": REASON,
    "message": said(MAX_MESSAGE_CHARS),
}
REPORTS: st.SearchStrategy[Report] = st.one_of(
    st.builds(EvaluationReport, **COMMON, candidate=name(63), incumbent=name(63), suites=SUITES),
    st.builds(ValidationReport, **COMMON, revision=name(63), suites=SUITES),
    st.builds(
        TrainingReport,
        **COMMON,
        base=given_by_a_provider(256),
        model_id=given_by_a_provider(256),
        backend=st.sampled_from(["OpenAI", "LoRA"]),
        job_id=given_by_a_provider(256),
        dataset=DATASET,
        hyperparameters_digest=name(8),
        trained_tokens=COUNT,
    ),
    st.builds(
        CurationReport,
        **COMMON,
        dataset=DATASET,
        dropped=st.dictionaries(name(40), COUNT, max_size=20),
        quarantined=COUNT,
    ),
    st.builds(ReleaseReport, **COMMON, jobs_cancelled=COUNT, models_deleted=COUNT, files_deleted=COUNT),
    st.builds(ServeReport, **COMMON),
)


def without_texts(report: Report) -> Report:
    changes: dict[str, object] = {"message": ""}
    if isinstance(report, EvaluationReport | ValidationReport):
        changes["suites"] = tuple(
            suite if suite.error is None else suite.updated(error="") for suite in report.suites
        )
    return report.model_copy(update=changes)


LARGEST = EvaluationReport(
    run_id="r" * 63,
    outcome=Outcome.SUCCEEDED,
    reason="R" * 64,
    message="\0" * MAX_MESSAGE_CHARS,
    candidate="c" * 63,
    incumbent="i" * 63,
    suites=tuple(
        SuiteResult(
            suite="s" * 40,
            samples=MAX_COUNT,
            baseline_bps=-(2**31),
            candidate_bps=-(2**31),
            delta_bps=-(2**31),
            lower_bps=-(2**31),
        )
        for _ in range(16)
    ),
)


@given(REPORTS)
@example(LARGEST)
def test_any_report_fits_and_loses_nothing_but_words(report: Report) -> None:
    encoded = encode_report(report)

    assert len(encoded) <= MAX_REPORT_BYTES
    arrived = parse_report(encoded.decode())
    assert arrived is not None
    assert without_texts(arrived) == without_texts(report)


@pytest.mark.parametrize("error", [JobError, TrainingFailedError])
def test_half_a_surrogate_pair_is_kept_out_of_what_is_written_down(error: Callable[..., Any]) -> None:
    more = {"permanent": True} if error is JobError else {}
    assert error("ProviderRefused", "no \ud83d such", **more).message == "no ? such"


@pytest.mark.parametrize("suites", [1, 3, 16])
@pytest.mark.parametrize("words", LONG_WORDS.values(), ids=LONG_WORDS)
def test_of_long_errors_each_suite_tells_the_beginning(words: str, suites: int) -> None:
    report = EvaluationReport(
        run_id="support-evaluate-12345678",
        outcome=Outcome.FAILED,
        reason="UpstreamError",
        message=repeated(words, MAX_MESSAGE_CHARS),
        candidate="support-12345678",
        incumbent="support-87654321",
        suites=tuple(
            SuiteResult(suite=f"suite-{n}", error_reason="UpstreamError", error=repeated(words, 400))
            for n in range(suites)
        ),
    )

    kept = encode_report(report)[:MAX_REPORT_BYTES]
    arrived = parse_report(kept.decode(errors="ignore"))

    assert isinstance(arrived, EvaluationReport)
    for suite in arrived.suites:
        assert len(suite.error or "") >= 16
        assert (suite.error or "").removesuffix("…") in repeated(words, 400)


def test_a_report_that_fits_arrives_as_it_is() -> None:
    report = ServeReport(
        run_id="r", outcome=Outcome.FAILED, reason="ModelGone", message=repeated("模", MAX_MESSAGE_CHARS)
    )

    assert parse_report(encode_report(report).decode()) == report


@pytest.mark.parametrize("reason", ["not CamelCase: model gone", "R" * 65, ""])
def test_a_suites_reason_has_the_form_of_every_reason(reason: str) -> None:
    """It becomes the reason of the operator's verdict, and of a condition."""
    told = {"suites": [{"suite": "holdout", "errorReason": reason}], "candidate": "c", "incumbent": "i"}
    header = {"kind": "Evaluation", "runId": "r", "outcome": "Failed", "reason": "X", "message": "m"}
    message = json.dumps(header | told)

    assert parse_report(message) is None
    assert (report_fault(message) or "").startswith("suites.0.errorReason")


def test_a_report_that_kubelet_has_cut_says_so() -> None:
    report = ServeReport(run_id="r", outcome=Outcome.FAILED, reason="ModelGone", message="it is gone" * 90)
    cut = encode_report(report)[:600].decode()

    assert parse_report(cut) is None
    assert (report_fault(cut) or "").startswith("it was cut off")
    assert report_fault(cut[5:]) is None
