"""Which served models are gone, and that the previous revision answers for them: said loudly, for long."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from evolving_agent.runtime.metrics import Metrics
from evolving_agent.runtime.traffic import Arm

REPEAT_SECONDS = 60.0  # one line of the log for each model in that time

logger = logging.getLogger(__name__)


@dataclass
class _Missing:
    message: str
    told_at: float


class MissingModels:
    """Told of each request whose model is gone (`fell_back`) and of each that it answered (`answered`)."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._missing: dict[str, _Missing] = {}

    @property
    def problems(self) -> list[str]:
        """One sentence for each model that its latest request found missing."""
        return [missing.message for missing in self._missing.values()]

    def fell_back(self, arm: Arm, instead: Arm, why: str) -> None:
        self._metrics.fallbacks.labels(
            arm.config.revision, arm.config.model.id, instead.config.revision
        ).inc()
        self.found_missing(arm, instead, why)

    def found_missing(self, arm: Arm, instead: Arm, why: str) -> None:
        """Whoever found it out: a request, or a pod that starts."""
        model, now = arm.config.model.id, time.monotonic()
        self._metrics.model_missing.labels(model).set(1)
        message = (
            f"model {model!r} of revision {arm.config.revision} is gone: revision {instead.config.revision} "
            f"(model {instead.config.model.id!r}) answers in its place. Bring the model back, or pin that "
            f"revision (spec.rollout.pin). {why}"
        )
        known = self._missing.get(model)
        if known is None or now - known.told_at >= REPEAT_SECONDS:
            logger.error("%s", message)
            self._missing[model] = _Missing(message, now)

    def answered(self, arm: Arm) -> None:
        if self._missing.pop(arm.config.model.id, None) is not None:
            self._metrics.model_missing.labels(arm.config.model.id).set(0)
            logger.warning("model %r is there again", arm.config.model.id)
