"""What is told of pods that do not serve: which of them, since when, and why."""

from __future__ import annotations

import copy
import json
from datetime import timedelta
from typing import Any

import pytest

from evolving_agent.contract.report import Outcome, ServeReport, encode_report
from evolving_operator.api import names
from evolving_operator.api.models import ConditionStatus, RolloutStep
from evolving_operator.core.clock import rfc3339
from evolving_operator.testing.simulation import Simulation

Spec = dict[str, Any]
GAVE_UP = encode_report(
    ServeReport(run_id="pod", outcome=Outcome.FAILED, reason="ModelUnreachable", message="refused")
).decode()
PULL = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "example/proxy:typo"'}
CRASH = {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container=proxy"}


def told(world: Simulation, kind: str) -> tuple[str, str]:
    return world.condition(kind).reason, world.condition(kind).message


def lose_one(world: Simulation) -> str:
    """One of two pods stops answering its probe. Returns its name."""
    pod = world.node.pods("support", "agent")[0]
    since = rfc3339(world.now)
    pod["status"]["conditions"] = [{"type": "Ready", "status": "False", "lastTransitionTime": since}]
    world.cluster.put(pod)
    deployment = world.node.deployment("support")
    deployment["status"] |= {"readyReplicas": 1, "availableReplicas": 1}
    world.cluster.put(deployment)
    name: str = pod["metadata"]["name"]
    return name


async def test_a_pod_that_stays_unready_beside_others_is_told_of(world: Simulation, spec: Spec) -> None:
    await world.serve(spec | {"rollout": {"progressDeadlineSeconds": 300}})
    pod = lose_one(world)
    delay = await world.settle()
    assert (told(world, "Degraded")[0], delay) == ("AsExpected", 330)

    world.pass_time(330)
    await world.settle()

    reason, message = told(world, "Degraded")
    assert reason == "PodNotReady"
    assert message.startswith(f"1 of 2 serving pods are ready: pod {pod} has not been since ")
    assert told(world, "Progressing") == told(world, "Stalled") == (reason, message)
    assert world.condition("Ready").status is ConditionStatus.TRUE

    world.node.roll_out("support")
    await world.settle()
    assert told(world, "Degraded")[0] == "AsExpected"


async def test_a_canary_that_a_pod_holds_up_says_so(world: Simulation, spec: Spec) -> None:
    steps = [{"percent": 10, "pauseSeconds": 60}]
    await world.serve(spec | {"rollout": {"canary": {"steps": steps}}})
    await world.curate()
    await world.evaluate(await world.train(), lower=2000)
    assert world.status.rollout is not None
    assert world.status.rollout.step is RolloutStep.CANARY

    pod = lose_one(world)
    world.pass_time(86_400)
    await world.settle()

    assert (
        f"goes no further until all serving pods are ready. 1 of 2 serving pods are ready: pod {pod}"
        in (told(world, "Promoted")[1])
    )


async def test_while_a_rollout_is_under_way_its_own_deadline_counts(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    lose_one(world)
    world.pass_time(86_400)
    world.node.stick("support")
    await world.settle()

    assert told(world, "Degraded")[0] == "AsExpected"


async def test_a_pod_that_was_evicted_is_none_any_more(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    kept = world.stamp()
    world.cluster.put(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "support-evicted",
                "namespace": "default",
                "labels": names.labels("support", "agent"),
                "annotations": {names.ANNOTATION_CONFIG_HASH: kept},
            },
            "status": {
                "phase": "Failed",
                "reason": "Evicted",
                "conditions": [
                    {"type": "Ready", "status": "False", "lastTransitionTime": "2026-03-02T12:00:00Z"}
                ],
                "containerStatuses": [
                    {
                        "name": names.CONTAINER_AGENT,
                        "state": {"terminated": {"exitCode": 137}},
                        "lastState": {"terminated": {"exitCode": 1, "message": GAVE_UP}},
                    }
                ],
            },
        }
    )
    world.pass_time(86_400)
    await world.settle()
    assert told(world, "Degraded")[0] == "AsExpected"

    world.apply_agent(spec | {"agent": {**spec["agent"], "instructions": "Others."}})
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    file = json.loads(world.cluster.get("ConfigMap", "support-config")["data"]["agent_config.json"])  # type: ignore[index]
    assert kept not in file["configs"]


@pytest.mark.parametrize(("waiting", "reason"), [(PULL, "ImagePullFailed"), (CRASH, "CrashLoop")])
async def test_a_container_that_a_user_added_is_named(
    world: Simulation, spec: Spec, waiting: Spec, reason: str
) -> None:
    await world.serve(spec)
    await world.curate()
    promoted = await world.train()
    await world.evaluate(promoted, lower=2000)
    name = world.node.stick("support", {"state": {"running": {}}}, restarts=9)
    pod = world.cluster.get("Pod", name)
    assert pod is not None
    pod["status"]["containerStatuses"].append(
        {"name": "proxy", "restartCount": 9, "state": {"waiting": waiting}}
    )
    world.cluster.put(pod)
    await world.settle()

    assert told(world, "Degraded")[0] == reason
    assert f"container proxy: {waiting['message']}" in told(world, "Degraded")[1]
    # The agent's own container, which was started again long ago, is not to blame.
    assert world.status.active is not None
    assert world.status.active.revision == promoted

    world.node.exceed_deadline("support")
    await world.settle()
    assert world.status.rollout is not None
    assert f"timed out progressing. {waiting['reason']}: container proxy" in world.status.rollout.message


async def test_whatever_keeps_a_container_from_being_started_is_told(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    waiting = {"reason": "RunContainerError", "message": "exec: permission denied"}
    name = world.node.stick("support", {"state": {"waiting": waiting}})
    await world.settle()

    assert told(world, "Degraded") == ("RunContainerError", f"Pod {name}: exec: permission denied")


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ('secret "support-db" not found', "agent.memory.connectionSecretRef"),
        ('secret "support" not found', "model.endpoint.apiKeySecretRef"),
        ("couldn't find key token in Secret default/support", "model.endpoint.apiKeySecretRef"),
        ("couldn't find key uri in Secret default/support-db", "agent.memory.connectionSecretRef"),
    ],
)
async def test_the_field_that_names_the_missing_secret_is_told(
    world: Simulation, spec: Spec, message: str, named: str
) -> None:
    endpoint = {**spec["model"]["endpoint"], "apiKeySecretRef": {"name": "support", "key": "token"}}
    memory = {"type": "PostgreSQL", "connectionSecretRef": {"name": "support-db"}}
    model, agent = {**spec["model"], "endpoint": endpoint}, {**spec["agent"], "memory": memory}
    world.apply_agent(spec | {"model": model, "agent": agent})
    await world.settle()
    world.node.stick(
        "support", {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": message}}}
    )
    await world.settle()

    assert f"named by spec.{named}" in told(world, "Degraded")[1]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"curation": {"schedule": "0 0 30 2 *"}}, "InvalidSpec"),
        ({"rollout": {"pin": "support-00000000"}}, "PinNotFound"),
    ],
)
async def test_where_nobody_is_served_what_keeps_pods_from_it_comes_first(
    world: Simulation, spec: Spec, fault: Spec, reason: str
) -> None:
    world.apply_agent(spec | fault)
    await world.settle()
    assert (told(world, "Degraded")[0], told(world, "Ready")[0]) == (reason, "Starting")

    world.node.stick("support", {"state": {"waiting": PULL}})
    await world.settle()
    assert told(world, "Degraded")[0] == told(world, "Ready")[0] == "ImagePullFailed"

    world.node.roll_out("support")
    await world.settle()
    assert told(world, "Degraded")[0] == reason


