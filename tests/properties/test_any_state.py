"""From any state that a status can tell of, however it came about: it converges, and is quiet from then on.

And whatever happens, nothing is measured or trained twice for one and the same question.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolving_agent.contract.report import EvaluationReport, Outcome, SuiteResult
from evolving_operator.api import names
from evolving_operator.api.models import Decision, RevisionState, RolloutStep, RunState, VerdictResult
from evolving_operator.testing.simulation import Simulation, revision_of, training_report
from support.mortal import DEATHS, Death, settle

Raw = dict[str, Any]

SPEC: Raw = {
    "model": {"base": "smollm2"},
    "agent": {"instructions": "You route requests.", "replicas": 2},
    "curation": {"schedule": "0 1 * * *"},
    "training": {
        "schedule": "0 3 * * *",
        "backend": {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}},
    },
}
PATIENT = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

BASE = names.revision("support", "smollm2", "", "Base", "")
TRAINED = [revision_of("support", f"model-{number}") for number in (1, 2)]
_REVISIONS = st.sampled_from([BASE, *TRAINED, "support-00000000"])
_TIMES = st.sampled_from(["2026-03-02T11:00:00Z", "2026-03-02T12:00:00Z", "2026-03-03T12:00:00Z"])
_REFS = st.fixed_dictionaries({"revision": _REVISIONS, "modelID": st.just("model"), "since": _TIMES})
_JOBS = st.sampled_from(["support-finetune-1", "support-finetune-2", "support-curate-d1", "gone"])
_RUNS = st.fixed_dictionaries(
    {"job": _JOBS, "state": st.sampled_from(sorted(RunState)), "since": _TIMES}, optional={"finished": _TIMES}
)
STATUSES = st.fixed_dictionaries(
    {},
    optional={
        "base": _REVISIONS,
        "active": _REFS,
        "previous": _REFS,
        "candidate": _REFS,
        "evaluation": st.fixed_dictionaries(
            {
                "revision": _REVISIONS,
                "attempt": st.integers(min_value=0, max_value=3),
                "errors": st.integers(min_value=0, max_value=3),
            },
            optional={"datasetVersion": st.just("d1"), "retryAt": _TIMES},
        ),
        "rollout": st.fixed_dictionaries(
            {"revision": _REVISIONS, "step": st.sampled_from(sorted(RolloutStep)), "since": _TIMES},
            optional={
                "percent": st.sampled_from([10, 50]),
                "template": st.just("00000000"),
                "reason": st.sampled_from(["ScaledToZero", "Pinned", "VerdictPassed"]),
            },
        ),
        "dataset": st.just({"version": "d1", "examples": 100, "digest": "digest-d1"}),
        "curation": _RUNS,
        "training": _RUNS,
        "lastRun": st.sampled_from(["finetune:1", "evaluate:1"]),
        "observedGeneration": st.integers(min_value=1, max_value=3),
    },
)
REVISION_STATUSES = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(sorted(RevisionState)),
        "result": st.sampled_from(sorted(VerdictResult)),
        "verdicts": st.just([{"suite": "holdout", "result": "Passed", "reason": "Better", "samples": 50}]),
        "attempt": st.integers(min_value=0, max_value=3),
        "incumbent": _REVISIONS,
        "asked": st.just("00000000"),
        "promotedAt": _TIMES,
        "rolledBackAt": _TIMES,
        "decidedGeneration": st.integers(min_value=1, max_value=3),
    },
)
DECISIONS = st.sampled_from(sorted(Decision))
REVISIONS = st.lists(st.tuples(REVISION_STATUSES, DECISIONS), max_size=3)
PODS = st.sampled_from(["well", "crash", "late"])
SPEC_CHANGES: st.SearchStrategy[Raw] = st.sampled_from(
    [
        {},
        {"suspend": True},
        {"rollout": {"pin": TRAINED[0]}},
        {"rollout": {"approval": "Manual", "bakeSeconds": 0}},
        {"rollout": {"shadow": {"timeoutSeconds": 60}}},
        {"model": {"base": "qwen3"}},
        {"agent": {"instructions": "Be brief.", "replicas": 0}},
        {"curation": None, "training": None},
        {"revisionHistoryLimit": 0},
    ]
)
LOSSES = st.lists(st.sampled_from(["Deployment", "ConfigMap", "Job", names.REVISION_KIND]), max_size=2)


@dataclass(frozen=True)
class Found:
    """What an operator finds that starts now."""

    status: Raw
    revisions: list[tuple[Raw, str]]  # status and decision
    pods: str
    change: Raw  # of the spec, meanwhile
    losses: list[str]  # kinds of which one object is gone


FOUND = st.builds(Found, STATUSES, REVISIONS, PODS, SPEC_CHANGES, LOSSES)


@PATIENT
@given(FOUND, DEATHS, DEATHS)
def test_any_status_converges_and_then_is_quiet(
    found: Found, first: Death | None, second: Death | None
) -> None:
    async def live_through() -> Simulation:
        world = Simulation()
        await world.serve(copy.deepcopy(SPEC))
        await world.train("model-1", job="support-finetune-1")
        await world.train("model-2", job="support-finetune-2")
        for raw, (told, decision) in zip(
            world.cluster.all(names.REVISION_KIND), found.revisions, strict=False
        ):
            world.cluster.put({**raw, "spec": {**raw["spec"], "decision": decision}, "status": told})
        if found.pods != "well":
            world.node.stick("support", {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}, restarts=5)
        if found.pods == "late":
            world.node.exceed_deadline("support")
        for kind in found.losses:
            for raw in world.cluster.all(kind)[:1]:
                world.cluster.remove(kind, raw["metadata"]["name"])
        spec = {key: value for key, value in {**SPEC, **found.change}.items() if value is not None}
        world.apply_agent(spec)
        agent = world.cluster.get(names.AGENT_KIND, "support")
        assert agent is not None
        world.cluster.put({**agent, "status": {**found.status, "conditions": []}})
        world.restart()

        await settle(world, first)
        world.node.roll_out("support")
        await settle(world, second)
        world.pass_time(2 * 3600)
        await world.settle()
        world.node.roll_out("support")
        await world.settle()
        world.cluster.writes.clear()
        world.restart()
        await world.settle()
        return world

    world = asyncio.run(live_through())

    assert world.cluster.writes == []
    assert world.status.active is not None
    assert world.status.observed_generation is not None
    assert {condition.type for condition in world.status.conditions} >= {"Ready", "Progressing", "Degraded"}


HAPPENINGS = st.lists(
    st.sampled_from(["train", "report", "judge well", "judge badly", "fail", "roll out", "ask", "wait"]),
    min_size=3,
    max_size=14,
)


@PATIENT
@given(HAPPENINGS, st.lists(DEATHS, min_size=14, max_size=14))
def test_nothing_is_trained_or_measured_twice(history: list[str], deaths: list[Death | None]) -> None:
    """A Job that has run is never created again under its name, which says what it is to find out."""

    async def live_through() -> list[str]:
        world = Simulation()
        await world.serve(copy.deepcopy(SPEC))
        trainings = 0
        for what, death in zip(history, deaths, strict=False):
            if what == "train":
                trainings += 1
                world.annotate(f"finetune:{trainings}")
            elif what == "ask":
                world.annotate(f"evaluate:{trainings}")
            _happen(world, what)
            await settle(world, death)
        return [write.name for write in world.cluster.writes if (write.verb, write.kind) == ("create", "Job")]

    created = Counter(asyncio.run(live_through()))

    assert [name for name, count in created.items() if count > 1] == []


def _happen(world: Simulation, what: str) -> None:
    """What Jobs, nodes and time do."""
    open_trainings = _open(world, names.COMPONENT_FINETUNE)
    if what == "report" and open_trainings:
        world.node.finish_job(open_trainings[0], training_report(f"model-{len(world.revisions())}"))
    elif what.startswith("judge"):
        for job in _open(world, names.COMPONENT_EVALUATE):
            world.node.finish_job(job, _verdict(2000 if what == "judge well" else -3000))
    elif what == "fail":
        for job in _open(world, names.COMPONENT_EVALUATE) + _open(world, names.COMPONENT_VALIDATE):
            world.node.finish_job(job, None, failed=("BackoffLimitExceeded", "it crashed"))
    elif what == "roll out":
        world.node.roll_out("support")
    elif what == "wait":
        world.pass_time(600)


def _open(world: Simulation, component: str) -> list[str]:
    return [name for name in world.jobs(component) if not world.is_finished(name)]


def _verdict(lower: int) -> EvaluationReport:
    suite = SuiteResult(
        suite="holdout",
        samples=50,
        baseline_bps=4000,
        candidate_bps=4000 + lower + 1000,
        delta_bps=lower + 1000,
        lower_bps=lower,
    )
    return EvaluationReport(
        run_id="run",
        outcome=Outcome.SUCCEEDED,
        reason="Measured",
        message="",
        candidate="candidate",
        incumbent="incumbent",
        suites=(suite,),
    )
