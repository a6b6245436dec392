"""The operator on a real API server: the loop, its death at bad moments, two of it, and what it leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from evolving_agent.contract.report import Outcome, SuiteResult, ValidationReport
from evolving_operator.api import names
from evolving_operator.testing.simulation import evaluation_report, revision_of, training_report
from support.cluster import eventually
from support.kubelet import Kubelet
from support.operator_process import (
    LEASE_SECONDS,
    Place,
    StartOperator,
    restarted_with_nothing_to_do,
)

pytestmark = pytest.mark.cluster

AGENT: dict[str, Any] = {
    "apiVersion": names.API_VERSION,
    "kind": names.AGENT_KIND,
    "metadata": {"name": "support"},
    "spec": {
        "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
        "agent": {"instructions": "You route requests.", "replicas": 2},
        "curation": {"schedule": "0 1 1 1 *"},
        "training": {
            "schedule": "0 3 1 1 *",
            "backend": {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}},
        },
        "rollout": {"bakeSeconds": 1},
    },
}
REVISION = revision_of("support", "smollm2-ft-1")


def with_spec(**spec: Any) -> dict[str, Any]:
    return {**AGENT, "spec": {**AGENT["spec"], **spec}}


def status(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = place.get("evolvingagent", "support").get("status", {})
    return found


def is_active(place: Place, model: str) -> Callable[[], bool]:
    return lambda: status(place).get("active", {}).get("modelID") == model


def stamp(place: Place) -> str:
    template = place.get("deployment", "support")["spec"]["template"]["metadata"]
    return str(template["annotations"][names.ANNOTATION_CONFIG_HASH])


def versions(place: Place) -> dict[str, str]:
    """The resource version of all that the operator writes."""
    kinds = "evolvingagents,agentrevisions,configmaps,services,serviceaccounts,cronjobs,jobs,pvc"
    return {
        f"{raw['kind']}/{raw['metadata']['name']}": raw["metadata"]["resourceVersion"]
        for raw in place.get(kinds)["items"]
    }


def served(place: Place, kubelet: Kubelet) -> None:
    """The agent is applied, and served."""
    place.apply(AGENT)
    eventually(is_active(place, "smollm2"), timeout=30, message="the base model is active")
    eventually(lambda: place.get("deployment", "support"), timeout=30, message="a Deployment")
    kubelet.wait_for_service("support", stamp(place), replicas=2)
    eventually(
        lambda: place.condition("support", "Ready").get("status") == "True", timeout=30, message="Ready"
    )


def validation(score: int) -> ValidationReport:
    return ValidationReport(
        run_id="v",
        outcome=Outcome.SUCCEEDED,
        reason="Measured",
        message="",
        revision=REVISION,
        suites=(SuiteResult(suite="holdout", samples=50, candidate_bps=score),),
    )


def learn(place: Place, kubelet: Kubelet) -> None:
    """A training on demand, and the evaluation of what it made."""
    place.kubectl("annotate", "--overwrite", "evolvingagent/support", f"{names.ANNOTATION_RUN}=finetune:1")
    kubelet.end_job(names.on_demand_job("support", "finetune", "finetune:1"), training_report("smollm2-ft-1"))
    kubelet.end_job(names.evaluate_job(REVISION, ""), evaluation_report(REVISION, lower=5000))


def test_the_loop_goes_round_and_back(place: Place, kubelet: Kubelet, start_operator: StartOperator) -> None:
    operator = start_operator()
    served(place, kubelet)
    old_stamp = stamp(place)

    # a trained and proven model takes over, by a rolling restart
    learn(place, kubelet)
    eventually(lambda: stamp(place) != old_stamp, timeout=30, message="another stamp")
    assert status(place)["active"]["modelID"] == "smollm2-ft-1"
    kubelet.wait_for_service("support", stamp(place), replicas=2)

    # and goes back, because it answers worse than it did in its evaluation
    kubelet.end_job(names.validate_job(REVISION), validation(score=3000))
    eventually(is_active(place, "smollm2"), timeout=30, message="the base model is active again")
    eventually(lambda: stamp(place) == old_stamp, timeout=30, message="the old stamp")
    kubelet.wait_for_service("support", old_stamp, replicas=2)
    assert place.get("agentrevision", REVISION)["status"]["state"] == "RolledBack"
    assert place.condition("support", "Promoted")["reason"] == "RolledBack"

    # each transition was told once
    events = [event["reason"] for event in place.get("events")["items"]]
    for reason in ("Adopted", "CandidateFound", "VerdictPassed", "Promoted", "RolledOut", "RolledBack"):
        assert events.count(reason) == 1
    assert operator.errors() == []
    assert operator.refusals() == []
    assert operator.stop() == 0


def test_a_killed_operator_is_taken_over_from_where_it_was(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    operator = start_operator()
    served(place, kubelet)
    place.kubectl("annotate", "evolvingagent/support", f"{names.ANNOTATION_RUN}=finetune:1")
    training = names.on_demand_job("support", "finetune", "finetune:1")
    eventually(lambda: kubelet.pods(f"job-name={training}"), timeout=30, message="the training's pod")

    # each time, things go on while nobody looks
    operator.kill()
    kubelet.end_job(training, training_report("smollm2-ft-1"))
    operator = start_operator()
    job = names.evaluate_job(REVISION, "")
    eventually(lambda: kubelet.pods(f"job-name={job}"), timeout=60, message="the evaluation's pod")
    operator.kill()
    kubelet.end_job(job, evaluation_report(REVISION, lower=5000))
    operator = start_operator()
    eventually(is_active(place, "smollm2-ft-1"), timeout=60, message="the promotion")
    operator.kill()  # in the middle of what follows from it
    operator = start_operator()
    validation_job = names.validate_job(REVISION)

    def validation_has_begun() -> bool:
        kubelet.serve("support")
        return bool(kubelet.pods(f"job-name={validation_job}"))

    eventually(validation_has_begun, timeout=60, message="the validation's pod")
    kubelet.end_job(validation_job, validation(score=8500))

    eventually(lambda: status(place)["rollout"]["step"] == "Done", timeout=30, message="the rollout's end")
    assert place.get("agentrevision", REVISION)["status"]["state"] == "Active"
    assert len(place.get("jobs")["items"]) == 3
    assert operator.errors() == []


def test_a_restarted_operator_writes_nothing(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    operator = start_operator()
    served(place, kubelet)
    eventually(
        lambda: place.condition("support", "Progressing").get("reason") == "Converged",
        timeout=30,
        message="Converged",
    )

    restarted_with_nothing_to_do(operator, start_operator, place, versions, AGENT)


def test_it_tells_how_it_is(place: Place, kubelet: Kubelet, start_operator: StartOperator) -> None:
    operator = start_operator()
    served(place, kubelet)

    assert operator.ask("/readyz") == "ok"
    assert operator.ask("/healthz") == "ok"
    seen = eventually(operator.metrics, timeout=10, message="metrics")
    assert seen["evolving_operator_leader"] == 1
    assert seen["evolving_operator_agents"] == 1
    ready = f'evolving_operator_agent_ready{{agent="support",namespace="{place.namespace}"}}'
    assert seen[ready] == 1
    assert seen['evolving_operator_agent_conditions{status="True",type="Ready"}'] == 1
    assert seen['evolving_operator_reconciles_total{result="success"}'] > 0
    # a renewal of the Lease has come back through the watch
    eventually(
        lambda: operator.metrics()["evolving_operator_watch_heartbeat_age_seconds"] < LEASE_SECONDS,
        timeout=LEASE_SECONDS * 3,
        message="a heartbeat",
    )


def test_another_process_takes_over(place: Place, start_operator: StartOperator) -> None:
    first = start_operator()
    eventually(first.is_leading, timeout=30, message="the first process leads")
    second = start_operator()
    place.apply(AGENT)
    eventually(is_active(place, "smollm2"), timeout=30, message="the first process decides")
    assert not second.is_leading()

    first.kill()
    killed = time.monotonic()
    eventually(second.is_leading, timeout=20, message="the second process leads")
    assert time.monotonic() - killed >= LEASE_SECONDS / 2  # not before the Lease could have run out

    third = start_operator()
    assert second.stop() == 0
    eventually(third.is_leading, timeout=20, message="the third process leads")


def test_children_that_go_come_back_and_go_with_their_agent(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    start_operator()
    served(place, kubelet)

    kinds = ("deployment/support", "service/support", "configmap/support-config", "cronjob/support-curate")
    for child in kinds:
        uid = place.get(child)["metadata"]["uid"]
        place.kubectl("delete", child, "--wait=false")
        eventually(
            lambda child=child, uid=uid: (
                place.cluster.kubectl(  # type: ignore[misc]
                    "get", child, "-n", place.namespace, "-o", "jsonpath={.metadata.uid}", check=False
                )
                not in ("", uid)
            ),
            timeout=30,
            message=f"{child} is back",
        )

    place.kubectl("delete", "evolvingagent/support", "--timeout=20s")
    eventually(
        lambda: not place.get("deployments,services,cronjobs,agentrevisions")["items"],
        timeout=60,
        message="all children are gone",
    )
    assert [claim["metadata"]["name"] for claim in place.get("pvc")["items"]] == ["support-store"]


def test_problems_are_told_in_conditions(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    start_operator()
    place.apply(with_spec(curation={"schedule": "0 0 30 2 *"}))
    eventually(
        lambda: "spec.curation.schedule" in place.condition("support", "Degraded").get("message", ""),
        timeout=30,
        message="Degraded/InvalidSpec",
    )

    endpoint = {"baseURL": "https://models/v1", "apiKeySecretRef": {"name": "openai", "key": "apiKey"}}
    place.apply(with_spec(model={"base": "smollm2", "endpoint": endpoint}))
    kubelet.fail_to_start("support", "CreateContainerConfigError", 'secret "openai" not found')
    eventually(
        lambda: place.condition("support", "Degraded").get("reason") == "SecretNotFound",
        timeout=30,
        message="Degraded/SecretNotFound",
    )
    assert "'apiKey'" in place.condition("support", "Ready")["message"]
