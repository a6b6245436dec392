"""Whatever happens, in whatever order, and wherever the operator dies: it converges, and then is quiet."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolving_agent.contract.report import EvaluationReport, Outcome, SuiteResult, ValidationReport
from evolving_operator.api import names
from evolving_operator.api.models import Decision, RevisionState, RolloutStep, VerdictResult
from evolving_operator.cluster.errors import Conflict, Unavailable
from evolving_operator.core.situation import TRIALS
from evolving_operator.testing.fake_cluster import Crash, Fault
from evolving_operator.testing.simulation import Simulation, training_report
from support.mortal import DEATHS, Death, settle

Spec = dict[str, Any]
Happening = Callable[["Chronicle"], None]

SPEC: Spec = {
    "model": {"base": "smollm2"},
    "agent": {"instructions": "You route requests.", "replicas": 2},
    "curation": {"schedule": "0 1 * * *"},
    "training": {
        "schedule": "0 3 * * *",
        "backend": {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}},
    },
    "revisionHistoryLimit": 2,
}
RELAXED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Chronicle:
    """A world, and an account of what the operator did in it."""

    world: Simulation = field(default_factory=Simulation)
    spec: Spec = field(default_factory=lambda: copy.deepcopy(SPEC))
    trainings: int = 0
    ungated: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    brought_back: list[str] = field(default_factory=list)
    confused: list[str] = field(default_factory=list)
    _taken_back: set[str] = field(default_factory=set)
    _served: set[str] = field(default_factory=set)
    _incumbent: str | None = None

    def __post_init__(self) -> None:
        self.world.cluster.watchers.append(self._watch)
        self.world.apply_agent(self.spec)

    def _watch(self, event: str, raw: dict[str, Any]) -> None:
        if raw["kind"] == names.AGENT_KIND and event == "MODIFIED":
            self._watch_active(raw)
            self.confused += _contradictions(raw.get("status") or {})
        if raw["kind"] == "Job" and event == "ADDED" and "-evaluate-" in raw["metadata"]["name"]:
            self._watch_evaluation(raw)

    def _watch_active(self, raw: dict[str, Any]) -> None:
        status = raw.get("status") or {}
        active, rollout = status.get("active"), status.get("rollout")
        if rollout is not None and rollout["step"] == RolloutStep.ROLLED_BACK:
            self._taken_back.add(rollout["revision"])
        if active is None or active["revision"] == self._incumbent:
            return
        # Nothing came before the first one; what has served before may serve again (a rollback).
        is_new = self._served and active["revision"] not in self._served
        if is_new and not self._is_entitled(active["revision"], raw):
            self.ungated.append(active["revision"])
        if active["revision"] in self._taken_back and not self._is_asked_for(active["revision"], raw):
            self.brought_back.append(active["revision"])
        self._taken_back.discard(active["revision"])
        self._served.add(active["revision"])
        self._incumbent = active["revision"]

    def _is_entitled(self, name: str, agent: dict[str, Any]) -> bool:
        revision = self.world.cluster.get(names.REVISION_KIND, name)
        assert revision is not None
        status = revision.get("status") or {}
        passed = (status.get("result"), status.get("incumbent")) == (VerdictResult.PASSED, self._incumbent)
        approved = revision["spec"].get("decision") == Decision.APPROVED
        pinned = agent["spec"].get("rollout", {}).get("pin") == name
        return passed or approved or pinned or self._replaces_what_never_served(revision)

    def _is_asked_for(self, name: str, agent: dict[str, Any]) -> bool:
        """By a person: what was taken back stays quarantined else. A base model is asked for by the spec."""
        revision = self.world.cluster.get(names.REVISION_KIND, name)
        assert revision is not None
        approved = revision["spec"].get("decision") == Decision.APPROVED
        pinned = agent["spec"].get("rollout", {}).get("pin") == name
        return approved or pinned or "training" not in revision["spec"]

    def _replaces_what_never_served(self, revision: dict[str, Any]) -> bool:
        incumbent = self._incumbent and self.world.cluster.get(names.REVISION_KIND, self._incumbent)
        if not incumbent or "training" in revision["spec"]:
            return False
        return "promotedAt" not in (incumbent.get("status") or {})

    def _watch_evaluation(self, job: dict[str, Any]) -> None:
        revision = self.world.cluster.get(
            names.REVISION_KIND, job["metadata"]["labels"][names.LABEL_REVISION]
        )
        status = (revision or {}).get("status") or {}
        attempt = status.get("attempt")
        if revision is None or attempt is None:
            return
        judged = names.evaluate_job(revision["metadata"]["name"], str(attempt) if attempt else "")
        if judged == job["metadata"]["name"]:
            self.repeated.append(judged)

    # --- what happens ---

    def unfinished(self, component: str) -> list[str]:
        return [name for name in self.world.jobs(component) if not self.world.is_finished(name)]


def _contradictions(status: dict[str, Any]) -> Iterator[str]:
    """What no status may say, whatever has happened."""
    at = {key: (status.get(key) or {}).get("revision") for key in ("active", "previous", "candidate")}
    rollout, promotion = status.get("rollout") or {}, status.get("promotion") or {}
    if at["active"] is not None and at["active"] in (at["previous"], at["candidate"]):
        yield f"it is served, and to be proven or returned to: {at}"
    if rollout.get("step") in TRIALS and rollout["revision"] != at["candidate"]:
        yield f"a trial of no candidate: {rollout}, {at}"
    if promotion and (promotion["revision"] != at["active"] or not rollout):
        yield f"the promotion of something else: {promotion}, {at}"


def _edit(**changes: Any) -> Happening:
    def happen(chronicle: Chronicle) -> None:
        chronicle.spec = {**chronicle.spec, **changes}
        chronicle.world.apply_agent(copy.deepcopy(chronicle.spec))

    return happen


def _train(chronicle: Chronicle) -> None:
    chronicle.trainings += 1
    job = f"support-finetune-{chronicle.trainings:03d}"
    chronicle.world.node.start_job("support", names.COMPONENT_FINETUNE, job)
    chronicle.world.node.finish_job(job, training_report(f"model-{chronicle.trainings % 3}"))


def _evaluate(lower: int, delta: int) -> Happening:
    def happen(chronicle: Chronicle) -> None:
        for job in chronicle.unfinished(names.COMPONENT_EVALUATE):
            suite = SuiteResult(
                suite="holdout",
                samples=50,
                baseline_bps=4000,
                candidate_bps=4000 + delta,
                delta_bps=delta,
                lower_bps=lower,
            )
            report = EvaluationReport(
                run_id=job,
                outcome=Outcome.SUCCEEDED,
                reason="Measured",
                message="",
                candidate="c",
                incumbent="i",
                suites=(suite,),
            )
            chronicle.world.node.finish_job(job, report)

    return happen


def _fail_jobs(chronicle: Chronicle) -> None:
    for component in (names.COMPONENT_EVALUATE, names.COMPONENT_VALIDATE):
        for job in chronicle.unfinished(component):
            chronicle.world.node.finish_job(job, None, failed=("BackoffLimitExceeded", "it crashed"))


def _validate(score: int) -> Happening:
    def happen(chronicle: Chronicle) -> None:
        for job in chronicle.unfinished(names.COMPONENT_VALIDATE):
            report = ValidationReport(
                run_id=job,
                outcome=Outcome.SUCCEEDED,
                reason="Measured",
                message="",
                revision="r",
                suites=(SuiteResult(suite="holdout", samples=50, candidate_bps=score),),
            )
            chronicle.world.node.finish_job(job, report)

    return happen


def _roll_out(chronicle: Chronicle) -> None:
    if chronicle.world.cluster.get("Deployment", "support"):
        chronicle.world.node.roll_out("support")


def _stick(chronicle: Chronicle) -> None:
    if chronicle.world.cluster.get("Deployment", "support"):
        waiting = {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}
        chronicle.world.node.stick("support", waiting, restarts=3)


def _pin_newest(chronicle: Chronicle) -> None:
    revisions = chronicle.world.revisions()
    _edit(rollout={"pin": revisions[-1] if revisions else "support-00000000"})(chronicle)


def _pin_oldest(chronicle: Chronicle) -> None:
    found = chronicle.world.cluster.all(names.REVISION_KIND)
    found.sort(key=lambda raw: int(raw["metadata"]["uid"].rpartition("-")[2]))
    if found:
        _edit(rollout={"pin": found[0]["metadata"]["name"]})(chronicle)


def _say(decision: str) -> Happening:
    def happen(chronicle: Chronicle) -> None:
        for revision in chronicle.world.revisions():
            if chronicle.world.revision_status(revision).state not in (RevisionState.ACTIVE, None):
                chronicle.world.decide(revision, decision)
                return

    return happen


def _edit_service(chronicle: Chronicle) -> None:
    service = chronicle.world.cluster.get("Service", "support")
    if service is not None:
        service["spec"]["selector"] = {"app": "other"}
        chronicle.world.cluster.put(service)


def _lose_child(kind: str) -> Happening:
    def happen(chronicle: Chronicle) -> None:
        for raw in chronicle.world.cluster.all(kind):
            chronicle.world.cluster.remove(kind, raw["metadata"]["name"])
            return

    return happen


HAPPENINGS: dict[str, Happening] = {
    "train": _train,
    "evaluate: better": _evaluate(2000, 3000),
    "evaluate: worse": _evaluate(-3000, -2000),
    "evaluate: unclear": _evaluate(-500, 300),
    "jobs fail": _fail_jobs,
    "validate: well": _validate(7000),
    "validate: badly": _validate(100),
    "roll out": _roll_out,
    "crash loop": _stick,
    "pin": _pin_newest,
    "pin the first": _pin_oldest,
    "unpin": _edit(rollout={"bakeSeconds": 60}),
    "manual": _edit(rollout={"approval": "Manual"}),
    "shadow": _edit(rollout={"shadow": {"timeoutSeconds": 120}}),
    "canary": _edit(rollout={"canary": {"steps": [{"percent": 20, "pauseSeconds": 60}, {"percent": 60}]}}),
    "no training": _edit(training=None),
    "surer": _edit(evaluation={"suites": [{"name": "holdout", "confidencePercent": 99}]}),
    "stricter": _edit(evaluation={"suites": [{"name": "holdout", "minDeltaBps": 2500}]}),
    "other suites": _edit(evaluation={"suites": [{"name": "holdout", "minSamples": 20}]}),
    "foreign edit": _edit_service,
    "approve": _say("Approved"),
    "reject": _say("Rejected"),
    "suspend": _edit(suspend=True),
    "resume": _edit(suspend=False),
    "other base": _edit(model={"base": "qwen3"}),
    "first base": _edit(model={"base": "smollm2"}),
    "instructions": _edit(agent={"instructions": "Be brief.", "replicas": 1}),
    "no replicas": _edit(agent={"instructions": "Be brief.", "replicas": 0}),
    "run": lambda chronicle: chronicle.world.annotate(f"finetune:{chronicle.trainings}"),
    "run evaluation": lambda chronicle: chronicle.world.annotate(f"evaluate:{chronicle.trainings}"),
    "clock set back": lambda chronicle: chronicle.world.pass_time(-7200),
    "a minute": lambda chronicle: chronicle.world.pass_time(60),
    "an hour": lambda chronicle: chronicle.world.pass_time(3600),
    "Deployment lost": _lose_child("Deployment"),
    "ConfigMap lost": _lose_child("ConfigMap"),
    "Job lost": _lose_child("Job"),
    "revision lost": _lose_child(names.REVISION_KIND),
}


# What the loop consists of happens more often than what disturbs it.
_USUAL = [what for what in HAPPENINGS if what.startswith(("train", "evaluate", "validate", "roll", "a "))]
_ANY = st.sampled_from(sorted(HAPPENINGS)) | st.sampled_from(_USUAL)
_LOOP = ["roll out", "train", "evaluate: better", "roll out", "validate: well", "an hour"]
_BEGINNINGS: list[list[str]] = [
    [],
    ["roll out"],
    ["roll out", "train"],
    ["roll out", "other base"],
    _LOOP[:3],  # on its way
    _LOOP,
]


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, Death | None]]:
    """What happens, and for each happening where the operator dies while it answers to it, if it does."""
    happenings = draw(st.sampled_from(_BEGINNINGS)) + draw(st.lists(_ANY, min_size=1, max_size=12))
    return [(what, draw(DEATHS)) for what in happenings]


@RELAXED
@given(histories())
def test_it_converges_then_is_quiet_and_promotes_nothing_ungated(
    history: list[tuple[str, Death | None]],
) -> None:
    async def live_through() -> Chronicle:
        chronicle = Chronicle()
        for what, death in history:
            HAPPENINGS[what](chronicle)
            await settle(chronicle.world, death)
        await chronicle.world.settle()
        chronicle.world.cluster.writes.clear()
        chronicle.world.restart()
        await chronicle.world.settle()
        return chronicle

    chronicle = asyncio.run(live_through())

    assert chronicle.world.cluster.writes == []
    assert chronicle.ungated == []
    assert chronicle.brought_back == []
    assert chronicle.confused == []
    assert chronicle.repeated == []
    assert len(chronicle.unfinished(names.COMPONENT_EVALUATE)) <= 1


@RELAXED
@given(st.sampled_from(_BEGINNINGS), st.lists(_ANY, min_size=1, max_size=12), st.randoms())
def test_what_a_person_approves_is_served_once_nothing_keeps_it(
    beginning: list[str], history: list[str], chance: random.Random
) -> None:
    async def served() -> bool:
        chronicle = Chronicle()
        for what in [*beginning, *history, "resume", "unpin", "instructions"]:
            HAPPENINGS[what](chronicle)
            await chronicle.world.settle()
        for _ in range(_ROUNDS_TO_REST):
            await _come_to_rest(chronicle)
        world = chronicle.world
        options = [name for name in world.revisions() if _is_at_rest(chronicle, name)]
        if not options:
            return True
        chosen = chance.choice(options)
        for decision in ("Auto", "Approved"):
            world.decide(chosen, decision)
            await world.settle()
        for _ in range(_ROUNDS_TO_REST):
            if world.status.active is not None and world.status.active.revision == chosen:
                return True
            await _come_to_rest(chronicle)
        return False

    assert asyncio.run(served())


_ROUNDS_TO_REST = 12


async def _come_to_rest(chronicle: Chronicle) -> None:
    """Pods come up, Jobs end, nothing is better than what is served, and time passes."""
    for what in ("roll out", "evaluate: worse", "validate: well", "roll out", "a minute"):
        HAPPENINGS[what](chronicle)
        await chronicle.world.settle()
    for component in (names.COMPONENT_CURATE, names.COMPONENT_FINETUNE):
        for job in chronicle.unfinished(component):
            chronicle.world.node.finish_job(job, None, failed=("BackoffLimitExceeded", "it crashed"))
    await chronicle.world.settle()


def _is_at_rest(chronicle: Chronicle, name: str) -> bool:
    world = chronicle.world
    raw = world.cluster.get(names.REVISION_KIND, name)
    is_of_the_base = raw is not None and raw["spec"]["base"] == chronicle.spec["model"]["base"]
    state = world.revision_status(name).state
    return is_of_the_base and state not in (None, RevisionState.ACTIVE)


@RELAXED
@given(st.lists(_ANY, min_size=1, max_size=10))
def test_the_active_model_is_always_one_of_the_kept_configurations(history: list[str]) -> None:
    """The ConfigMap always holds the entry that the Deployment's pods are stamped with."""

    async def live_through() -> None:
        chronicle = Chronicle()
        await chronicle.world.settle()
        for what in history:
            HAPPENINGS[what](chronicle)
            await chronicle.world.settle()
            config_map = chronicle.world.cluster.get("ConfigMap", "support-config")
            assert config_map is not None
            assert chronicle.world.stamp() in config_map["data"]["agent_config.json"]

    asyncio.run(live_through())