async def test_an_agent_that_is_served_by_nobody_any_more_says_so(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.lose_readiness("support", since=world.now)
    await world.settle()
    world.pass_time(100)
    await world.settle()

    assert told(world, "Ready") == ("NobodyServes", "None of 2 serving pods is ready any more.")
    assert world.events().count("NobodyServes") == 1

    world.node.roll_out("support")
    await world.settle()
    world.node.lose_readiness("support", since=world.now)
    await world.settle()
    assert world.events().count("NobodyServes") == 2


# --- nodes that are lost, and pods that never start ---


async def test_what_a_pod_gave_up_at_before_it_served_is_not_why_it_does_not_now(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    since = rfc3339(world.now)
    for pod in world.node.pods("support", "agent"):
        pod["status"]["containerStatuses"][0] |= {
            "restartCount": 1,
            "state": {"running": {"startedAt": since}},
            "lastState": {"terminated": {"exitCode": 1, "message": GAVE_UP, "finishedAt": since}},
        }
        world.cluster.put(pod)
    world.pass_time(86_400)
    world.node.lose_readiness("support", since=world.now)
    await world.settle()

    assert (told(world, "Degraded")[0], told(world, "Ready")[0]) == ("AsExpected", "NobodyServes")


async def test_a_pod_that_was_taken_out_of_service_is_no_serving_pod(world: Simulation, spec: Spec) -> None:
    """As people do to look at it: the Deployment's selector does not match it any more, and makes another."""
    await world.serve(spec)
    [pod, *_] = copy.deepcopy(world.node.pods("support", "agent"))
    pod["metadata"] |= {"name": "support-isolated", "uid": "uid-isolated"}
    pod["metadata"]["labels"]["app.kubernetes.io/instance"] = "debug"
    pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    pod["status"]["containerStatuses"][0] |= {"restartCount": 7, "state": {"waiting": CRASH}}
    world.cluster.put(pod)
    await world.settle()

    assert told(world, "Degraded")[0] == "AsExpected"


def job_pod(world: Simulation, job: str, status: Spec) -> str:
    """As the Job controller makes one. Returns its name."""
    raw = world.cluster.get("Job", job)
    assert raw is not None
    labels = {**raw["metadata"]["labels"], "batch.kubernetes.io/job-name": job}
    metadata = {
        "name": f"{job}-x",
        "namespace": "default",
        "labels": labels,
        "creationTimestamp": rfc3339(world.now),
    }
    world.cluster.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status})
    return f"{job}-x"


