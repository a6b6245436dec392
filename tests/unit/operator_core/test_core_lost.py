"""What gets lost on the way, and is made good: reports, starts that nobody saw, objects that are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evolving_agent.contract.report import CurationReport, DatasetRef, Outcome, TrainingReport
from evolving_operator.api import names
from evolving_operator.api.models import RevisionState, RolloutStep
from evolving_operator.cluster.errors import Forbidden
from evolving_operator.testing.fake_cluster import Crash, Fault
from evolving_operator.testing.simulation import Simulation, revision_of, training_report
from support.orphans import orphan
from support.refusing import refused

Spec = dict[str, Any]
MODEL = "smollm2-ft-1"
REVISION = revision_of("support", MODEL)


def unfinished(world: Simulation, component: str) -> list[str]:
    return [name for name in world.jobs(component) if not world.is_finished(name)]


async def test_a_training_whose_report_was_lost_reports_again(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_FINETUNE, "support-finetune-1")
    await world.settle()
    world.node.finish_job("support-finetune-1", None)  # it succeeded, and its pod is gone
    world.pass_time(31)
    await world.settle()

    assert world.condition("Trained").reason == "TrainingRunning"
    (again,) = unfinished(world, names.COMPONENT_FINETUNE)
    raw = world.cluster.get("Job", again)
    assert raw is not None
    assert raw["metadata"]["annotations"][names.ANNOTATION_RUN] == "finetune:report-of-support-finetune-1"
    assert "TrainingFailed" in world.events()

    world.pass_time(60)
    world.node.finish_job(again, training_report(MODEL))
    await world.settle()

    assert world.status.candidate is not None
    assert world.status.candidate.revision == REVISION


async def test_what_a_jobs_first_pod_failed_at_is_not_the_jobs_word(world: Simulation, spec: Spec) -> None:
    """It was tried again, and succeeded: its second pod's report is on its way, or lost."""
    job, failed = "support-finetune-1", {"outcome": Outcome.FAILED, "reason": "ProviderUnavailable"}
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_FINETUNE, job)
    await world.settle()
    world.node.finish_job(job, training_report(MODEL).model_copy(update=failed))
    await world.settle()
    assert world.condition("Trained").reason == "TrainingRunning"

    world.pass_time(31)
    await world.settle()
    (again,) = unfinished(world, names.COMPONENT_FINETUNE)
    raw = world.cluster.get("Job", again)
    assert raw is not None
    assert raw["metadata"]["annotations"][names.ANNOTATION_RUN] == f"finetune:report-of-{job}"

    world.pass_time(60)
    world.node.finish_job(again, training_report(MODEL))
    await world.settle()
    assert world.status.candidate is not None


@pytest.mark.parametrize("component", [names.COMPONENT_CURATE, names.COMPONENT_FINETUNE])
async def test_a_report_is_asked_for_again_by_what_the_spec_says_now(
    world: Simulation, spec: Spec, component: str
) -> None:
    await world.serve(spec)
    name = f"support-{component}-1"
    world.node.start_job("support", component, name)
    await world.settle()
    world.node.finish_job(name, None)
    world.pass_time(31)
    changed = spec["curation"] | {"thresholds": {"minScorePercent": 95}}
    world.apply_agent(spec | {"curation": changed})
    with refused(world, "ConfigMap"):
        await world.settle()
        assert unfinished(world, component) == []
        assert world.condition("Degraded").reason == "Forbidden"

    world.pass_time(11)
    world.cluster.writes.clear()
    await world.settle()

    (again,) = unfinished(world, component)
    raw = world.cluster.get("Job", again)
    assert raw is not None
    assert raw["metadata"]["annotations"][names.ANNOTATION_RUN] == f"{component}:report-of-{name}"
    written = [(write.kind, write.name) for write in world.cluster.writes]
    assert written.index(("ConfigMap", "support-config")) < written.index(("Job", again))


async def test_a_lost_report_does_not_hold_later_runs_up_for_ever(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_CURATE, "support-curate-1")
    world.node.finish_job("support-curate-1", None)
    changed = spec["curation"] | {"thresholds": {"minScorePercent": 95}}
    world.apply_agent(spec | {"curation": changed})
    with refused(world, "ConfigMap"):
        await world.settle()
        await world.curate("d2")
        for _ in range(2):
            world.pass_time(3600)
            await world.settle()

    assert world.status.dataset is not None
    assert world.status.dataset.version == "d2"
    assert unfinished(world, names.COMPONENT_CURATE) == []