Scenario = Callable[[Simulation], Awaitable[None]]


async def _whole_loop(world: Simulation) -> None:
    """Serve, learn, promote, take back, lose the status, pin."""
    await world.serve(copy.deepcopy(SPEC))
    await world.curate()
    revision = await world.promote("model-1", job="support-finetune-001")
    second = await world.train("model-2", job="support-finetune-002")
    await world.evaluate(second, lower=1000)
    world.node.stick("support")
    world.pass_time(700)
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    assert world.revision_status(second).state is RevisionState.ROLLED_BACK
    lost = world.cluster.get(names.AGENT_KIND, "support")
    assert lost is not None
    world.cluster.put({**lost, "status": {}})
    await world.settle()
    assert world.status.active is not None
    assert world.status.active.revision == revision
    base = names.revision("support", "smollm2", "", "Base", "")
    world.apply_agent({**SPEC, "rollout": {"pin": base}})
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    assert world.revision_status(revision).state is RevisionState.PREVIOUS


def _end_state(world: Simulation) -> dict[str, Any]:
    """Everything but the numbers that count writes."""
    state = {}
    for kind in (names.AGENT_KIND, names.REVISION_KIND, "Deployment", "ConfigMap", "CronJob", "Job", "Event"):
        for raw in world.cluster.all(kind):
            kept = {key: value for key, value in raw.items() if key != "metadata"}
            kept["annotations"] = raw["metadata"].get("annotations")
            kept.pop("regarding", None)
            name = raw["metadata"]["name"] if kind != "Event" else str(sorted(kept.items(), key=str))
            state[f"{kind}/{name}"] = kept
    return state


async def _undisturbed() -> tuple[dict[str, Any], int]:
    world = Simulation()
    await _whole_loop(world)
    return _end_state(world), len(world.cluster.writes)


class _Mortal(Simulation):
    """A simulation in which the operator starts again wherever it dies or is refused."""

    async def settle(self) -> float | None:
        while True:
            try:
                return await super().settle()
            except Crash:
                self.restart()
            except (Unavailable, Conflict):
                continue


END_STATE, WRITES = asyncio.run(_undisturbed())


@settings(max_examples=40, deadline=None)
@given(
    at=st.integers(min_value=0, max_value=WRITES - 1),
    when=st.sampled_from(["before", "after"]),
    error=st.sampled_from([Crash, lambda: Unavailable("timeout"), lambda: Conflict("stale")]),
)
def test_wherever_it_dies_the_end_is_the_same(at: int, when: Any, error: Callable[[], Any]) -> None:
    async def disturbed() -> dict[str, Any]:
        world = _Mortal()
        world.cluster.faults.append(Fault(at=at, error=error(), when=when))
        await _whole_loop(world)
        assert world.cluster.faults == []
        return _end_state(world)

    assert asyncio.run(disturbed()) == END_STATE