RUNNING = {"containerStatuses": [{"name": "job", "state": {"running": {}}}]}
CREATING = {
    "containerStatuses": [
        {"name": "job", "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}
    ]
}


async def test_a_jobs_pod_on_a_lost_node_is_told_of(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_CURATE, "support-curate-1")
    pod = job_pod(world, "support-curate-1", RUNNING)
    await world.settle()
    world.cluster.hold("Pod", pod, "batch.kubernetes.io/job-tracking")
    await world.settle()
    world.pass_time(61)
    await world.settle()

    reason, message = told(world, "DatasetReady")
    assert reason == "PodLost"
    assert f"kubectl delete pod {pod} --force" in message


async def test_a_jobs_pod_that_does_not_start_is_told_of(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_CURATE, "support-curate-1")
    job_pod(world, "support-curate-1", CREATING)
    await world.settle()
    assert told(world, "DatasetReady")[0] == "CurationRunning"
    world.pass_time(300)
    await world.settle()

    assert told(world, "DatasetReady")[0] == "PodNotStarted"


async def in_its_bake(world: Simulation, spec: Spec) -> str:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2000)
    world.node.roll_out("support")
    await world.settle()
    assert world.status.rollout is not None
    assert world.status.rollout.step is RolloutStep.BAKE
    return revision


async def test_what_holds_a_validation_up_is_told(world: Simulation, spec: Spec) -> None:
    revision = await in_its_bake(world, spec)
    job_pod(world, names.validate_job(revision), CREATING)
    world.pass_time(300)
    await world.settle()

    assert "is being validated. All serving pods run it. PodNotStarted: Pod" in told(world, "Progressing")[1]


