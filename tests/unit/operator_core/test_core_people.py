"""What people ask for: pins, runs on demand, a pause, another base model; and their mistakes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from evolving_agent.contract.served import ServedAs, ServedCount, ServedCounts
from evolving_operator.api import names
from evolving_operator.api.models import ConditionStatus, RevisionState, RolloutStep
from evolving_operator.cluster.errors import ClusterError, Conflict, Forbidden
from evolving_operator.core.observed import Heard
from evolving_operator.testing.fake_cluster import Crash, Fault
from evolving_operator.testing.simulation import Simulation, revision_of, training_report
from support.refusing import refused

Spec = dict[str, Any]
LOOP = {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}


def active(world: Simulation) -> str:
    assert world.status.active is not None
    return world.status.active.revision


def candidate(world: Simulation) -> str | None:
    return None if world.status.candidate is None else world.status.candidate.revision


def base_of(model: str) -> str:
    return names.revision("support", model, "", "Base", "")


# --- pin ---


async def test_a_pin_returns_to_a_kept_revision_and_holds_it(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    base = active(world)
    tuned = await world.promote()

    world.apply_agent(spec | {"rollout": {"pin": base}})
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    assert active(world) == base
    assert world.status.rollout is not None
    assert world.status.rollout.step is RolloutStep.DONE
    assert world.revision_status(tuned).state is RevisionState.PREVIOUS

    # a better model comes, is evaluated, and waits
    newer = await world.train("model-2", job="support-finetune-2")
    await world.evaluate(newer, lower=2500)
    assert active(world) == base
    assert world.condition("Promoted").reason == "Pinned"

    # without the pin it goes on from there
    world.apply_agent(spec)
    await world.settle()
    assert active(world) == newer


async def test_an_unpinned_agent_stays_on_what_was_pinned(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    base = active(world)
    await world.promote()
    world.apply_agent(spec | {"rollout": {"pin": base}})
    await world.settle()
    world.node.roll_out("support")

    world.apply_agent(spec)
    await world.settle()

    assert active(world) == base


async def test_an_unknown_pin_is_told_and_changes_nothing(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    before = active(world)

    world.apply_agent(spec | {"rollout": {"pin": "support-12345678"}})
    await world.settle()

    assert active(world) == before
    assert world.condition("Degraded").reason == "PinNotFound"
    assert "support-12345678" in world.condition("Degraded").message
    assert world.condition("Ready").status is ConditionStatus.TRUE


async def test_a_pin_that_serves_is_no_trouble_where_its_record_is_gone(
    world: Simulation, spec: Spec
) -> None:
    """Where the agent is deleted, the collector may take its revisions before the operator knows of that."""
    await world.serve(spec)
    base = active(world)
    world.apply_agent(spec | {"rollout": {"pin": base}})
    await world.settle()

    world.cluster.remove("AgentRevision", base)
    await world.settle()

    assert "PinNotFound" not in world.events()
    assert active(world) == base


async def test_a_pinned_revision_that_gets_stuck_is_told_but_not_taken_back(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    base = active(world)
    await world.promote()
    world.apply_agent(spec | {"rollout": {"pin": base}})
    await world.settle()

    world.node.stick("support")
    world.pass_time(700)
    await world.settle()

    assert active(world) == base
    assert world.condition("Degraded").reason == "RolloutStuck"


# --- the base model ---


async def test_another_base_model_passes_the_same_gate(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    await world.curate("d1")

    world.apply_agent(spec | {"model": {"base": "qwen3"}})
    await world.settle()

    assert active(world) == base_of("smollm2")
    assert world.status.candidate is not None
    assert world.status.candidate.revision == base_of("qwen3")
    await world.evaluate(base_of("qwen3"), lower=100)
    assert active(world) == base_of("smollm2")
    assert world.condition("Promoted").reason == "AwaitsPods"
    world.node.roll_out("support")
    await world.settle()
    assert active(world) == base_of("qwen3")


async def test_without_anything_to_measure_by_a_new_base_model_waits_for_a_person(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)

    world.apply_agent(spec | {"model": {"base": "qwen3"}})
    await world.settle()
    assert active(world) == base_of("smollm2")
    assert world.condition("Evaluated").reason == "VerdictInconclusive"
    assert "spec.evaluation.suites" in world.condition("Evaluated").message

    world.decide(base_of("qwen3"), "Approved")
    await world.settle()
    assert active(world) == base_of("qwen3")


async def test_a_base_model_that_never_served_is_replaced_without_a_gate(
    world: Simulation, spec: Spec
) -> None:
    # given a misspelled base model, whose pods never became ready
    world.apply_agent(spec | {"model": {"base": "smolm2"}})
    await world.settle()

    world.apply_agent(spec)
    await world.settle()

    assert active(world) == base_of("smollm2")


async def test_a_base_model_that_is_changed_back_is_no_candidate(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.apply_agent(spec | {"model": {"base": "qwen3"}})
    await world.settle()

    world.apply_agent(spec)
    await world.settle()

    assert world.status.candidate is None
    assert active(world) == base_of("smollm2")
    assert world.revision_status(base_of("qwen3")).state is RevisionState.RETIRED


async def test_a_model_trained_from_another_base_is_not_taken(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_FINETUNE, "support-finetune-1")
    world.apply_agent(spec | {"model": {"base": "qwen3"}})
    world.node.finish_job("support-finetune-1", training_report("old", base="smollm2"))  # faster than we are
    await world.settle()

    assert world.condition("Trained").reason == "BaseChanged"
    assert world.cluster.get(names.REVISION_KIND, revision_of("support", "old")) is None


# --- suspend, runs on demand ---


async def test_a_suspended_agent_serves_but_does_not_learn(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    evaluation = world.jobs(names.COMPONENT_EVALUATE)[0]
    world.cluster.remove("Job", evaluation)

    world.apply_agent(spec | {"suspend": True})
    await world.settle()

    assert world.jobs(names.COMPONENT_EVALUATE) == []
    assert all(cron["spec"]["suspend"] for cron in world.cluster.all("CronJob"))
    assert world.condition("Ready").status is ConditionStatus.TRUE
    assert world.condition("Promoted").reason == "Suspended"
    assert world.status.next_training_time is None

    world.apply_agent(spec)
    await world.settle()
    assert world.jobs(names.COMPONENT_EVALUATE) == [names.evaluate_job(revision, "")]


@pytest.mark.parametrize("verb", ["curate", "finetune"])
async def test_a_run_on_demand_is_run_once(world: Simulation, spec: Spec, verb: str) -> None:
    await world.serve(spec)

    world.annotate(f"{verb}:1")
    await world.settle()

    assert world.jobs(verb) == [names.on_demand_job("support", verb, f"{verb}:1")]
    assert world.status.last_run == f"{verb}:1"
    world.cluster.remove("Job", world.jobs(verb)[0])
    await world.settle()
    assert world.jobs(verb) == []


async def test_a_run_with_a_nonce_of_any_length_is_noted_in_few_words(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    first, second = ("curate:" + "ä" * 100_000 + end for end in "ab")

    for run in (first, second, second):
        world.annotate(run)
        await world.settle()
        for name in world.jobs(names.COMPONENT_CURATE):
            world.node.finish_job(name, None)

    # each is another run, and none makes the status or the Job too large to be written
    assert len(world.jobs(names.COMPONENT_CURATE)) == 2
    assert len(world.status.last_run or "") < 253
    for raw in world.cluster.all("Job"):
        assert len(raw["metadata"]["annotations"][names.ANNOTATION_RUN]) < 253


async def test_a_run_on_demand_waits_for_the_one_under_way(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_FINETUNE, "support-finetune-1")

    world.annotate("finetune")
    await world.settle()
    assert world.jobs(names.COMPONENT_FINETUNE) == ["support-finetune-1"]

    world.node.finish_job("support-finetune-1", training_report("m"))
    await world.settle()
    assert len(world.jobs(names.COMPONENT_FINETUNE)) == 2


def asks_more_of_examples(spec: Spec) -> Spec:
    return spec | {"curation": spec["curation"] | {"thresholds": {"minScorePercent": 95}}}


def least_score(world: Simulation) -> int:
    """As a Job that starts now would find it."""
    config_map = world.cluster.get("ConfigMap", "support-config")
    assert config_map is not None
    learning = json.loads(config_map["data"]["learning.json"])
    return int(learning["curation"]["thresholds"].get("minScorePercent", 70))


async def test_a_run_on_demand_runs_by_what_was_applied_with_it(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.cluster.writes.clear()

    world.apply_agent(asks_more_of_examples(spec))
    world.annotate("curate:1")
    await world.settle()

    (job,) = world.jobs(names.COMPONENT_CURATE)
    written = [(write.kind, write.name) for write in world.cluster.writes]
    assert written.index(("ConfigMap", "support-config")) < written.index(("Job", job))


async def test_a_run_on_demand_waits_for_what_it_runs_by_and_that_is_told(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    world.apply_agent(asks_more_of_examples(spec))
    world.annotate("curate:1")
    with refused(world, "ConfigMap"):
        await world.settle()

        assert (least_score(world), world.jobs(names.COMPONENT_CURATE)) == (70, [])
        assert world.status.last_run is None
        told = world.condition("Degraded")
        assert (told.reason, told.message) == (
            "Forbidden",
            "ConfigMap support-config was refused: ConfigMap: exceeded quota",
        )

    world.pass_time(11)
    await world.settle()
    assert (least_score(world), len(world.jobs(names.COMPONENT_CURATE))) == (95, 1)
    assert world.status.last_run == "curate:1"


async def test_a_run_on_demand_waits_for_a_configuration_that_is_there_to_stay(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    world.cluster.hold("ConfigMap", "support-config", "example.com/held")
    world.annotate("curate:1")
    await world.settle()
    world.pass_time(10)
    await world.settle()

    assert world.jobs(names.COMPONENT_CURATE) == []
    assert world.condition("Degraded").reason == "ChildDeleted"

    world.cluster.remove("ConfigMap", "support-config")
    await world.settle()
    assert len(world.jobs(names.COMPONENT_CURATE)) == 1


async def test_an_evaluation_on_demand_is_a_new_attempt(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=-500, delta=300)

    world.annotate("evaluate:again")
    await world.settle()

    assert world.jobs(names.COMPONENT_EVALUATE) == [names.evaluate_job(revision, "1")]


@pytest.mark.parametrize("run", ["dance", "evaluate", "curate"])
async def test_a_run_that_makes_no_sense_is_refused_in_words(world: Simulation, run: str) -> None:
    await world.serve({"model": {"base": "smollm2"}, "agent": {"instructions": "Answer."}})

    world.annotate(run)
    await world.settle()

    assert world.status.last_run == run
    assert "RunRefused" in world.events()
    assert world.cluster.all("Job") == []


# --- changes of the spec ---


async def test_changed_instructions_roll_out_and_old_pods_keep_theirs(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    old = world.stamp()

    world.apply_agent(spec | {"agent": {"instructions": "Be brief.", "replicas": 2}})
    await world.settle()

    new = world.stamp()
    assert new != old
    config_map = world.cluster.get("ConfigMap", "support-config")
    assert config_map is not None
    assert old in config_map["data"]["agent_config.json"]
    assert world.condition("Progressing").reason == "RollingRestart"

    world.node.roll_out("support")
    await world.settle()
    config_map = world.cluster.get("ConfigMap", "support-config")
    assert config_map is not None
    assert old not in config_map["data"]["agent_config.json"]
    assert world.condition("Progressing").status is ConditionStatus.FALSE


async def test_changed_instructions_make_a_running_evaluation_begin_anew(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    revision = await world.train()

    world.apply_agent(spec | {"agent": {"instructions": "Be brief.", "replicas": 2}})
    await world.settle()

    assert world.jobs(names.COMPONENT_EVALUATE) == [names.evaluate_job(revision, "1")]


async def test_children_follow_the_spec(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    assert len(world.cluster.all("CronJob")) == 2
    assert len(world.cluster.all("PodDisruptionBudget")) == 1

    smaller = {"model": spec["model"], "agent": {"instructions": "You route requests.", "replicas": 1}}
    world.apply_agent(smaller)
    await world.settle()

    assert world.cluster.all("CronJob") == []
    assert world.cluster.all("PodDisruptionBudget") == []
    assert world.node.deployment("support")["spec"]["replicas"] == 1


async def test_a_network_policy_comes_and_goes_with_its_field(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    assert world.cluster.all("NetworkPolicy") == []
    stamp = world.node.deployment("support")["spec"]["template"]

    peers = [{"podSelector": {"matchLabels": {"app": "shop"}}}]
    limited = spec["agent"] | {"networkPolicy": {"mode": "Enabled", "ingressFrom": peers}}
    world.apply_agent(spec | {"agent": limited})
    await world.settle()
    (policy,) = world.cluster.all("NetworkPolicy")
    assert policy["spec"]["ingress"][0]["from"][1:] == peers

    world.cluster.remove("NetworkPolicy", "support")
    await world.settle()
    assert len(world.cluster.all("NetworkPolicy")) == 1

    for agent in (spec["agent"], limited | {"networkPolicy": {"mode": "Disabled", "ingressFrom": peers}}):
        world.apply_agent(spec | {"agent": limited})
        await world.settle()
        assert len(world.cluster.all("NetworkPolicy")) == 1
        world.apply_agent(spec | {"agent": agent})
        await world.settle()
        assert world.cluster.all("NetworkPolicy") == []
    assert world.node.deployment("support")["spec"]["template"] == stamp, "no pod is restarted for it"


async def test_a_deleted_child_comes_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)

    for kind in ("Deployment", "Service", "ConfigMap", "ServiceAccount", "CronJob"):
        for raw in world.cluster.all(kind):
            world.cluster.remove(kind, raw["metadata"]["name"])
            await world.settle()
            assert world.cluster.get(kind, raw["metadata"]["name"]) is not None


async def test_a_deleted_base_revision_comes_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)

    world.cluster.remove(names.REVISION_KIND, base_of("smollm2"))
    await world.settle()

    assert world.revision_status(base_of("smollm2")).state is RevisionState.ACTIVE


async def test_an_agent_that_is_being_deleted_is_left_alone(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    raw = world.cluster.get(names.AGENT_KIND, "support")
    assert raw is not None
    raw["metadata"]["deletionTimestamp"] = "2026-03-02T12:00:00Z"
    raw["spec"]["agent"]["replicas"] = 5
    world.cache.put(raw | {"metadata": raw["metadata"] | {"resourceVersion": "999999"}})
    world.cluster.writes.clear()

    await world.settle()

    assert world.cluster.writes == []


async def test_old_revisions_are_collected_but_never_one_that_is_in_use(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec | {"revisionHistoryLimit": 1})
    made = []
    for number in range(5):
        world.pass_time(60)
        made.append(await world.train(f"model-{number}", job=f"support-finetune-{number}"))
        if number < 4:
            await world.evaluate(made[-1], lower=-900, delta=-100)

    # base (active), the newest as the candidate, and one of history
    assert set(world.revisions()) == {base_of("smollm2"), made[4], made[3]}

    # old Jobs are still there, and bring nothing back
    world.restart()
    await world.settle()
    assert set(world.revisions()) == {base_of("smollm2"), made[4], made[3]}


async def test_a_status_that_was_lost_is_found_again_from_the_revisions(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    tuned = await world.promote()

    raw = world.cluster.get(names.AGENT_KIND, "support")
    assert raw is not None
    world.cluster.put(raw | {"status": {}})
    await world.settle()

    assert active(world) == tuned


@pytest.mark.parametrize(
    ("kind", "at", "error"),
    [
        (names.AGENT_KIND, 0, Conflict("the object has been modified")),
        (names.AGENT_KIND, 0, Crash()),
        (names.REVISION_KIND, 0, Forbidden("by a webhook")),
        (names.REVISION_KIND, 1, Forbidden("by a webhook")),
    ],
    ids=["conflict", "crash", "refused", "refused-later"],
)
async def test_and_is_found_though_the_first_write_fails(
    world: Simulation, spec: Spec, kind: str, at: int, error: ClusterError | Crash
) -> None:
    """What the revisions say of themselves is all there is, until the agent's status is written."""
    await world.serve(spec | {"revisionHistoryLimit": 0})
    before = await world.promote()
    tuned = await world.promote("smollm2-ft-2", job="support-finetune-2")
    raw = world.cluster.get(names.AGENT_KIND, "support")
    assert raw is not None
    world.cluster.put(raw | {"status": {}})

    world.cluster.faults.append(Fault(at, error, "before", kind))
    for _ in range(3):
        with contextlib.suppress(Crash):
            await world.settle()
        world.restart()
        world.pass_time(60)

    assert active(world) == tuned
    assert world.status.previous is not None
    assert world.status.previous.revision == before


