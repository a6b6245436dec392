"""Runs Jobs in a test's own process: a store, a mounted configuration, and the report they leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from evolving_agent.contract import env
from evolving_agent.contract.config import CONFIG_KEY, AgentConfigFile
from evolving_agent.contract.learning import LEARNING_KEY, LearningConfig
from evolving_agent.contract.report import Report, parse_report
from evolving_agent.reporting import JobContext
from evolving_agent.store.layout import StoreLayout


@dataclass
class JobBench:
    """A directory tree as a Job's container sees it. `variables` are its environment."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layout = StoreLayout(self.root / "data")
        self.suites = self.root / "suites"
        self.adapters = self.root / "adapters"
        self._config = self.root / "config"
        self.termination_log = self.root / "termination-log"
        self._config.mkdir(parents=True, exist_ok=True)
        self.variables |= {
            env.STORE: str(self.layout.root),
            env.CONFIG_DIR: str(self._config),
            env.SUITES_DIR: str(self.suites),
            env.ADAPTERS: str(self.adapters),
            env.TERMINATION_LOG: str(self.termination_log),
        }

    def configure(self, learning: LearningConfig, agent: AgentConfigFile | None = None) -> None:
        (self._config / LEARNING_KEY).write_text(learning.model_dump_json(by_alias=True))
        if agent is not None:
            (self._config / CONFIG_KEY).write_text(agent.model_dump_json(by_alias=True))

    def add_suite(self, name: str, lines: list[str]) -> None:
        (self.suites / name).mkdir(parents=True, exist_ok=True)
        (self.suites / name / env.SUITE_FILE).write_text("".join(f"{line}\n" for line in lines))

    def context(self, run_id: str, **variables: str) -> JobContext:
        return JobContext.from_environment({**self.variables, env.RUN_ID: run_id, **variables})

    def run(self, run_job: Callable[[JobContext], int], run_id: str, **variables: str) -> tuple[int, Report]:
        """The exit code and the termination message of one run. Raises ValueError where it left none."""
        self.termination_log.unlink(missing_ok=True)
        code = run_job(self.context(run_id, **variables))
        report = parse_report(self.termination_log.read_text())
        if report is None:
            raise ValueError("the termination message is no report")
        return code, report