async def test_a_report_of_other_settings_is_not_asked_for_again(world: Simulation, spec: Spec) -> None:
    """Another run would find nothing done, and train."""
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_FINETUNE, "support-finetune-1")
    await world.settle()
    world.node.finish_job("support-finetune-1", None)
    await world.settle()
    world.apply_agent(spec | {"training": spec["training"] | {"hyperparameters": {"epochs": 9}}})
    await world.settle()
    world.pass_time(31)
    await world.settle()

    assert unfinished(world, names.COMPONENT_FINETUNE) == []
    assert "ReportLost" in world.condition("Trained").message


async def test_one_report_after_the_other_is_not_chased_for_ever(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_CURATE, "support-curate-1")
    world.node.finish_job("support-curate-1", None)
    world.pass_time(31)
    await world.settle()
    (again,) = unfinished(world, names.COMPONENT_CURATE)
    world.pass_time(60)
    world.node.finish_job(again, None)
    world.pass_time(31)
    await world.settle()

    assert unfinished(world, names.COMPONENT_CURATE) == []
    assert world.condition("DatasetReady").reason == "CurationFailed"
    assert "ReportLost" in world.condition("DatasetReady").message


async def test_a_start_that_nobody_saw_is_told_with_the_end(world: Simulation, spec: Spec) -> None:
    """Else a run that began and ended while the operator was away would leave other Events than any other."""
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_CURATE, "support-curate-1")
    report = CurationReport(
        run_id="support-curate-1",
        outcome=Outcome.SUCCEEDED,
        reason="DatasetWritten",
        message="100 examples",
        dataset=DatasetRef(version="d1", digest="x", examples=100),
    )
    world.node.finish_job("support-curate-1", report)

    await world.settle()

    assert world.events().count("CurationStarted") == 1
    assert world.events().count("CurationSucceeded") == 1


@pytest.mark.parametrize("kind", [names.REVISION_KIND, "Job"])
async def test_a_step_is_not_taken_without_what_it_needs(world: Simulation, spec: Spec, kind: str) -> None:
    """A quota that is full keeps neither a trained model nor a run on demand from coming, later."""
    await world.serve(spec)
    create, is_full = world.cluster.create, True

    async def limited(manifest: Spec) -> Spec:
        if is_full and manifest["kind"] == kind:
            raise Forbidden("exceeded quota: objects")
        return await create(manifest)

    world.cluster.create = limited  # type: ignore[method-assign]
    if kind == "Job":
        world.annotate("finetune:1")
    else:
        world.node.start_job("support", names.COMPONENT_FINETUNE, "support-finetune-1")
        world.node.finish_job("support-finetune-1", training_report(MODEL))
    delay = await world.settle()

    assert delay == 10
    assert "exceeded quota" in world.condition("Degraded").message
    assert world.status.candidate is None
    assert world.status.last_run is None

    is_full = False
    world.pass_time(60)
    await world.settle()
    if kind == "Job":
        assert world.status.last_run == "finetune:1"
        assert world.jobs(names.COMPONENT_FINETUNE) == [
            names.on_demand_job("support", names.COMPONENT_FINETUNE, "finetune:1")
        ]
    else:
        assert world.status.candidate is not None
        assert world.status.candidate.revision == REVISION
        assert REVISION in world.revisions()
    assert world.condition("Degraded").status == "False"


async def test_an_event_that_is_refused_keeps_nothing_from_happening(world: Simulation, spec: Spec) -> None:
    create = world.cluster.create

    async def silent(manifest: Spec) -> Spec:
        if manifest["kind"] == "Event":
            raise Forbidden("no Events here")
        return await create(manifest)

    world.cluster.create = silent  # type: ignore[method-assign]
    await world.serve(spec)

    assert world.condition("Ready").status == "True"
    assert world.condition("Degraded").status == "False"
    world.cluster.writes.clear()
    assert await world.settle() is not None
    assert world.cluster.writes == []