# --- mistakes ---


async def test_a_spec_that_cannot_be_read_changes_nothing_but_what_is_said(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    world.cluster.writes.clear()

    world.apply_agent(spec | {"agent": {"instructions": "x", "replicas": "many"}})
    await world.settle()

    assert world.condition("Degraded").reason == "InvalidSpec"
    assert "spec.agent.replicas" in world.condition("Degraded").message
    assert world.condition("Ready").status is ConditionStatus.TRUE
    assert {write.kind for write in world.cluster.writes} == {names.AGENT_KIND, "Event"}


@pytest.mark.parametrize(
    ("curation", "field"),
    [
        ({"schedule": "0 0 30 2 *"}, "spec.curation.schedule"),
        ({"schedule": "0 0 * * *", "timeZone": "Mars/Olympus"}, "spec.curation.timeZone"),
    ],
)
async def test_a_schedule_that_never_comes_is_told(
    world: Simulation, spec: Spec, curation: Spec, field: str
) -> None:
    await world.serve(spec | {"curation": curation})

    assert world.condition("Degraded").reason == "InvalidSpec"
    assert field in world.condition("Degraded").message
    assert world.condition("Ready").status is ConditionStatus.TRUE
    assert world.status.next_curation_time is None


@pytest.mark.parametrize(("before", "after"), [("Delete", "Retain"), ("Retain", "Delete")])
async def test_whether_the_volume_goes_with_its_agent_counts_in_a_spec_with_a_fault(
    world: Simulation, spec: Spec, before: str, after: str
) -> None:
    await world.serve(spec | {"deletionPolicy": before})
    fault = {"podTemplate": {"spec": {"nodeSelector": {"$patch": "remove"}}}}
    world.apply_agent(spec | {"agent": spec["agent"] | fault, "deletionPolicy": after})
    await world.settle()

    assert world.condition("Degraded").reason == "InvalidSpec"
    claim = world.cluster.get("PersistentVolumeClaim", "support-store")
    assert claim is not None
    assert len(claim["metadata"].get("ownerReferences", ())) == (after == "Delete")
    world.cluster.writes.clear()
    world.restart()
    await world.settle()
    assert world.cluster.writes == []


async def test_a_spec_with_a_fault_does_not_grow_the_volume(world: Simulation, spec: Spec) -> None:
    """It never shrinks again, and its user has been told that nothing of the spec is in force."""
    await world.serve(spec)
    fault = {"podTemplate": {"spec": {"nodeSelector": {"$patch": "remove"}}}}
    storage = {"volume": {"size": "2Ti"}}
    world.apply_agent(spec | {"agent": spec["agent"] | fault, "storage": storage, "deletionPolicy": "Delete"})
    await world.settle()

    claim = world.cluster.get("PersistentVolumeClaim", "support-store")
    assert claim is not None
    assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi"
    assert claim["metadata"]["ownerReferences"]


@pytest.mark.parametrize("fault", [{"schedule": "0 0 30 2 *"}, {"timeZone": "Mars/Olympus"}])
@pytest.mark.parametrize(
    ("part", "cron_job"), [("curation", "support-curate"), ("training", "support-finetune")]
)
async def test_a_schedule_that_becomes_a_fault_is_followed_no_more(
    world: Simulation, spec: Spec, part: str, cron_job: str, fault: Spec
) -> None:
    """The last one would go on, suspended or not: trainings cost money."""
    await world.serve(spec)
    assert world.cluster.get("CronJob", cron_job) is not None

    world.apply_agent(spec | {part: spec[part] | fault})
    await world.settle()
    held = world.cluster.get("CronJob", cron_job)
    assert held is not None  # a run of it that is under way goes on
    assert held["spec"]["suspend"] is True
    assert "timeZone" not in held["spec"]
    assert world.condition("Degraded").reason == "InvalidSpec"

    world.apply_agent(spec)
    await world.settle()
    again = world.cluster.get("CronJob", cron_job)
    assert again is not None
    assert again["spec"]["suspend"] is False
    assert again["spec"]["schedule"] == spec[part]["schedule"]
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_a_missing_secret_is_named(world: Simulation, spec: Spec) -> None:
    endpoint = {"baseURL": "http://models/v1", "apiKeySecretRef": {"name": "openai", "key": "apiKey"}}
    world.apply_agent(spec | {"model": {"base": "smollm2", "endpoint": endpoint}})
    await world.settle()
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "openai" not found'}
    world.node.stick("support", {"state": {"waiting": waiting}})
    await world.settle()

    for kind in ("Degraded", "Ready"):
        assert world.condition(kind).reason == "SecretNotFound"
        assert "'openai'" in world.condition(kind).message
        assert "'apiKey'" in world.condition(kind).message
    assert world.condition("Ready").status is ConditionStatus.FALSE
    assert world.condition("Degraded").status is ConditionStatus.TRUE


async def test_the_missing_secret_of_the_memory_is_named(world: Simulation, spec: Spec) -> None:
    memory = {"type": "PostgreSQL", "connectionSecretRef": {"name": "database"}}
    world.apply_agent(spec | {"agent": spec["agent"] | {"memory": memory}})
    await world.settle()
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "database" not found'}
    world.node.stick("support", {"state": {"waiting": waiting}})
    await world.settle()

    told = world.condition("Degraded")
    assert told.reason == "SecretNotFound"
    assert "'database' with the key 'uri'" in told.message
    assert "spec.agent.memory.connectionSecretRef" in told.message


async def test_an_unreachable_model_is_told_by_the_pod_that_gave_up(world: Simulation, spec: Spec) -> None:
    world.apply_agent(spec)
    await world.settle()
    message = (
        '{"kind":"Serve","version":1,"runId":"r","outcome":"Failed","reason":"ModelUnreachable",'
        '"message":"http://models:8000/v1 does not answer"}'
    )
    terminated = {"message": message, "finishedAt": "2026-03-02T12:00:00Z"}
    status = {
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
        "lastState": {"terminated": terminated},
    }
    world.node.stick("support", status, restarts=1)
    await world.settle()

    assert world.condition("Degraded").reason == "ModelUnreachable"
    assert "http://models:8000/v1 does not answer" in world.condition("Degraded").message

    # and when it answers again, that is told too
    world.node.roll_out("support")
    await world.settle()
    assert world.condition("Degraded").reason == "AsExpected"
    assert "Recovered" in world.events()


# --- decisions ---

LOW = {"lower": -900, "delta": -100}
CANARY = {"canary": {"steps": [{"percent": 10, "pauseSeconds": 3600}]}}


async def rejected_and_held(world: Simulation, spec: Spec) -> tuple[str, str]:
    """One revision that the gate rejected, and a candidate whose verdict is inconclusive."""
    await world.serve(spec)
    first = await world.train("model-a", job="support-finetune-1")
    await world.evaluate(first, **LOW)
    world.pass_time(60)
    second = await world.train("model-b", job="support-finetune-2")
    await world.evaluate(second, lower=-500, delta=300)
    assert world.condition("Promoted").reason == "Held"
    return first, second


async def test_an_approval_comes_before_a_candidate_that_waits(world: Simulation, spec: Spec) -> None:
    first, second = await rejected_and_held(world, spec)

    world.decide(first, "Approved")
    await world.settle()
    assert active(world) == first

    # and the other one has its turn after that
    world.node.roll_out("support")
    await world.settle()
    world.pass_time(601)
    await world.validate(first, score=8000)
    assert world.status.candidate is not None
    assert world.status.candidate.revision == second
    assert world.jobs("evaluate") == [names.evaluate_job(second, "1")]


async def test_what_is_approved_is_kept_until_it_can_be_served(world: Simulation, spec: Spec) -> None:
    spec = spec | {"revisionHistoryLimit": 0}
    await world.serve(spec)
    first = await world.train("model-a", job="support-finetune-1")
    await world.evaluate(first, **LOW)
    world.pass_time(60)
    world.watch_is_frozen = True  # both come at once
    world.decide(first, "Approved")
    world.node.start_job("support", "finetune", "support-finetune-2")
    world.node.finish_job("support-finetune-2", training_report("model-b"))
    world.watch_is_frozen = False
    world.restart()
    await world.settle()

    assert active(world) == first


@pytest.mark.parametrize("waiting", ["suspended", "in its canary"])
async def test_a_newer_model_waits_for_a_candidate_that_was_approved(
    world: Simulation, spec: Spec, waiting: str
) -> None:
    spec = spec | {"rollout": {"approval": "Manual"} if waiting == "suspended" else CANARY}
    await world.serve(spec)
    first = await world.train("model-a", job="support-finetune-1")
    await world.evaluate(first, lower=2500)
    if waiting == "suspended":
        world.apply_agent(spec | {"suspend": True})
    world.decide(first, "Approved")
    await world.settle()
    second = await world.train("model-b", job="support-finetune-2")
    assert world.status.candidate is not None
    assert world.status.candidate.revision == first
    assert second in world.revisions()

    world.apply_agent(spec)
    await world.settle()
    if waiting == "in its canary":
        world.pass_time(3601)
        await world.settle()
    assert active(world) == first
    assert world.status.candidate is not None
    assert world.status.candidate.revision == second


async def test_an_approval_promotes_once(world: Simulation, spec: Spec) -> None:
    """A base model was approved and taken back. Named again, it has to pass the gate."""
    other = base_of("qwen3")
    await world.serve(spec)
    await world.curate("d1")
    for base in ("qwen3", "smollm2"):
        world.apply_agent(spec | {"model": {"base": base}})
        await world.settle()
        if base == "qwen3":
            world.decide(other, "Approved")
            await world.settle()
            world.node.stick("support", LOOP, restarts=3)
            await world.settle()
            assert world.revision_status(other).state is RevisionState.ROLLED_BACK
            assert approved(world, other) == ("False", "ApprovalSpent")
        world.node.roll_out("support")
        await world.settle()

    world.apply_agent(spec | {"model": {"base": "qwen3"}})
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    assert active(world) == base_of("smollm2")
    assert approved(world, other) == ("False", "ApprovalSpent")
    assert world.jobs("evaluate") == [names.evaluate_job(other, "")]

    for decision in ("Auto", "Approved"):
        world.decide(other, decision)
        await world.settle()
    assert active(world) == other


async def test_a_slip_of_the_base_model_costs_no_candidate(world: Simulation, spec: Spec) -> None:
    spec = spec | {"rollout": {"approval": "Manual"}}
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, lower=2500)

    for base in ("smollm3", "smollm2"):
        world.apply_agent(spec | {"model": {"base": base}})
        await world.settle()
    assert world.status.candidate is not None
    assert world.status.candidate.revision == revision

    world.decide(revision, "Approved")
    await world.settle()
    assert active(world) == revision


