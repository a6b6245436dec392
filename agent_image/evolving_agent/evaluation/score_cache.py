"""Scores that were measured before: the incumbent need not be asked again for every candidate."""

from __future__ import annotations

from pydantic import ValidationError

from evolving_agent.contract.base import Document
from evolving_agent.store.layout import StoreLayout


class Scores(Document):
    """All scores of one configuration on one version of a suite's cases, and the run that measured them."""

    config: str
    cases: str
    run_id: str
    right: tuple[bool, ...]


class ScoreCache:
    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._directory = layout.runs("evaluation") / "scores"

    def find(self, config: str, cases: str, run_id: str | None = None) -> list[bool] | None:
        """Scores of that configuration on exactly those cases; with `run_id`, only that run's own."""
        path = self._directory / f"{config}-{cases}.json"
        self._layout.pull_file(path)
        try:
            known = Scores.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return list(known.right) if run_id in (None, known.run_id) else None

    def keep(self, config: str, cases: str, run_id: str, right: list[bool]) -> None:
        scores = Scores(config=config, cases=cases, run_id=run_id, right=tuple(right))
        self._layout.save(self._directory / f"{config}-{cases}.json", scores.model_dump_json().encode())
