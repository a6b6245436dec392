"""A change of the spec in the middle of anything ends in the right state; what it supersedes is cancelled."""

from __future__ import annotations

import copy
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from evolving_agent.contract.report import EvaluationReport, Outcome, SuiteResult, ValidationReport
from evolving_operator.api import names
from evolving_operator.testing.simulation import Simulation, revision_of, training_report

Spec = dict[str, Any]
NEW, BASE, OTHER = "smollm2-ft-1", "smollm2", "qwen3"
REVISION = revision_of("support", NEW)
BASE_REVISION = names.revision("support", BASE, "", "Base", "")
ROUNDS = 7


# --- in the middle of what ------------------------------------------------------------------------


async def training(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    await world.curate()
    world.annotate("finetune:1")
    await world.settle()
    assert len(unfinished(world)) == 1


async def evaluation(world: Simulation, spec: Spec) -> None:
    await training(world, spec)
    world.pass_time(60)
    world.node.finish_job(unfinished(world)[0], training_report(NEW))
    await world.settle()
    assert unfinished(world) == [names.evaluate_job(REVISION, "")]


async def approval(world: Simulation, spec: Spec) -> None:
    spec["rollout"]["approval"] = "Manual"
    await evaluation(world, spec)
    await world.evaluate(REVISION, lower=2500)
    assert world.condition("Promoted").reason == "AwaitsApproval"


async def shadow(world: Simulation, spec: Spec) -> None:
    spec["rollout"]["shadow"] = {"percent": 20, "timeoutSeconds": 300}
    await evaluation(world, spec)
    await world.evaluate(REVISION, lower=2500)
    assert step(world) == "Shadow"


async def canary(world: Simulation, spec: Spec) -> None:
    steps = [{"percent": 10, "pauseSeconds": 100}, {"percent": 50, "pauseSeconds": 100}]
    spec["rollout"]["canary"] = {"steps": steps}
    await evaluation(world, spec)
    await world.evaluate(REVISION, lower=2500)
    assert step(world) == "Canary"


async def restart(world: Simulation, spec: Spec) -> None:
    await evaluation(world, spec)
    await world.evaluate(REVISION, lower=2500)
    assert step(world) == "Restart"


async def bake(world: Simulation, spec: Spec) -> None:
    await restart(world, spec)
    world.node.roll_out("support")
    await world.settle()
    assert step(world) == "Bake"
    assert unfinished(world) == [names.validate_job(REVISION)]


async def rollback(world: Simulation, spec: Spec) -> None:
    await bake(world, spec)
    await world.validate(REVISION, score=100)
    assert step(world) == "RolledBack"


STATES = {
    state.__name__: state
    for state in (training, evaluation, approval, shadow, canary, restart, bake, rollback)
}
STAYS_BASE = {"approval", "rollback"}
UNPROMOTED = {"training", "evaluation", "approval", "shadow", "canary", "rollback"}


# --- what is changed, and what is served in the end -----------------------------------------------


def edit(**changes: Any) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        for path, value in changes.items():
            *parents, leaf = path.split("__")
            part = spec
            for parent in parents:
                part = part.setdefault(parent, {})
            if value is None:
                part.pop(leaf, None)
            else:
                part[leaf] = value

    return change


def served_after(change: str, state: str) -> str:
    """The model that users get once everything has come to its end."""
    stays_base = state in STAYS_BASE
    match change:
        case "pin base":
            stays_base = True
        case "pin candidate":
            stays_base = False  # a person's word, even after a rollback
        case "other base":
            return BASE if state == "approval" else OTHER  # the new base asks for approval too
        case "no training":
            stays_base |= state == "training"
        case "suspend" | "manual":
            stays_base |= state in UNPROMOTED
        case "no replicas":
            stays_base |= state in ("shadow", "canary")  # nobody is tried where nobody serves
        case "automatic":
            stays_base &= state != "approval"
    return BASE if stays_base else NEW


CHANGES: dict[str, Callable[[Spec], None]] = {
    "instructions": edit(agent__instructions="Be brief."),
    "image": edit(agent__image="example/agent:2"),
    "no replicas": edit(agent__replicas=0),
    "more replicas": edit(agent__replicas=5),
    "suspend": edit(suspend=True),
    "no training": edit(training=None),
    "no curation": edit(curation=None),
    "other base": edit(model__base=OTHER),
    "pin base": edit(rollout__pin=BASE_REVISION),
    "pin candidate": edit(rollout__pin=REVISION),
    "manual": edit(rollout__approval="Manual"),
    "automatic": edit(rollout__approval="Auto"),
    "suites": edit(
        evaluation__suites=[{"name": "routing", "configMapRef": {"name": "cases", "key": "cases.jsonl"}}]
    ),
    "no shadow": edit(rollout__shadow=None),
    "no canary": edit(rollout__canary=None),
    "other canary": edit(rollout__canary={"steps": [{"percent": 30, "pauseSeconds": 60}]}),
    "longer bake": edit(rollout__bakeSeconds=1200),
}

# (state, change) → components whose Jobs are cancelled at once
CANCELLED = {
    ("training", "no training"): names.COMPONENT_FINETUNE,
    ("training", "other base"): names.COMPONENT_FINETUNE,
    ("evaluation", "instructions"): names.COMPONENT_EVALUATE,
    ("evaluation", "other base"): names.COMPONENT_EVALUATE,
    ("evaluation", "suites"): names.COMPONENT_EVALUATE,
    ("evaluation", "pin base"): "",  # goes on: it is known what to think of the candidate once the pin goes
    ("evaluation", "pin candidate"): names.COMPONENT_EVALUATE,
    ("bake", "instructions"): names.COMPONENT_VALIDATE,
    ("bake", "suites"): names.COMPONENT_VALIDATE,
    ("bake", "pin base"): names.COMPONENT_VALIDATE,
    ("bake", "pin candidate"): names.COMPONENT_VALIDATE,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("state", STATES)
async def test_a_change_in_the_middle_ends_right(
    world: Simulation, spec: Spec, state: str, change: str
) -> None:
    spec = copy.deepcopy(spec) | {"rollout": {"bakeSeconds": 600}}
    reach: Callable[[Simulation, Spec], Awaitable[None]] = STATES[state]
    await reach(world, spec)
    before = {name: uid_of(world, name) for name in unfinished(world)}

    CHANGES[change](spec)
    world.apply_agent(copy.deepcopy(spec))
    await world.settle()

    cancelled = CANCELLED.get((state, change), "")
    gone = {name for name in before if uid_of(world, name) != before[name]}
    assert {component_of(name) for name in gone} == ({cancelled} if cancelled else set())

    await complete(world, spec)

    assert world.status.active is not None
    assert world.status.active.model_id == served_after(change, state)
    assert served_configuration(world)["instructions"] == spec["agent"]["instructions"]
    assert served_configuration(world)["model"]["id"] == world.status.active.model_id
    assert world.node.deployment("support")["spec"]["replicas"] == spec["agent"]["replicas"]
    assert traffic(world) == {}
    assert unfinished(world) == []
    assert step(world) in ("Done", "RolledBack", "")
    world.cluster.writes.clear()
    world.restart()
    await world.settle()
    assert world.cluster.writes == []


@pytest.mark.parametrize("state", STATES)
async def test_a_deletion_in_the_middle_leaves_the_volume_only(
    world: Simulation, spec: Spec, state: str
) -> None:
    await STATES[state](world, copy.deepcopy(spec) | {"rollout": {}})
    world.cluster.writes.clear()

    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()

    assert world.cluster.writes == []
    left = {
        raw["kind"]
        for kind in ("Deployment", "Service", "ConfigMap", "CronJob", "Job", names.REVISION_KIND)
        for raw in world.cluster.all(kind)
        if raw["metadata"].get("ownerReferences")
    }
    assert left == set()
    assert world.cluster.get("PersistentVolumeClaim", "support-store") is not None


# --- how it goes on -------------------------------------------------------------------------------


async def complete(world: Simulation, spec: Spec) -> None:
    """Whatever was begun comes to its end: Jobs succeed, pods become ready, time passes."""
    for _ in range(ROUNDS):
        await world.settle()
        world.pass_time(60)
        for job in unfinished(world):
            finish(world, spec, job)
        await world.settle()
        for _ in range(2):  # what waits for the pods follows them at once
            world.node.roll_out("support")
            await world.settle()
        world.pass_time(700)
    await world.settle()


def finish(world: Simulation, spec: Spec, job: str) -> None:
    suites = spec.get("evaluation", {}).get("suites") or [{"name": "holdout"}]
    numbers = tuple(
        SuiteResult(
            suite=suite["name"],
            samples=50,
            baseline_bps=4000,
            candidate_bps=8000,
            delta_bps=4000,
            lower_bps=2500,
        )
        for suite in suites
    )
    common = {"run_id": job, "outcome": Outcome.SUCCEEDED, "reason": "Measured", "message": ""}
    match component_of(job):
        case names.COMPONENT_FINETUNE:
            world.node.finish_job(job, training_report(NEW))
        case names.COMPONENT_EVALUATE:
            report = EvaluationReport(**common, candidate="c", incumbent="i", suites=numbers)
            world.node.finish_job(job, report)
        case names.COMPONENT_VALIDATE:
            world.node.finish_job(job, ValidationReport(**common, revision="r", suites=numbers))


def unfinished(world: Simulation) -> list[str]:
    jobs = [raw["metadata"]["name"] for raw in world.cluster.all("Job")]
    return [name for name in jobs if not world.is_finished(name)]


def component_of(job: str) -> str:
    return job.removeprefix("support-").partition("-")[0]


def uid_of(world: Simulation, job: str) -> str:
    found = world.cluster.get("Job", job)
    return "" if found is None else str(found["metadata"]["uid"])


def config_file(world: Simulation) -> dict[str, Any]:
    raw = world.cluster.get("ConfigMap", "support-config")
    assert raw is not None
    found: dict[str, Any] = json.loads(raw["data"]["agent_config.json"])
    return found


def served_configuration(world: Simulation) -> dict[str, Any]:
    found: dict[str, Any] = config_file(world)["configs"][world.stamp()]
    return found


def traffic(world: Simulation) -> dict[str, Any]:
    found: dict[str, Any] = config_file(world)["traffic"]
    return found


def step(world: Simulation) -> str:
    return "" if world.status.rollout is None else str(world.status.rollout.step)