async def test_a_rejection_that_is_taken_back_at_once_is_heard(world: Simulation, spec: Spec) -> None:
    """Between the two writes of a rejection: the agent's status, and the revision's."""
    await world.serve(spec)
    revision = await world.train()
    world.decide(revision, "Rejected")
    world.cluster.faults.append(Fault(at=1, error=Crash()))
    with pytest.raises(Crash):
        await world.settle()
    world.decide(revision, "Approved")
    world.restart()
    await world.settle()

    assert active(world) == revision


async def test_a_rejection_is_remembered_without_a_history(world: Simulation, spec: Spec) -> None:
    """The next run finds nothing new to train, and names the model of before."""
    await world.serve(spec | {"revisionHistoryLimit": 0})
    revision = await world.train()
    world.decide(revision, "Rejected")
    await world.settle()

    world.pass_time(86_400)
    await world.train(job="support-finetune-2")

    assert world.status.candidate is None
    assert world.revision_status(revision).state is RevisionState.REJECTED


async def test_a_new_base_model_comes_first_and_then_what_was_trained_from_it(
    world: Simulation, spec: Spec
) -> None:
    """It is taken up when the bake ends, and by then a model has been trained from it."""
    await world.serve(spec)
    await world.curate("d1")
    await world.evaluate(await world.train(), lower=2500)
    world.node.roll_out("support")
    await world.settle()
    world.apply_agent(spec | {"model": {"base": "qwen3"}})
    await world.settle()
    world.node.start_job("support", "finetune", "support-finetune-2")
    world.pass_time(60)
    world.node.finish_job("support-finetune-2", training_report("qwen3-ft", base="qwen3"))
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    world.pass_time(3600)
    assert world.status.active is not None
    await world.validate(world.status.active.revision, score=8000)
    assert world.status.candidate is not None
    assert world.status.candidate.revision == base_of("qwen3")

    await world.evaluate(base_of("qwen3"), **LOW)
    assert world.revision_status(base_of("qwen3")).state is RevisionState.REJECTED
    assert world.status.candidate.model_id == "qwen3-ft"


