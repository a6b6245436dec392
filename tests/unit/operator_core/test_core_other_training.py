"""A training by settings that nobody asks for any more: cancelled while it runs, of no use afterwards."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.api.models import EvolvingAgentSpec, RunState
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
