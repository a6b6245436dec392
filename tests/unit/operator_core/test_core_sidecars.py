"""Jobs whose container has ended while a sidecar, as a webhook injects it, keeps their pod from ending."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from evolving_agent.contract.report import (
    CurationReport,
    DatasetRef,
    Outcome,
    ReleaseReport,
    Report,
    SuiteResult,
    ValidationReport,
    encode_report,
)
from evolving_operator.api import names
from evolving_operator.api.models import RolloutStep, RunState, VerdictResult
from evolving_operator.cluster.errors import Forbidden
from evolving_operator.core.clock import rfc3339
from evolving_operator.core.observed import ObservedJob
from evolving_operator.core.reading import read_job, read_pod
from evolving_operator.testing.fake_cluster import Crash, Fault
from evolving_operator.testing.simulation import (
    Simulation,
    evaluation_report,
    revision_of,
    training_report,
)
from support.refusing import refused

Spec = dict[str, Any]
Raw = dict[str, Any]
CURATE = "support-curate-1"
RUNS = {"state": {"running": {"startedAt": "2026-03-02T12:00:00Z"}}}
ENDED = {"state": {"terminated": {"exitCode": 0, "finishedAt": "2026-03-02T12:00:00Z"}}}
GRACE = 600


def curated(outcome: Outcome = Outcome.SUCCEEDED, reason: str = "DatasetWritten") -> CurationReport:
    dataset = DatasetRef(version="d1", digest="digest", examples=100)
    told = None if outcome is Outcome.FAILED else dataset
    return CurationReport(run_id=CURATE, outcome=outcome, reason=reason, message="as it went", dataset=told)


def pod(
    at: datetime,
    report: Report | None = None,
    *,
    job: str = CURATE,
    labels: Raw | None = None,
    sidecar: Raw | None = RUNS,
    code: int = 0,
    phase: str = "Running",
    **terminated: Any,
) -> Raw:
    """A Job's pod whose own container has ended."""
    end = {"exitCode": code, "finishedAt": rfc3339(at), **terminated}
    if report is not None:
        end["message"] = encode_report(report).decode()
    containers: list[Raw] = [{"name": names.CONTAINER_JOB, "state": {"terminated": end}}]
    if sidecar is not None:
        containers.append({"name": "istio-proxy", **sidecar})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{job}-abc",
            "namespace": "default",
            "labels": {**(labels or {}), "batch.kubernetes.io/job-name": job},
        },
        "status": {"phase": phase, "containerStatuses": containers},
    }


def linger(world: Simulation, job: str, report: Report | None = None, **how: Any) -> None:
    """The Job's own container ends now."""
    raw = world.cluster.get("Job", job)
    assert raw is not None
    world.cluster.put(pod(world.now, report, job=job, labels=raw["metadata"]["labels"], **how))


async def begin(world: Simulation, spec: Spec, job: str = CURATE, component: str = "curate") -> None:
    await world.serve(spec)
    world.node.start_job("support", component, job)
    await world.settle()
    world.pass_time(60)


def exceed_deadline(world: Simulation, job: str = CURATE) -> None:
    """The Job controller ends the Job, and deletes its pods."""
    world.cluster.remove("Pod", f"{job}-abc")
    world.node.finish_job(
        job, None, failed=("DeadlineExceeded", "Job was active longer than specified deadline")
    )


def deleted(world: Simulation) -> list[str]:
    return [write.name for write in world.cluster.writes if write.verb == "delete" and write.kind == "Job"]


async def passes(world: Simulation, seconds: float) -> None:
    world.pass_time(seconds)
    await world.settle()


# --- curation and training -------------------------------------------------------------------------