# --- what waits, and what a person says meanwhile ---


async def tried_while_another_waits(world: Simulation, spec: Spec) -> tuple[str, str]:
    """An approved revision in its canary, and one that passed the gate and waits."""
    await world.serve(spec | {"rollout": CANARY | {"approval": "Manual"}})
    first = await world.train("model-a", job="support-finetune-1")
    await world.evaluate(first, **LOW)
    world.pass_time(60)
    second = await world.train("model-b", job="support-finetune-2")
    await world.evaluate(second, lower=2500)
    world.decide(first, "Approved")
    await world.settle()
    assert world.status.candidate is not None
    assert world.status.candidate.revision == first
    assert world.revision_status(second).state is RevisionState.WAITING
    return first, second


async def test_what_waited_is_promoted_once(world: Simulation, spec: Spec) -> None:
    first, second = await tried_while_another_waits(world, spec)
    world.decide(second, "Approved")
    world.decide(first, "Rejected")
    await world.settle()
    world.pass_time(3601)
    await world.settle()
    world.node.roll_out("support")
    await world.settle()
    world.pass_time(601)
    await world.validate(second, score=8000)
    world.pass_time(86_400)
    await world.settle()

    assert active(world) == second
    assert candidate(world) is None
    assert world.status.previous is not None
    assert world.status.previous.revision == base_of("smollm2")