UNSCHEDULED = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available",
        }
    ],
}
ATTACHING = {
    "phase": "Pending",
    "conditions": [{"type": "Ready", "status": "False"}],
    "containerStatuses": [
        {"name": "agent", "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}
    ],
}


@pytest.mark.parametrize("status", [UNSCHEDULED, ATTACHING], ids=["no-node", "no-volume"])
async def test_no_model_is_blamed_for_a_node_that_is_lost_in_its_bake(
    world: Simulation, spec: Spec, status: Spec
) -> None:
    revision = await in_its_bake(world, spec)
    world.node.lose_readiness("support", since=world.now)
    await world.settle()
    for pod in world.node.pods("support", "agent"):
        world.cluster.hold(
            "Pod", pod["metadata"]["name"], "its-node"
        )  # deleted by the taint, never confirmed
        new = copy.deepcopy(pod) | {"status": status}
        new["metadata"] = {
            **new["metadata"],
            "name": f"{pod['metadata']['name']}-new",
            "uid": pod["metadata"]["name"],
        }
        new["metadata"].pop("deletionTimestamp", None)
        new["metadata"].pop("finalizers", None)
        world.cluster.put(new)
    await world.settle()
    world.pass_time(3600)
    await world.settle()

    assert world.status.active is not None
    assert world.status.active.revision == revision
    if status is UNSCHEDULED:
        assert told(world, "Degraded")[0] == "Unschedulable"
        assert "was deleted, and its node does not say that it is gone" in told(world, "Degraded")[1]

    # Its pods have begun, and have their time: not that of those that were lost.
    for pod in world.node.pods("support", "agent"):
        if pod["metadata"]["name"].endswith("-new"):
            running = {
                "name": "agent",
                "restartCount": 0,
                "state": {"running": {"startedAt": rfc3339(world.now)}},
            }
            pod["status"] = {"phase": "Running", "containerStatuses": [running]}
            world.cluster.put(pod)
    world.pass_time(599)
    await world.settle()
    assert world.status.active.revision == revision
    world.pass_time(1)
    await world.settle()
    assert world.status.active.revision != revision


async def test_a_faulty_spec_hides_no_pods_that_are_not_ready(world: Simulation, spec: Spec) -> None:
    await world.serve(spec | {"rollout": {"pin": "support-00000000"}})
    assert told(world, "Degraded")[0] == "PinNotFound"
    world.node.lose_readiness("support", since=world.now)
    await world.settle()
    world.pass_time(630)
    await world.settle()

    assert told(world, "Degraded")[0] == "PodsNotReady"


async def test_an_agent_whose_pods_crashed_is_not_one_that_starts(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.lose_readiness("support", since=world.now)
    states: tuple[Spec, ...] = ({"waiting": CRASH}, {"running": {}})
    for state in states:
        for pod in world.node.pods("support", "agent"):
            pod["status"]["containerStatuses"][0] |= {"restartCount": 3, "state": state}
            world.cluster.put(pod)
        await world.settle()

    assert told(world, "Ready")[0] == "NobodyServes"


async def test_an_injected_container_is_not_why_a_job_does_not_work(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_CURATE, "support-curate-1")
    injected = {"name": "istio-proxy", "state": {"waiting": PULL}}
    job_pod(world, "support-curate-1", {"containerStatuses": [*RUNNING["containerStatuses"], injected]})
    await world.settle()

    assert told(world, "DatasetReady")[0] == "CurationRunning"


async def test_a_slow_image_takes_nothing_back(world: Simulation, spec: Spec) -> None:
    """Not the model that was trained, nor the dataset that is there."""
    await world.serve(spec)
    await world.curate()
    await world.train()
    world.pass_time(86_400)
    for component in (names.COMPONENT_CURATE, names.COMPONENT_FINETUNE):
        world.node.start_job("support", component, f"support-{component}-9")
        job_pod(world, f"support-{component}-9", CREATING)
    await world.settle()
    world.pass_time(301)
    await world.settle()

    for kind in ("Trained", "DatasetReady"):
        assert world.condition(kind).status is ConditionStatus.TRUE
        assert told(world, kind)[0] == "PodNotStarted"


async def test_a_jobs_pod_has_its_time_from_when_it_found_a_node(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_CURATE, "support-curate-1")
    found = {
        "type": "PodScheduled",
        "status": "True",
        "lastTransitionTime": rfc3339(world.now + timedelta(hours=1)),
    }
    job_pod(world, "support-curate-1", {**CREATING, "conditions": [found]})
    world.pass_time(3600 + 299)
    await world.settle()
    assert told(world, "DatasetReady")[0] == "CurationRunning"
    world.pass_time(1)
    await world.settle()
    assert told(world, "DatasetReady")[0] == "PodNotStarted"


async def test_a_validation_that_is_over_holds_nothing_up(world: Simulation, spec: Spec) -> None:
    revision = await in_its_bake(world, spec | {"rollout": {"bakeSeconds": 3600}})
    await world.validate(revision, score=8000)
    for pod in world.node.pods("support", names.COMPONENT_VALIDATE):
        world.cluster.remove("Pod", pod["metadata"]["name"])
    world.pass_time(120)
    await world.settle()

    assert told(world, "Progressing")[0] == "Baking"
    assert "PodMissing" not in told(world, "Progressing")[1]


async def test_pods_that_are_replaced_give_what_does_not_serve_no_more_time(
    world: Simulation, spec: Spec
) -> None:
    revision = await in_its_bake(world, spec)
    world.node.lose_readiness("support", since=world.now)
    old, new = world.node.pods("support", "agent")
    lost_at = world.now
    for minutes in range(0, 15, 5):
        for pod, begun in ((old, timedelta()), (new, timedelta(minutes=minutes))):
            started = rfc3339(lost_at + begun)
            pod["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": started}}
            world.cluster.put(pod)
        await world.settle()
        world.pass_time(300)
    await world.settle()

    assert world.status.active is not None
    assert world.status.active.revision != revision


async def test_what_was_created_with_a_fault_starts_once_it_is_mended(world: Simulation, spec: Spec) -> None:
    world.apply_agent(spec | {"agent": {"replicas": 2}})
    await world.settle()
    world.apply_agent(spec)
    await world.settle()

    assert told(world, "Ready") == ("Starting", "None of 2 serving pods is ready yet.")