async def test_a_clock_that_is_set_back_hides_no_run(world: Simulation, spec: Spec) -> None:
    """Times come from the control plane, whose clock may have been fast when the last run ended."""
    await world.serve(spec)
    await world.curate("d1")
    await world.train("model-1")
    world.pass_time(-7200)

    await world.curate("d2")
    await world.train("model-2", job="support-finetune-2")

    assert world.status.dataset is not None
    assert world.status.dataset.version == "d2"
    assert world.status.candidate is not None
    assert world.status.candidate.revision == revision_of("support", "model-2")

    # and what was taken in before is not taken in again, once the clock is where it was
    world.pass_time(7200)
    world.restart()
    await world.settle()
    assert world.status.dataset.version == "d2"
    assert world.condition("Trained").message == "model-2 was trained"
    await world.train("model-3", job="support-finetune-3")
    assert world.status.candidate.revision == revision_of("support", "model-3")


async def test_a_run_that_was_deleted_does_not_bring_an_older_one_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    await world.curate("d1")
    world.node.start_job("support", names.COMPONENT_CURATE, "support-a-curate")  # sorts before the last one
    await world.settle()

    world.cluster.remove("Job", "support-a-curate")
    world.pass_time(60)
    await world.settle()

    assert world.condition("DatasetReady").reason == "CurationFailed"
    assert world.events().count("CurationSucceeded") == 1


# --- the agent's own status, and agents of the same name -------------------------------------------

BASE = names.revision("support", "smollm2", "", "Base", "")
CRASH = {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}


def lose_status(world: Simulation) -> None:
    """As a backup does that keeps specs only."""
    raw = world.cluster.get(names.AGENT_KIND, "support")
    assert raw is not None
    world.cluster.put(raw | {"status": {}})
    world.restart()


async def test_a_restart_goes_back_though_the_status_was_lost_meanwhile(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)

    lose_status(world)
    await world.settle()
    assert world.status.active is not None
    assert world.status.active.revision == revision
    world.node.stick("support", CRASH, restarts=5)
    await world.settle()

    assert world.status.active.revision == BASE
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK


async def test_a_candidate_outlives_the_status_and_is_evaluated_again(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=300, delta=4000, samples=3)
    assert world.condition("Promoted").reason == "Held"

    lose_status(world)
    await world.settle()

    assert world.status.candidate is not None
    assert world.status.candidate.revision == revision
    assert world.jobs(names.COMPONENT_EVALUATE) == [names.evaluate_job(revision, "1")]
    await world.evaluate(revision, lower=2500)
    assert world.status.active is not None
    assert world.status.active.revision == revision


async def test_a_base_model_that_was_changed_with_the_loss_is_a_candidate(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)

    lose_status(world)
    world.apply_agent(spec | {"model": {"base": "qwen3"}})
    await world.settle()

    assert world.status.active is not None
    assert world.status.active.revision == BASE
    assert world.status.candidate is not None
    assert world.status.candidate.model_id == "qwen3"


async def test_a_new_agent_is_not_the_one_that_had_its_name(world: Simulation, spec: Spec) -> None:
    """`kubectl replace --force`: the garbage collector comes later than the next agent."""
    await world.serve(spec)
    revision = await world.promote()
    left = world.cluster.all(names.REVISION_KIND)
    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    for raw in left:
        world.cluster.put(raw)

    world.apply_agent(spec)
    await world.settle()

    assert world.status.active is not None
    assert world.status.active.revision == BASE

    # when what was left is gone
    for raw in world.cluster.all(names.REVISION_KIND):
        world.cluster.remove(names.REVISION_KIND, raw["metadata"]["name"])
    await world.settle()
    assert world.revisions() == [BASE]
    assert revision not in world.revisions()


async def test_a_result_without_a_verdict_is_none(world: Simulation, spec: Spec) -> None:
    """Restored in part, or written by hand: the candidate is measured all the same."""
    await world.serve(spec)
    revision = await world.train()
    raw = world.cluster.get(names.REVISION_KIND, revision)
    assert raw is not None
    world.cluster.put(raw | {"status": {"state": "Candidate", "result": "Passed", "attempt": 0}})

    await world.settle()
    assert world.status.active is not None
    assert world.status.active.revision == BASE
    await world.evaluate(revision, lower=2500)

    assert world.status.active.revision == revision