async def test_a_report_of_what_is_known_takes_no_turn_away(world: Simulation, spec: Spec) -> None:
    first, second = await tried_while_another_waits(world, spec)
    await world.train("model-a", job="support-finetune-3")
    assert world.status.training is not None
    assert world.status.training.revision == first

    world.decide(first, "Rejected")
    await world.settle()
    assert world.status.candidate is not None
    assert world.status.candidate.revision == second


async def test_of_many_that_were_trained_while_one_was_held_the_newest_has_its_turn(
    world: Simulation, spec: Spec
) -> None:
    """The others are kept as long as any history, and can be approved as ever."""
    pin = {"rollout": {"pin": base_of("smollm2")}, "revisionHistoryLimit": 2}
    await world.serve(spec | pin)
    held = await world.train("model-0", job="support-finetune-0")
    world.decide(held, "Approved")
    await world.settle()
    trained = []
    for number in range(1, 6):
        world.pass_time(86_400)
        trained.append(await world.train(f"model-{number}", job=f"support-finetune-{number}"))
    kept = set(world.revisions())
    assert kept == {base_of("smollm2"), held, *trained[-3:]}
    states = [world.revision_status(name).state for name in trained[-3:]]
    assert states == [RevisionState.RETIRED, RevisionState.RETIRED, RevisionState.WAITING]

    world.apply_agent(spec)
    await world.settle()
    assert active(world) == held
    assert world.status.candidate is not None
    assert world.status.candidate.revision == trained[-1]


