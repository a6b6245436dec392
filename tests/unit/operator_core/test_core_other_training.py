"""A training by settings that nobody asks for any more: cancelled while it runs, of no use afterwards."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.api.models import EvolvingAgentSpec, RunState
from evolving_operator.cluster.errors import Forbidden
from evolving_operator.core.builders.context import Images
from evolving_operator.core.builders.training_settings import training_settings
from evolving_operator.core.clock import Timers
from evolving_operator.core.intake import take_in_training
from evolving_operator.core.lineage import collected
from evolving_operator.core.observed import Observed, ObservedJob
from evolving_operator.core.plan import Delete, ObjectRef
from evolving_operator.core.reading import read_agent
from evolving_operator.core.situation import Situation
from evolving_operator.testing.simulation import Simulation, training_report

Spec = dict[str, Any]
JOB = "support-finetune-1"
OPENAI = {"type": "OpenAI"}
IMAGES = Images(agent="example/agent:1", trainer="example/trainer:1")
CHANGED = "what the spec asks for now differs in spec.training.backend.type."


@pytest.fixture
async def training(world: Simulation, spec: Spec) -> Situation:
    """The training Job of before has begun, and was taken note of; then the backend is changed."""
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_FINETUNE, JOB)
    await world.settle()
    raw = world.cluster.get(names.AGENT_KIND, "support")
    assert raw is not None
    before = situation_of(world, raw, ObservedJob(JOB, "uid-1", names.COMPONENT_FINETUNE, world.now))
    settings = training_settings(before.context)
    after = copy.deepcopy(raw) | {"spec": spec | {"training": spec["training"] | {"backend": OPENAI}}}
    return situation_of(world, after, replace(before.observed.jobs[JOB], training=settings))


def situation_of(world: Simulation, raw: Spec, job: ObservedJob) -> Situation:
    agent = read_agent(raw)
    assert isinstance(agent.spec, EvolvingAgentSpec)
    return Situation(Observed(agent, IMAGES, jobs={job.name: job}), agent.spec, world.now, Timers(world.now))


def with_job(situation: Situation, **changes: Any) -> Situation:
    job = replace(situation.observed.jobs[JOB], **changes)
    return replace(situation, observed=replace(situation.observed, jobs={JOB: job}))


def test_a_training_by_other_settings_is_cancelled(training: Situation) -> None:
    assert list(collected(training)) == [Delete(ObjectRef("batch/v1", "Job", "default", JOB, "uid-1"))]

    step = take_in_training(training)

    assert step is not None
    told = step.status.training
    assert told is not None
    assert (told.state, told.reason) == (RunState.SKIPPED, "Superseded")
    assert told.message == f"Job {JOB} is cancelled: {CHANGED}"


def test_what_it_reports_all_the_same_is_no_candidate(training: Situation) -> None:
    """It was faster than we are, or may not be deleted."""
    late = with_job(training, finished=training.now, succeeded=True, report=training_report("old"))

    step = take_in_training(late)

    assert step is not None
    assert (step.before, step.status.candidate) == ((), None)
    told = step.status.training
    assert told is not None
    assert (told.state, told.reason) == (RunState.SKIPPED, "SettingsChanged")
    assert told.message == f"old is not used: {CHANGED}"


def test_a_job_that_does_not_say_by_which_settings_it_trains_goes_on(training: Situation) -> None:
    """An operator made it that did not write that down."""
    unknown = with_job(training, training=None)

    assert list(collected(unknown)) == []
    assert take_in_training(unknown) is None
    late = with_job(unknown, finished=training.now, succeeded=True, report=training_report("old"))
    step = take_in_training(late)
    assert step is not None
    assert step.status.candidate is not None
    assert step.status.candidate.model_id == "old"


# --- the same, on a cluster -----------------------------------------------------------------------


async def test_other_settings_of_training_do_not_wait_for_the_run_under_way(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    await world.curate()
    world.node.start_job("support", names.COMPONENT_FINETUNE, JOB)
    await world.settle()
    assert world.condition("Trained").reason == "TrainingRunning"

    world.apply_agent(spec | {"training": spec["training"] | {"backend": OPENAI}})
    await world.settle()

    assert world.jobs(names.COMPONENT_FINETUNE) == []
    told = world.condition("Trained")
    assert (told.reason, told.message) == ("Superseded", f"Job {JOB} is cancelled: {CHANGED}")
    assert "TrainingSkipped" in world.events()

    world.annotate("finetune:1")
    await world.settle()
    (begun,) = world.jobs(names.COMPONENT_FINETUNE)
    assert begun == names.on_demand_job("support", names.COMPONENT_FINETUNE, "finetune:1")
    world.restart()
    await world.settle()
    assert world.jobs(names.COMPONENT_FINETUNE) == [begun]
    world.pass_time(60)
    world.node.finish_job(begun, training_report("smollm2-ft-1"))
    await world.settle()
    assert world.status.candidate is not None


async def test_what_is_changed_beside_the_settings_lets_a_training_go_on(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_FINETUNE, JOB)
    await world.settle()

    changes = {"schedule": "0 5 * * *", "suffix": "nightly", "hyperparameters": {"epochs": 3}}
    world.apply_agent(spec | {"training": spec["training"] | changes})
    await world.settle()

    assert world.jobs(names.COMPONENT_FINETUNE) == [JOB]
    assert world.condition("Trained").reason == "TrainingRunning"


async def test_a_run_that_may_not_be_deleted_brings_no_candidate(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_FINETUNE, JOB)
    await world.settle()
    delete = world.cluster.delete

    async def forbidden(ref: ObjectRef) -> dict[str, Any] | None:
        if ref.kind != "Job":
            return await delete(ref)
        raise Forbidden(f"{ref.name} is protected")

    world.cluster.delete = forbidden  # type: ignore[method-assign]
    world.apply_agent(spec | {"training": spec["training"] | {"backend": OPENAI}})
    await world.settle()
    assert world.condition("Degraded").message == f"Job {JOB} cannot be deleted: {JOB} is protected"
    world.pass_time(60)
    world.node.finish_job(JOB, training_report("old"))
    await world.settle()

    assert world.status.candidate is None
    told = world.condition("Trained")
    assert (told.reason, told.message) == ("SettingsChanged", f"old is not used: {CHANGED}")