async def test_runs_that_ended_while_nobody_looked_are_taken_in_one_after_the_other(
    world: Simulation, spec: Spec
) -> None:
    """The last one had nothing to do: the model is that of the one before."""
    await world.serve(spec)
    await world.curate("d1")
    world.watch_is_frozen = True
    skipped = TrainingReport(
        run_id="2", outcome=Outcome.SKIPPED, reason="NotEnoughNewExamples", message="3 of 50 new examples"
    )
    for number, report in enumerate((training_report("smollm2-ft-1"), skipped)):
        job = f"support-finetune-{number}"
        world.node.start_job("support", "finetune", job)
        world.pass_time(60)
        world.node.finish_job(job, report)
        world.pass_time(86_400)
    world.watch_is_frozen = False
    world.restart()
    await world.settle()

    assert world.status.candidate is not None
    assert world.status.candidate.model_id == "smollm2-ft-1"
    assert world.condition("Trained").reason == "NotEnoughNewExamples"
    assert [world.events().count(f"Training{end}") for end in ("Succeeded", "Skipped")] == [1, 1]


async def recreated(world: Simulation, spec: Spec, run: str = "") -> list[dict[str, Any]]:
    """As by `kubectl replace --force`: the collector has not come yet. Returns the Jobs that are left."""
    left = world.cluster.all("Job")
    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    for raw in left:
        world.cluster.put(raw)
    world.pass_time(1)
    world.apply_agent(spec)
    if run:
        world.annotate(run)
    await world.settle()
    return left


async def test_jobs_of_an_agent_of_the_same_name_that_is_gone_are_not_taken_in(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    await world.curate("d1")
    await world.train()

    left = await recreated(world, spec)
    for raw in left:
        world.cluster.remove("Job", raw["metadata"]["name"])
    await world.settle()

    assert (world.status.dataset, world.status.training, world.status.candidate) == (None, None, None)


async def test_a_run_on_demand_waits_for_the_end_of_one_of_the_agent_before(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    world.annotate("curate:1")
    await world.settle()
    (job,) = world.jobs("curate")

    (raw,) = await recreated(world, spec, "curate:1")
    assert world.status.last_run is None
    world.cluster.remove("Job", job)
    await world.settle()

    assert world.status.last_run == "curate:1"
    new = world.cluster.get("Job", job)
    assert new is not None
    assert new["metadata"]["uid"] != raw["metadata"]["uid"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"modelID": "m" * 300}, "modelID"),
        ({"dataset": {"version": "d1", "digest": "d" * 200, "examples": 1}}, "dataset.digest"),
        ({"dataset": {"version": "d1", "digest": "d", "examples": 10**20}}, "dataset.examples"),
    ],
)
async def test_a_report_that_is_none_is_told_by_its_field(
    world: Simulation, spec: Spec, fields: dict[str, Any], field: str
) -> None:
    """A trainer of the user's own may say anything. What else there is to do is done."""
    await world.serve(spec)
    world.node.start_job("support", "finetune", "support-finetune-1")
    await world.settle()
    world.node.finish_job("support-finetune-1", training_report(MODEL))
    pod = world.cluster.get("Pod", "support-finetune-1-pod")
    assert pod is not None
    (state,) = (item["state"] for item in pod["status"]["containerStatuses"])
    said = json.loads(state["terminated"]["message"]) | fields
    state["terminated"]["message"] = json.dumps(said)
    world.cluster.put(pod)
    await world.settle()

    told = world.condition("Trained")
    assert told.reason == "TrainingFailed"
    assert f"ReportInvalid: Job support-finetune-1 left a report that is none: {field}: " in told.message
    assert unfinished(world, names.COMPONENT_FINETUNE) == []
    assert world.status.candidate is None


async def test_revisions_that_an_agent_has_left_without_an_owner_go_with_the_next_one(
    world: Simulation, spec: Spec
) -> None:
    """As by `kubectl delete --cascade=orphan`, or from a backup."""
    await world.serve(spec)
    revision = await world.promote()
    orphans = [world.cluster.get(names.REVISION_KIND, name) for name in world.revisions()]
    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    for raw in orphans:
        assert raw is not None
        raw["metadata"]["ownerReferences"] = []
        world.cluster.put(raw)

    world.apply_agent(spec)
    await world.settle()
    assert world.status.active is not None
    assert world.status.active.revision == revision
    assert world.cluster.get(names.REVISION_KIND, revision)["spec"]["modelID"] == MODEL  # type: ignore[index]

    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    assert world.revisions() == []