async def test_a_slip_of_the_base_model_costs_no_approval(world: Simulation, spec: Spec) -> None:
    first, _ = await tried_while_another_waits(world, spec)
    spec = spec | {"rollout": CANARY | {"approval": "Manual"}}
    for base in ("smollm3", "smollm2"):
        world.apply_agent(spec | {"model": {"base": base}})
        await world.settle()
        world.node.roll_out("support")
        await world.settle()

    assert world.status.candidate is not None
    assert world.status.candidate.revision == first
    assert approved(world, first) == ("True", "ApprovedByPerson")
    world.pass_time(3601)
    await world.settle()
    assert active(world) == first


async def test_an_approval_is_spent_by_a_trial_that_goes_wrong(world: Simulation, spec: Spec) -> None:
    """Of the previous revision as well, which stays that."""
    await world.serve(spec)
    first = await world.promote("model-a", job="support-finetune-1")
    second = await world.promote("model-b", job="support-finetune-2")
    world.apply_agent(spec | {"rollout": CANARY})
    await world.settle()
    for _ in range(2):  # the second one is none: it says what was said before
        world.decide(first, "Approved")
        await world.settle()
        world.node.stick("support", LOOP, restarts=3)
        await world.settle()
        world.node.roll_out("support")
        await world.settle()
        assert active(world) == second
        assert candidate(world) is None
        assert approved(world, first) == ("False", "ApprovalSpent")
    assert world.events().count("CanaryAborted") == 1


