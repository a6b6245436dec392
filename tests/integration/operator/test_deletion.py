"""Deletion on a real API server: it never waits, and what outlives the agent follows its deletionPolicy."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_agent.contract.report import Outcome, ReleaseReport
from evolving_operator.api import names
from support.cluster import eventually
from support.kubelet import Kubelet
from support.operator_process import Place, StartOperator

pytestmark = pytest.mark.cluster

PROVIDER = "https://provider/v1"
AGENT: dict[str, Any] = {
    "apiVersion": names.API_VERSION,
    "kind": names.AGENT_KIND,
    "metadata": {"name": "support"},
    "spec": {
        "model": {
            "base": "gpt",
            "endpoint": {
                "baseURL": PROVIDER,
                "apiKeySecretRef": {"name": "openai", "key": "apiKey"},
            },
        },
        "agent": {"instructions": "You route requests."},
        "training": {"schedule": "0 3 1 1 *", "backend": {"type": "OpenAI"}},
        "deletionPolicy": "Delete",
    },
}
RETAINED = {**AGENT, "spec": {**AGENT["spec"], "deletionPolicy": "Retain"}}


def owned(place: Place, kinds: str) -> dict[str, bool]:
    """Names of the objects that belong to the agent, and whether they go with it."""
    return {
        raw["metadata"]["name"]: bool(raw["metadata"].get("ownerReferences"))
        for raw in place.get(kinds, "-l", f"{names.LABEL_AGENT}=support")["items"]
    }


def debts(place: Place) -> list[str]:
    return [name for name in owned(place, "configmaps") if name.startswith("support-provider-")]


def test_the_volume_and_the_provider_follow_the_policy_whenever_it_changes(
    place: Place, start_operator: StartOperator
) -> None:
    start_operator()
    place.apply(RETAINED)
    eventually(lambda: owned(place, "pvc") == {"support-store": False}, 30, "a claim that stays")
    assert debts(place) == []

    place.apply(AGENT)
    eventually(lambda: owned(place, "pvc") == {"support-store": True}, 30, "a claim that goes")
    eventually(lambda: len(debts(place)) == 1, 30, "the debt is written down")

    place.apply(RETAINED)
    eventually(lambda: owned(place, "pvc") == {"support-store": False}, 30, "a claim that stays again")
    eventually(lambda: debts(place) == [], 30, "nothing is owed any more")

    place.kubectl("delete", "evolvingagent/support", "--timeout=20s")
    eventually(lambda: owned(place, "deployments,services,configmaps,cronjobs") == {}, 60, "all else is gone")
    assert owned(place, "pvc") == {"support-store": False}


def test_a_deletion_while_no_operator_runs_is_made_good(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    operator = start_operator()
    place.apply(AGENT)
    eventually(lambda: len(debts(place)) == 1, 30, "the debt is written down")
    eventually(lambda: owned(place, "pvc") == {"support-store": True}, 30, "a claim that goes")
    uid = place.get("evolvingagent", "support")["metadata"]["uid"]
    operator.kill()

    place.kubectl("delete", "evolvingagent/support", "--timeout=20s")
    eventually(lambda: owned(place, "deployments,services,cronjobs") == {}, 60, "all else is gone")
    assert debts(place) == [names.provider_debt("support", uid, PROVIDER)]

    operator = start_operator()
    job = names.release_job("support", uid, PROVIDER)
    report = ReleaseReport(
        run_id=job, outcome=Outcome.SUCCEEDED, reason="Released", message="1 models deleted", models_deleted=1
    )
    kubelet.end_job(job, report)
    eventually(lambda: debts(place) == [], 30, "the debt is paid")
    eventually(lambda: owned(place, "jobs,pods") == {}, 60, "and its Job is gone")
    assert "Released" in [event["reason"] for event in place.get("events")["items"]]
    assert operator.errors() == []
    assert operator.refusals() == []


def test_a_volume_that_its_pods_hold_is_waited_for(place: Place, start_operator: StartOperator) -> None:
    operator = start_operator()
    place.apply(RETAINED)
    eventually(lambda: owned(place, "pvc") == {"support-store": False}, 30, "the claim")
    held = '{"metadata":{"finalizers":["example.com/in-use"]}}'  # as kubernetes.io/pvc-protection does
    place.kubectl("patch", "pvc/support-store", "--type=merge", "-p", held)

    place.kubectl("delete", "pvc/support-store", "--wait=false")
    eventually(
        lambda: place.condition("support", "Degraded").get("reason") == "ChildDeleted", 40, "it is told"
    )
    before = place.get("pvc", "support-store")["metadata"]["uid"]
    written = [line for line in operator.lines() if line["message"] == "wrote" and "Claim" in line["object"]]
    assert len(written) == 1

    place.kubectl("patch", "pvc/support-store", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    eventually(
        lambda: [item["metadata"]["uid"] for item in place.get("pvc")["items"]] not in ([], [before]),
        30,
        "a new one",
    )
    eventually(
        lambda: place.condition("support", "Degraded").get("reason") == "AsExpected", 30, "nothing is wrong"
    )
    assert operator.errors() == []
