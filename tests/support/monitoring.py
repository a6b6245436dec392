"""The real registries of two agent pods and of the operator, fed with what happens in a loop."""

from __future__ import annotations

from typing import Any

from prometheus_client import generate_latest

from evolving_agent.contract.config import AgentConfig, Pricing, ServedModel
from evolving_agent.runtime.metrics import Metrics
from evolving_agent.runtime.traffic import ACTIVE, SHADOW, Arm
from evolving_operator.api import names
from evolving_operator.api.models import AgentRevisionStatus, EvolvingAgentStatus
from evolving_operator.cluster.cache import Cache
from evolving_operator.shell.telemetry import Telemetry

_SINCE = "2030-01-01T00:00:00Z"
_ENDED = "2030-01-01T01:00:00Z"


def _config(revision: str, model: str) -> AgentConfig:
    pricing = Pricing(input_micro_usd=400_000, output_micro_usd=1_600_000)
    served = ServedModel(id=model, base_url="http://model-server/v1", pricing=pricing)
    return AgentConfig(revision=revision, model=served, instructions="Help.")


OLD = _config("support-11111111", "base")
NEW = _config("support-22222222", "learned")
KEY = ("bank", "support")


class Experience:
    """What the metrics are told is what the programs tell them: the same classes, the same methods."""

    def __init__(self) -> None:
        self.pods = [Metrics(), Metrics()]
        self._cache = Cache()
        self._operator = Telemetry(self._cache, queue_depth=lambda: 1)
        self._operator.leader.set(1)
        self._standby = Telemetry(self._cache, queue_depth=lambda: 0)
        self._cache.put(_agent())
        for pod in self.pods:
            pod.info.labels("support", OLD.revision, OLD.model.id, OLD.hash).set(1)
            pod.ready.set(1)
            pod.config_valid.set(1)
            pod.memory_up.labels("SQLite").set(1)
            pod.in_flight.set(1)
        self.goes_on()

    def operator_exposition(self) -> bytes:
        return generate_latest(self._operator.registry)

    def standby_exposition(self) -> bytes:
        """Of a second replica: it knows of the same agents, and decides nothing."""
        return generate_latest(self._standby.registry)

    def goes_on(self) -> None:
        for pod in self.pods:
            for arm in (Arm(ACTIVE, OLD), Arm(SHADOW, NEW)):
                _runs(pod, arm)
            pod.refused.labels("too_large").inc()
            pod.upstream_errors.labels(OLD.model.id, "RateLimited").inc()
            pod.model_missing.labels(OLD.model.id).set(0)
            pod.memory_recalls.labels("hit").inc()
            pod.lines_written("episode", 1, 0.002)
            pod.write_failed("episode")
            pod.lines_dropped("episode", 1)
        self._operator.reconciled("success", 0.004)
        self._operator.requested("apply", "200", 0.003)
        self._operator.agent_changed(KEY, _status(OLD, "Running"), _status(NEW, "Succeeded", step="Done"))
        rolled_back = _status(OLD, "Succeeded", step="RolledBack", reason="ScoreDropped")
        self._operator.agent_changed(KEY, _status(NEW, "Succeeded", step="Done"), rolled_back)
        self._operator.revision_changed(
            KEY, None, AgentRevisionStatus.model_validate({"result": "Passed", "attempt": 0})
        )


def _runs(pod: Metrics, arm: Arm) -> None:
    pod.run_ended(arm, "ok", 0.3)
    pod.run_ended(arm, "upstream_error", 1.2)
    pod.run_ended(arm, "cancelled", 0.1)
    pod.first_token.labels(*arm.labels).observe(0.05)
    pod.tokens_used(arm, 80, 20)
    pod.tool_calls.labels(*arm.labels, "route_request", "ok").inc()
    pod.reflections.labels(*arm.labels, "feedback", "parsed").inc()
    pod.reflection_score.labels(*arm.labels, "feedback").observe(70)


def _status(
    active: AgentConfig, run: str, *, step: str = "Restart", reason: str = "VerdictPassed"
) -> EvolvingAgentStatus:
    ended = {} if run == "Running" else {"finished": _ENDED}
    return EvolvingAgentStatus.model_validate(
        {
            "active": {"revision": active.revision, "modelID": active.model.id, "since": _SINCE},
            "rollout": {"revision": active.revision, "step": step, "since": _SINCE, "reason": reason},
            "curation": {"job": "support-curate-1", "state": run, "since": _SINCE, **ended},
            "training": {"job": "support-finetune-1", "state": run, "since": _SINCE, **ended},
            "dataset": {"version": "v1", "examples": 120, "digest": "d1"},
            "lastVerdict": {"result": "Passed", "baseline": 1500, "candidate": 9000},
            "conditions": [
                {"type": kind, "status": status, "reason": "AsExpected", "lastTransitionTime": _SINCE}
                for kind, status in (("Ready", "True"), ("Degraded", "True"))
            ],
        }
    )


def _agent() -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.AGENT_KIND,
        "metadata": {"name": "support", "namespace": "bank", "uid": "u1", "resourceVersion": "1"},
        "spec": {"model": {"base": "base"}, "agent": {"instructions": "Help."}},
        "status": _status(OLD, "Succeeded").to_wire(),
    }