async def test_what_is_returned_to_is_no_candidate_any_more(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    first = await world.promote("model-a", job="support-finetune-1")
    second = await world.promote("model-b", job="support-finetune-2")
    world.apply_agent(spec | {"rollout": CANARY})
    await world.settle()
    world.decide(first, "Approved")
    await world.settle()
    assert world.status.candidate is not None
    assert world.status.candidate.revision == first
    told = (ServedCount(config=world.stamp(), served_as=ServedAs.ACTIVE, requests=100, errors=90),)
    world.requests.told = Heard(ServedCounts(trial=None, counts=told))
    await world.settle()

    assert active(world) == first
    assert candidate(world) is None
    assert world.revision_status(second).state is RevisionState.ROLLED_BACK


def approved(world: Simulation, revision: str) -> tuple[str, str]:
    """Status and reason of the revision's condition Approved."""
    (found,) = (item for item in world.revision_status(revision).conditions if item.type == "Approved")
    return str(found.status), found.reason


async def test_a_rejection_that_is_taken_back_leaves_the_candidate_its_chance(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    revision = await world.train()
    world.decide(revision, "Rejected")
    await world.settle()
    assert world.status.candidate is None
    assert world.revision_status(revision).state is RevisionState.REJECTED

    world.decide(revision, "Auto")
    await world.settle()
    assert world.status.candidate is not None
    assert world.status.candidate.revision == revision

    await world.evaluate(revision, lower=2500)
    assert active(world) == revision


async def test_no_word_of_a_person_brings_a_verdict_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, **LOW)
    for decision in ("Rejected", "Auto"):
        world.decide(revision, decision)
        await world.settle()

    assert world.status.candidate is None
    assert world.revision_status(revision).state is RevisionState.REJECTED


async def test_an_approval_of_another_base_says_when_it_counts(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    revision = await world.train()
    await world.evaluate(revision, **LOW)
    world.apply_agent(spec | {"model": {"base": "qwen3"}})
    await world.settle()

    world.decide(revision, "Approved")
    await world.settle()

    assert approved(world, revision) == ("False", "OtherBase")


async def test_what_is_served_does_not_ask_for_a_persons_word(world: Simulation, spec: Spec) -> None:
    await world.serve(spec | {"rollout": {"approval": "Manual"}})

    assert approved(world, base_of("smollm2"))[1] == "NoVerdict"
