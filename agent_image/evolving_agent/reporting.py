"""What every Job has in common: where it reads its settings, and how it reports back exactly once.

A report is written to the store first (`runs/<kind>/<run ID>/report.json`) and then to the termination
log. A container that is started again under the same run ID finds its report and hands it in again; it
does not do the work twice. A failed run is not final: it is done again.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from evolving_agent.contract import env
from evolving_agent.contract.base import Document, encodable
from evolving_agent.contract.config import CONFIG_KEY, AgentConfigFile
from evolving_agent.contract.learning import LEARNING_KEY, LearningConfig
from evolving_agent.contract.report import (
    MAX_MESSAGE_CHARS,
    Outcome,
    Report,
    encode_report,
    parse_report,
)
from evolving_agent.store.durable import StoreUnavailableError
from evolving_agent.store.layout import StoreLayout

log = logging.getLogger(__name__)

Parsed = TypeVar("Parsed", bound=Document)


class JobError(Exception):
    """A Job cannot do its work. `permanent`: trying again without a change by a person is useless.

    `report` is what is reported, where more is known than reason and message.
    """

    def __init__(self, reason: str, message: str, *, permanent: bool, report: Report | None = None) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = encodable(message)[:MAX_MESSAGE_CHARS]
        self.permanent = permanent
        self.report = report


@dataclass(frozen=True)
class JobContext:
    """A Job's surroundings, read from its environment once."""

    run_id: str
    layout: StoreLayout
    config_dir: Path
    suites_dir: Path
    termination_log: Path
    variables: Mapping[str, str]

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> JobContext:
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")  # by hand, outside a Job: each run is its own
        return cls(
            run_id=variables.get(env.RUN_ID) or f"local-{started}-{os.getpid()}",
            layout=StoreLayout.from_environment(
                Path(variables.get(env.STORE) or env.DEFAULT_STORE), variables
            ),
            config_dir=Path(variables.get(env.CONFIG_DIR, env.DEFAULT_CONFIG_DIR)),
            suites_dir=Path(variables.get(env.SUITES_DIR, env.DEFAULT_SUITES_DIR)),
            termination_log=Path(variables.get(env.TERMINATION_LOG, env.DEFAULT_TERMINATION_LOG)),
            variables=variables,
        )

    def required(self, variable: str) -> str:
        """The value of an environment variable that the operator always sets for this Job."""
        value = self.variables.get(variable, "")
        if not value:
            raise JobError("InvalidEnvironment", f"{variable} is not set", permanent=True)
        return value

    def path(self, variable: str, default: str) -> Path:
        return Path(self.variables.get(variable) or default)

    def learning(self) -> LearningConfig:
        return self._parse(LEARNING_KEY, LearningConfig)

    def agent_config(self) -> AgentConfigFile:
        return self._parse(CONFIG_KEY, AgentConfigFile)

    def _parse(self, key: str, model: type[Parsed]) -> Parsed:
        path = self.config_dir / key
        try:
            return model.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as problem:
            raise JobError("InvalidConfig", f"{path}: {problem}", permanent=True) from problem


def earlier_report(context: JobContext, kind: str) -> Report | None:
    """The report of this very run, where it had got that far before its container ended."""
    path = _report_file(context, kind)
    context.layout.pull_file(path)
    try:
        content = path.read_text()
    except FileNotFoundError:
        return None
    report = parse_report(content)
    return None if report is None or report.outcome is Outcome.FAILED else report


def publish(context: JobContext, kind: str, report: Report) -> None:
    """Writes the report to the store, then to the termination log."""
    full = report.model_dump_json(by_alias=True, exclude_none=True).encode()
    context.layout.save(_report_file(context, kind), full)
    hand_in(context, report)


def _report_file(context: JobContext, kind: str) -> Path:
    return context.layout.run(kind, context.run_id) / "report.json"


def hand_in(context: JobContext, report: Report) -> None:
    """Writes the termination log alone. Outside a container there may be none: then the log line is it."""
    log.info("%s %s: %s", report.outcome.value, report.reason, report.message)
    try:
        context.termination_log.write_bytes(encode_report(report))
    except OSError as problem:
        log.warning("termination log %s cannot be written: %s", context.termination_log, problem)


def log_to_stderr() -> None:
    """Sets up a Job's log. Only for a process of its own."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line per poll drowns everything else


def run_job(
    kind: str,
    work: Callable[[JobContext], Report],
    failed: Callable[[JobContext, str, str], Report],
    context: JobContext,
) -> int:
    """Runs a Job's `work`, reports, and returns the container's exit code.

    `failed` makes the report of a failure from (context, reason, message).
    """
    try:
        return _run(kind, work, failed, context)
    except StoreUnavailableError as error:
        hand_in(context, failed(context, "StoreUnavailable", str(error)[:MAX_MESSAGE_CHARS]))
        return env.EXIT_RETRY
    except Exception as error:
        log.exception("the %s run failed in a way that was not foreseen", kind)
        message = f"{type(error).__name__}: {error}"[:MAX_MESSAGE_CHARS]
        hand_in(context, failed(context, "InternalError", message))
        return env.EXIT_RETRY


def _run(
    kind: str,
    work: Callable[[JobContext], Report],
    failed: Callable[[JobContext, str, str], Report],
    context: JobContext,
) -> int:
    done = earlier_report(context, kind)
    if done is not None:
        log.info("run %s was done before; its report is handed in again", context.run_id)
        hand_in(context, done)
        return env.EXIT_OK
    try:
        publish(context, kind, work(context))
    except JobError as error:
        publish(context, kind, error.report or failed(context, error.reason, error.message))
        return env.EXIT_PERMANENT if error.permanent else env.EXIT_RETRY
    return env.EXIT_OK