def restore(world: Simulation, revision: str, *, status: Spec) -> None:
    """From a backup: another object of the same spec, of the first generation."""
    raw = world.cluster.get(names.REVISION_KIND, revision)
    assert raw is not None
    world.cluster.remove(names.REVISION_KIND, revision)
    metadata = {key: raw["metadata"][key] for key in ("name", "namespace", "ownerReferences")}
    world.cluster.put(raw | {"metadata": metadata, "status": status})


async def test_what_a_backup_says_was_approved_is_nobodys_word(world: Simulation, spec: Spec) -> None:
    """It keeps specs: what was approved long ago may have been taken back since."""
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=-900, delta=-100)
    world.decide(revision, "Approved")
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    await world.validate(revision, score=100)
    assert world.revision_status(revision).state is RevisionState.ROLLED_BACK

    for name in world.revisions():
        restore(world, name, status={})
    lose_status(world)
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    assert world.status.active is not None
    assert world.status.active.revision == BASE

    for decision in ("Auto", "Approved"):
        world.decide(revision, decision)
        await world.settle()
    assert world.status.active.revision == revision


async def test_an_approval_counts_though_a_backup_has_set_generations_back(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    revision = await world.train()
    for decision in ("Rejected", "Auto", "Rejected"):
        world.decide(revision, decision)
        await world.settle()
    kept = world.revision_status(revision).to_wire()
    restore(world, revision, status=kept | {"decidedGeneration": 5})
    await world.settle()

    world.decide(revision, "Approved")
    await world.settle()

    assert world.status.active is not None
    assert world.status.active.revision == revision


async def test_a_validation_begins_again_though_the_status_was_lost(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    world.node.roll_out("support")
    await world.settle()
    assert world.status.rollout is not None
    assert world.status.rollout.step is RolloutStep.BAKE

    lose_status(world)
    await world.settle()
    await world.validate(revision, score=100)

    assert world.status.active is not None
    assert world.status.active.revision == BASE


async def test_a_bake_goes_on_with_the_pods_that_serve_it_though_the_status_was_lost(
    world: Simulation, spec: Spec
) -> None:
    """One of two has no node: a restart would wait for both."""
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    world.node.roll_out("support")
    await world.settle()
    pod = world.node.pods("support", "agent")[1]
    pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    world.cluster.put(pod)
    deployment = world.node.deployment("support")
    deployment["status"] |= {"readyReplicas": 1, "availableReplicas": 1}
    world.cluster.put(deployment)

    told = world.events().count("RolledOut")
    lose_status(world)
    await world.settle()

    assert world.status.rollout is not None
    assert world.status.rollout.step is RolloutStep.BAKE
    assert world.events().count("RolledOut") == told


async def test_what_served_before_is_not_proven_by_a_lost_status(world: Simulation, spec: Spec) -> None:
    """It is on its way once more, its new pods do not come up, and the old ones serve on."""
    await world.serve(spec)
    first = await world.promote("model-1")
    second = await world.promote("model-2", job="support-finetune-2")
    world.decide(first, "Approved")
    await world.settle()
    world.node.stick("support")
    await world.settle()

    lose_status(world)
    await world.settle()
    assert world.revision_status(first).proven_at is None
    world.pass_time(3600)
    await world.settle()

    assert world.status.active is not None
    assert world.status.active.revision == second


async def test_a_base_model_is_proven_though_its_revision_was_deleted(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    other = names.revision("support", "qwen3", "", "Base", "")
    world.apply_agent(spec | {"model": {"base": "qwen3"}})
    await world.settle()

    world.cluster.remove(names.REVISION_KIND, other)
    await world.settle()

    assert world.status.candidate is not None
    assert world.status.candidate.revision == other


async def test_what_is_served_never_becomes_its_own_candidate(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.promote()
    world.cluster.remove(names.REVISION_KIND, revision)
    await world.settle()

    await world.train(job="support-finetune-2")

    assert world.status.candidate is None
    assert world.status.active is not None
    assert world.status.active.revision == revision
    assert world.status.previous is not None
    assert revision in world.revisions()


async def test_a_model_that_is_known_by_another_name_is_told_to_be_so(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.promote()
    world.node.start_job("support", names.COMPONENT_FINETUNE, "support-finetune-2")
    again = training_report(MODEL).model_copy(update={"model_id": "another-name"})
    world.pass_time(60)
    world.node.finish_job("support-finetune-2", again)
    await world.settle()

    assert world.status.training is not None
    assert f"{revision} ({MODEL}) is that already" in world.status.training.message


async def test_a_job_is_not_credited_with_the_report_of_another_of_its_name(
    world: Simulation, spec: Spec
) -> None:
    """`kubectl delete job --cascade=orphan` leaves its pods."""
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_FINETUNE, "support-finetune-1")
    world.node.finish_job("support-finetune-1", training_report(MODEL))
    pod = world.cluster.get("Pod", "support-finetune-1-pod")
    assert pod is not None
    pod["metadata"]["labels"] |= {"batch.kubernetes.io/controller-uid": "of-another"}
    world.cluster.put(pod)
    world.restart()
    await world.settle()
    world.pass_time(31)
    await world.settle()

    assert "TrainingFailed" in world.events()
    assert world.status.candidate is None


async def test_a_run_whose_job_is_still_there_is_refused_in_words(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    for run in ("curate", "finetune"):
        world.annotate(run)
        await world.settle()
        (job,) = world.jobs(run)
        world.pass_time(60)
        world.node.finish_job(job, None, failed=("BackoffLimitExceeded", "no"))
        await world.settle()

    world.annotate("curate")
    await world.settle()

    assert world.status.last_run == "curate"
    assert world.events().count("RunRefused") == 1


@pytest.mark.parametrize("end", ["deleting", "gone", "made anew"])
async def test_what_a_deletion_has_orphaned_is_not_given_back_to_an_agent_that_goes(
    world: Simulation, spec: Spec, end: str
) -> None:
    """The watch of agents is a moment later than those of their children."""
    await world.serve(spec | {"deletionPolicy": "Delete"})
    await world.promote()

    # when the children's watches tell of it, and the agent's does not yet
    orphan(world)
    world.watch_is_frozen = True
    if end == "deleting":
        world.cluster.hold(names.AGENT_KIND, "support", "orphan")
    else:
        world.cluster.remove(names.AGENT_KIND, "support")
    if end == "made anew":
        world.apply_agent(spec)
    world.cluster.writes.clear()
    assert await world.settle() == 1

    # then nothing is done, and nothing goes
    assert world.cluster.writes == []
    if end == "deleting":
        world.cluster.remove(names.AGENT_KIND, "support")
    for kind in ("PersistentVolumeClaim", "Deployment", names.REVISION_KIND):
        assert world.cluster.all(kind)


async def test_an_owner_that_somebody_took_away_is_put_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    await world.promote()

    orphan(world)
    await world.settle()

    for kind in ("Deployment", "Service", names.REVISION_KIND):
        for raw in world.cluster.all(kind):
            assert [owner["name"] for owner in raw["metadata"]["ownerReferences"]] == ["support"]


async def test_a_run_that_ended_before_it_was_noted_is_not_refused(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.annotate("curate:1")
    world.cluster.faults.append(Fault(at=0, error=Crash(), when="after", kind="Job"))
    with pytest.raises(Crash):
        await world.settle()
    (job,) = world.jobs("curate")
    world.pass_time(60)
    world.node.finish_job(job, None, failed=("BackoffLimitExceeded", "no"))

    world.restart()
    await world.settle()
    world.pass_time(31)
    await world.settle()

    assert world.status.last_run == "curate:1"
    assert "RunRefused" not in world.events()
    assert "CurationFailed" in world.events()


async def test_an_evaluation_on_demand_is_of_what_was_just_trained(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_FINETUNE, "support-finetune-1")
    world.node.finish_job("support-finetune-1", training_report(MODEL))
    world.annotate("evaluate:1")
    await world.settle()

    assert world.status.last_run == "evaluate:1"
    assert "RunRefused" not in world.events()