async def test_what_was_curated_is_taken_in_though_a_sidecar_runs_on(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    linger(world, CURATE, curated())
    ended = rfc3339(world.now)
    world.pass_time(5)
    delay = await world.settle()

    assert world.status.dataset is not None
    assert world.status.dataset.version == "d1"
    run = world.status.curation
    assert run is not None
    assert (run.state, run.since, run.finished) == (RunState.SUCCEEDED, ended, ended)
    # it may end by itself yet, and be kept in its CronJob's history
    assert world.jobs("curate") == [CURATE]
    assert delay == GRACE - 5

    await passes(world, GRACE - 5)
    assert world.jobs("curate") == []
    assert world.status.curation == run
    world.cluster.writes.clear()
    await passes(world, 4 * 3600)
    assert world.cluster.writes == []


async def test_a_trained_model_becomes_the_candidate(world: Simulation, spec: Spec) -> None:
    job = "support-finetune-1"
    await begin(world, spec, job, "finetune")
    linger(world, job, training_report("ft-1"))
    await world.settle()

    assert world.status.candidate is not None
    assert world.status.candidate.revision == revision_of("support", "ft-1")
    await passes(world, GRACE)
    assert world.jobs("finetune") == []
    assert world.condition("Trained").reason == "TrainingSucceeded"


async def test_a_sidecar_that_cannot_start_keeps_a_job_from_ending_as_well(
    world: Simulation, spec: Spec
) -> None:
    await begin(world, spec)
    linger(world, CURATE, curated(), sidecar={"state": {"waiting": {"reason": "ImagePullBackOff"}}})
    await world.settle()
    assert world.status.dataset is not None


async def test_a_failed_run_is_told_with_its_report(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    linger(world, CURATE, curated(Outcome.FAILED, "StoreUnavailable"), code=1)
    ended = rfc3339(world.now)
    await world.settle()
    assert world.status.curation is not None
    assert world.status.curation.state is RunState.RUNNING  # it would be tried again if the sidecar ended

    await passes(world, GRACE)
    run = world.status.curation
    assert (run.state, run.reason, run.finished) == (RunState.FAILED, "StoreUnavailable", ended)
    assert world.jobs("curate") == []


async def test_a_run_that_left_no_word_says_how_its_container_ended(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    linger(world, CURATE, code=137, reason="OOMKilled")
    await passes(world, GRACE)

    told = world.condition("DatasetReady").message
    assert f"JobFailed: Job {CURATE} failed: its container ended with exit code 137 (OOMKilled)" in told


async def test_a_job_is_tried_again_where_the_sidecar_ends_as_well(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    linger(world, CURATE, curated(Outcome.FAILED, "StoreUnavailable"), code=1)
    await passes(world, 5)
    linger(world, CURATE, curated(Outcome.FAILED, "StoreUnavailable"), code=1, sidecar=ENDED, phase="Failed")
    await passes(world, 60)
    assert world.status.curation is not None
    assert world.status.curation.state is RunState.RUNNING
    assert world.jobs("curate") == [CURATE]

    world.node.finish_job(CURATE, curated())  # its second pod
    await world.settle()
    assert world.status.dataset is not None


async def test_a_report_that_is_lost_is_asked_for_again(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    linger(world, CURATE, None)
    await world.settle()
    assert world.jobs("curate") == [CURATE]

    await passes(world, GRACE)
    (again,) = world.jobs("curate")
    raw = world.cluster.get("Job", again)
    assert raw is not None
    assert raw["metadata"]["annotations"][names.ANNOTATION_RUN] == f"curate:report-of-{CURATE}"
    world.pass_time(60)
    world.node.finish_job(again, curated())
    await world.settle()
    assert world.status.dataset is not None


# --- first written down, then deleted --------------------------------------------------------------


async def test_nothing_is_deleted_before_it_is_written_down(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    linger(world, CURATE, curated())
    world.pass_time(GRACE + 1)
    world.cluster.writes.clear()
    world.cluster.faults.append(Fault(at=0, error=Crash(), when="before", kind=names.AGENT_KIND))
    with pytest.raises(Crash):
        await world.settle()
    assert deleted(world) == []

    world.restart()
    world.cluster.faults.append(Fault(at=0, error=Crash(), when="after", kind=names.AGENT_KIND))
    with pytest.raises(Crash):
        await world.settle()
    assert world.status.dataset is not None
    assert deleted(world) == []

    world.restart()
    await world.settle()
    assert deleted(world) == [CURATE]


async def test_a_run_that_cannot_be_taken_in_yet_keeps_its_job(world: Simulation, spec: Spec) -> None:
    """The one that reports again would run by older settings: until then nothing is noted."""
    await begin(world, spec)
    linger(world, CURATE, None)
    world.pass_time(GRACE + 1)
    world.apply_agent(spec | {"curation": spec["curation"] | {"thresholds": {"minScorePercent": 95}}})
    with refused(world, "ConfigMap"):
        await world.settle()
        assert world.jobs("curate") == [CURATE]

    await passes(world, 11)
    assert len(world.jobs("curate")) == 1
    assert world.jobs("curate") != [CURATE]


async def test_the_deadline_of_a_job_that_was_taken_in_is_no_news(world: Simulation, spec: Spec) -> None:
    """Nobody deleted it: the operator was away."""
    await begin(world, spec)
    linger(world, CURATE, curated())
    await world.settle()
    known = world.status.curation

    world.pass_time(4 * 3600)
    exceed_deadline(world)
    await world.settle()
    await passes(world, 31)

    assert world.status.curation == known
    assert world.condition("DatasetReady").reason == "DatasetWritten"
    assert "CurationFailed" not in world.events()


async def test_a_job_that_ends_by_itself_after_all_is_kept_and_no_news(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    linger(world, CURATE, curated())
    await world.settle()
    known = world.status.curation

    world.pass_time(5)
    linger(world, CURATE, curated(), sidecar=ENDED, phase="Succeeded")
    world.node.finish_job(CURATE, None)
    await world.settle()
    await passes(world, 60)

    assert world.status.curation == known
    assert world.jobs("curate") == [CURATE]


async def test_a_run_that_was_taken_in_is_not_run_again(world: Simulation, spec: Spec) -> None:
    """The sidecar failed at last, and the Job controller tries the Job again."""
    await begin(world, spec)
    linger(world, CURATE, curated())
    await world.settle()
    known = world.status.curation

    world.pass_time(5)
    linger(world, CURATE, curated(), sidecar=ENDED, phase="Failed")
    await world.settle()

    assert world.status.curation == known
    assert world.jobs("curate") == []


async def test_a_job_that_may_not_be_deleted_is_no_news_either(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    linger(world, CURATE, curated())
    await world.settle()
    known = world.status.curation
    world.pass_time(GRACE)
    world.cluster.faults.append(Fault(at=0, error=Forbidden("no"), kind="Job"))
    await world.settle()
    assert world.jobs("curate") == [CURATE]

    exceed_deadline(world)
    await world.settle()
    await passes(world, 31)
    assert world.status.curation == known
    assert known is not None
    assert known.state is RunState.SUCCEEDED


async def test_a_job_that_was_out_of_sight_for_a_while_is_taken_in(world: Simulation, spec: Spec) -> None:
    """It had been told to be deleted, and was not."""
    await world.serve(spec)
    await world.curate("d0")
    world.pass_time(60)
    world.node.start_job("support", "curate", CURATE)
    await world.settle()
    world.pass_time(60)
    job = world.cluster.get("Job", CURATE)
    assert job is not None
    world.cluster.remove("Job", CURATE)
    await world.settle()
    assert world.condition("DatasetReady").message.startswith("JobDeleted")

    world.pass_time(60)
    world.cluster.put(job)
    world.node.finish_job(CURATE, curated())
    await world.settle()
    assert world.status.dataset is not None
    assert world.status.dataset.version == "d1"


async def test_a_run_on_demand_waits_until_the_one_before_is_gone(world: Simulation, spec: Spec) -> None:
    await begin(world, spec)
    linger(world, CURATE, curated())
    await world.settle()
    world.annotate("curate:1")
    await world.settle()
    assert world.jobs("curate") == [CURATE]

    await passes(world, GRACE)
    assert world.jobs("curate") == [names.on_demand_job("support", "curate", "curate:1")]
    assert "RunRefused" not in world.events()


async def test_a_later_job_of_the_same_name_is_another_run(world: Simulation, spec: Spec) -> None:
    """It began and ended while nobody looked."""
    await begin(world, spec)
    linger(world, CURATE, curated(Outcome.SKIPPED, "TooFew"))
    await world.settle()
    await passes(world, GRACE)
    assert world.jobs("curate") == []
    world.cluster.remove("Pod", f"{CURATE}-abc")

    world.pass_time(60)
    world.node.start_job("support", "curate", CURATE)
    world.pass_time(60)
    world.node.finish_job(CURATE, curated())
    await world.settle()

    assert world.status.dataset is not None
    assert world.status.curation is not None
    assert world.status.curation.state is RunState.SUCCEEDED


# --- evaluation, validation, release ---------------------------------------------------------------


async def test_a_candidate_is_judged_and_its_job_goes(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    (job,) = world.jobs("evaluate")
    world.pass_time(60)
    linger(world, job, evaluation_report(revision, lower=2500))
    await world.settle()

    assert world.revision_status(revision).result is VerdictResult.PASSED
    assert world.status.active is not None
    assert world.status.active.revision == revision
    await passes(world, GRACE)
    assert world.jobs("evaluate") == []


async def test_a_verdict_that_promotes_nothing_stays_without_its_job(world: Simulation, spec: Spec) -> None:
    await world.serve(spec | {"rollout": {"approval": "Manual"}})
    revision = await world.train()
    (job,) = world.jobs("evaluate")
    world.pass_time(60)
    linger(world, job, evaluation_report(revision, lower=2500))
    await world.settle()
    await passes(world, GRACE)

    assert world.jobs("evaluate") == []
    assert world.condition("Evaluated").reason == "VerdictPassed"
    world.cluster.writes.clear()
    await passes(world, 4 * 3600)
    assert world.jobs("evaluate") == []


async def test_an_evaluation_whose_verdict_is_not_written_keeps_its_job(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec | {"rollout": {"approval": "Manual"}})
    revision = await world.train()
    (job,) = world.jobs("evaluate")
    linger(world, job, evaluation_report(revision, lower=2500))
    world.pass_time(GRACE + 1)
    world.cluster.faults.append(Fault(at=0, error=Crash(), kind=names.REVISION_KIND))
    with pytest.raises(Crash):
        await world.settle()
    assert world.jobs("evaluate") == [job]

    world.restart()
    await world.settle()
    assert world.revision_status(revision).result is VerdictResult.PASSED
    assert world.jobs("evaluate") == []


async def test_a_failed_evaluation_is_tried_again(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    await world.train()
    (job,) = world.jobs("evaluate")
    linger(world, job, code=1)
    await passes(world, 10)
    assert world.jobs("evaluate") == [job]
    await passes(world, GRACE - 10)
    assert world.condition("Evaluated").reason == "AwaitsRetry"

    await passes(world, 60)
    (again,) = world.jobs("evaluate")
    assert again != job


async def test_a_validation_counts_and_its_job_goes_after_the_bake(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2000)
    world.node.roll_out("support")
    await world.settle()
    (job,) = world.jobs("validate")
    suites = (SuiteResult(suite="holdout", samples=50, candidate_bps=8000),)
    said = ValidationReport(
        run_id=job, outcome=Outcome.SUCCEEDED, reason="Measured", message="", revision=revision, suites=suites
    )
    linger(world, job, said)
    await world.settle()
    await passes(world, 300)
    assert world.jobs("validate") == [job]  # until the bake ends, it is asked what it has measured

    await passes(world, 300)
    assert world.status.rollout is not None
    assert (world.status.rollout.step, world.status.rollout.reason) == (RolloutStep.DONE, "Validated")
    assert world.jobs("validate") == []


PROVIDER = "https://provider/v1"


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED])
async def test_a_release_is_settled(world: Simulation, outcome: Outcome) -> None:
    spec = {
        "model": {"base": "gpt", "endpoint": {"baseURL": PROVIDER}},
        "agent": {"instructions": "You route requests."},
        "training": {"schedule": "0 3 * * *", "backend": {"type": "OpenAI"}},
        "deletionPolicy": "Delete",
    }
    await world.serve(spec)
    agent = world.cluster.get(names.AGENT_KIND, "support")
    assert agent is not None
    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    job = names.release_job("support", agent["metadata"]["uid"], PROVIDER)
    assert world.jobs("release") == [job]

    is_released = outcome is Outcome.SUCCEEDED
    said = ReleaseReport(run_id="r", outcome=outcome, reason="Said", message="so", models_deleted=1)
    linger(world, job, said, code=0 if is_released else 1)
    await world.settle()
    assert world.jobs("release") == ([] if is_released else [job])
    await passes(world, GRACE)

    assert world.jobs("release") == []
    assert world.events().count("Released" if is_released else "ReleaseFailed") == 1
    await passes(world, 3600 - GRACE)
    assert world.jobs("release") == ([] if is_released else [job])


# --- what is read of pods --------------------------------------------------------------------------

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def job_of(*pods: Raw, status: Raw | None = None) -> ObservedJob:
    created = rfc3339(NOW - timedelta(seconds=60))
    metadata = {"name": CURATE, "uid": "uid-1", "creationTimestamp": created, "labels": {}}
    return read_job({"metadata": metadata, "status": status or {}}, [read_pod(raw) for raw in pods])


def with_status(raw: Raw, **more: Any) -> Raw:
    return raw | {"status": raw["status"] | more}


def going(raw: Raw, name: str = "") -> Raw:
    """The pod, on its way out."""
    metadata = raw["metadata"] | {"deletionTimestamp": rfc3339(NOW)}
    return raw | {"metadata": metadata | ({"name": name} if name else {})}


DISRUPTED = {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}
AGAIN = {"containerStatuses": [{"name": names.CONTAINER_JOB, **RUNS}, {"name": "istio-proxy", **RUNS}]}


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(pod(NOW, curated(), sidecar=None), id="there is no other container"),
        pytest.param(pod(NOW, curated(), sidecar=ENDED), id="the other one has ended too"),
        pytest.param(pod(NOW, curated(), phase="Failed"), id="the pod is over"),
        pytest.param(going(pod(NOW, code=143)), id="drained"),
        pytest.param(with_status(pod(NOW, code=137), **DISRUPTED), id="about to be evicted"),
        pytest.param(with_status(pod(NOW), **AGAIN), id="ours runs"),
        pytest.param(
            with_status(pod(NOW, sidecar=None), initContainerStatuses=[{"name": "proxy", **RUNS}]),
            id="a native sidecar ends by itself",
        ),
        pytest.param(pod(NOW, finishedAt=None), id="nobody knows when it ended"),
        pytest.param(
            {
                **pod(NOW),
                "status": {
                    "containerStatuses": [
                        {"name": names.CONTAINER_JOB, "lastState": ENDED["state"], "state": {"waiting": {}}},
                        {"name": "istio-proxy", **RUNS},
                    ]
                },
            },
            id="it ended, and is started again",
        ),
    ],
)
def test_what_does_not_count_as_the_end(raw: Raw) -> None:
    job = job_of(raw)
    assert (job.finished, job.succeeded, job.lingers) == (None, False, False)


def test_what_was_done_counts_though_its_pod_is_drained() -> None:
    job = job_of(going(pod(NOW, curated())))
    assert (job.finished, job.succeeded, job.report) == (NOW, True, curated())


def test_an_earlier_try_says_nothing_of_the_one_that_lingers() -> None:
    first = pod(NOW - timedelta(seconds=30), curated(Outcome.FAILED, "No"), code=1, phase="Failed")
    job = job_of(first, pod(NOW, curated()))
    assert (job.finished, job.succeeded, job.report) == (NOW, True, curated())


def test_the_job_controllers_word_comes_first() -> None:
    done = {"type": "Complete", "status": "True", "lastTransitionTime": rfc3339(NOW + timedelta(seconds=5))}
    job = job_of(pod(NOW, curated()), status={"conditions": [done]})
    assert (job.finished, job.succeeded, job.lingers) == (NOW + timedelta(seconds=5), True, False)


def test_no_run_ended_before_it_began() -> None:
    """The node's clock is behind."""
    job = job_of(pod(NOW - timedelta(seconds=90), curated()))
    assert job.finished == job.created


async def test_a_run_whose_sidecar_ended_later_is_no_news_when_the_next_begins(
    world: Simulation, spec: Spec
) -> None:
    await begin(world, spec)
    linger(world, CURATE, curated())
    await world.settle()
    world.pass_time(3)
    linger(world, CURATE, curated(), sidecar=ENDED, phase="Succeeded")
    world.node.finish_job(CURATE, None)
    await world.settle()

    world.pass_time(86_400)
    world.node.start_job("support", names.COMPONENT_CURATE, "support-curate-2")
    await world.settle()

    assert world.events().count("CurationSucceeded") == 1
    assert world.status.curation is not None
    assert (world.status.curation.job, world.status.curation.state) == ("support-curate-2", RunState.RUNNING)
