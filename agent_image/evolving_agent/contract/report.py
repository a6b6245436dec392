"""What a container reports when it ends: one JSON document, at most 4 KiB, as its termination message."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from evolving_agent.contract.base import Document, encodable
from evolving_agent.contract.learning import DatasetFormat

MAX_REPORT_BYTES = 4096  # kubelet truncates what is longer
MAX_MESSAGE_CHARS = 1024
MAX_COUNT = 2**31 - 1

# What others say, as a provider's errors.
Text = Annotated[str, BeforeValidator(lambda said: encodable(said) if isinstance(said, str) else said)]
BasisPoints = Annotated[int, Field(ge=-(2**31), le=MAX_COUNT)]  # a bound may lie below -100 %
Reason = Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=64)]


class Outcome(StrEnum):
    SUCCEEDED = "Succeeded"
    SKIPPED = "Skipped"
    FAILED = "Failed"


class DatasetRef(Document):
    version: str = Field(min_length=1, max_length=253)
    digest: str = Field(max_length=128)
    examples: int = Field(ge=0, le=MAX_COUNT)
    holdout: int = Field(default=0, ge=0, le=MAX_COUNT)
    format: DatasetFormat = DatasetFormat.SUPERVISED


class _Report(Document):
    version: Literal[1] = 1
    run_id: str
    outcome: Outcome
    reason: Reason
    message: Text = Field(max_length=MAX_MESSAGE_CHARS)


class CurationReport(_Report):
    kind: Literal["Curation"] = "Curation"
    dataset: DatasetRef | None = None
    dropped: dict[str, int] = Field(default={})
    quarantined: int = 0


class TrainingReport(_Report):
    kind: Literal["Training"] = "Training"
    base: str = Field(default="", max_length=256)
    model_id: str | None = Field(default=None, alias="modelID", max_length=256)
    backend: str = Field(default="", max_length=64)
    job_id: str | None = Field(default=None, alias="jobID", max_length=256)
    dataset: DatasetRef | None = None
    hyperparameters_digest: str = ""
    trained_tokens: int | None = None


class SuiteResult(Document):
    """Numbers of one suite; the operator's gate makes the verdict of them.

    Accuracies and the delta (candidate minus incumbent) are basis points of the mean score over `samples`
    paired cases; `lower_bps` is the one-sided lower bound of the delta at the suite's confidence.
    `error` names what kept the suite from being measured.
    """

    suite: str = Field(max_length=63)
    samples: int = Field(default=0, ge=0, le=MAX_COUNT)
    baseline_bps: BasisPoints | None = None
    candidate_bps: BasisPoints | None = None
    delta_bps: BasisPoints | None = None
    lower_bps: BasisPoints | None = None
    error_reason: Reason | None = None
    error: Text | None = Field(default=None, max_length=400)


class EvaluationReport(_Report):
    kind: Literal["Evaluation"] = "Evaluation"
    candidate: str
    incumbent: str
    suites: tuple[SuiteResult, ...] = ()


class ValidationReport(_Report):
    """The served revision's own scores, asked through the agent's Service after its promotion."""

    kind: Literal["Validation"] = "Validation"
    revision: str
    suites: tuple[SuiteResult, ...] = ()


class ReleaseReport(_Report):
    """What of a deleted agent a provider has been made to forget."""

    kind: Literal["Release"] = "Release"
    jobs_cancelled: int = 0
    models_deleted: int = 0
    files_deleted: int = 0


class ServeReport(_Report):
    """Why a serving pod gave up: read by the operator from the crashed container."""

    kind: Literal["Serve"] = "Serve"


Report = Annotated[
    CurationReport | TrainingReport | EvaluationReport | ValidationReport | ReleaseReport | ServeReport,
    Field(discriminator="kind"),
]
_REPORT: TypeAdapter[Report] = TypeAdapter(Report)
_KINDS = frozenset(report.model_fields["kind"].default for report in get_args(get_args(Report)[0]))


_BEGINNING = '{"version":1,"runId":'  # as every report is written


def parse_report(message: str) -> Report | None:
    """The report in a termination message; None where it holds none (a crash, another program)."""
    try:
        return _REPORT.validate_json(message)
    except ValidationError:
        return None


def report_fault(message: str) -> str | None:
    """What is wrong with a termination message that is meant as a report: the field, and why. Else None."""
    try:
        _REPORT.validate_json(message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid" and message.startswith(_BEGINNING):
            return "it was cut off: kubelet keeps 12 KiB for all containers of a pod together"
        kind, *path = (str(part) for part in first["loc"]) if first["loc"] else ("",)
        return f"{'.'.join(path)}: {first['msg']}" if kind in _KINDS and path else None
    return None


def encode_report(report: Report) -> bytes:
    """The report as UTF-8 JSON that fits into a termination message: texts are shortened, numbers stay.

    What counts are bytes, as JSON writes them: a quote takes two, a Chinese character three.
    """
    limit = MAX_MESSAGE_CHARS
    encoded = _encoded(report)
    while len(encoded) > MAX_REPORT_BYTES and limit > 1:
        limit //= 2
        encoded = _encoded(_shortened(report, limit))
    return encoded


def _encoded(report: Report) -> bytes:
    return report.model_dump_json(by_alias=True, exclude_none=True).encode()


def _shortened(report: Report, limit: int) -> Report:
    """With no text longer than that many characters."""
    changes: dict[str, object] = {"message": _cut(report.message, limit)}
    if isinstance(report, EvaluationReport | ValidationReport):
        changes["suites"] = tuple(
            suite if suite.error is None else suite.updated(error=_cut(suite.error, limit))
            for suite in report.suites
        )
    return report.model_copy(update=changes)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
