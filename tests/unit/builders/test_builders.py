"""The promises that single children keep."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from evolving_operator.api import names
from evolving_operator.api.network_policy import NetworkPolicy, NetworkPolicyMode
from evolving_operator.core.builders.base import Manifest, with_applied_hash
from evolving_operator.core.builders.cron_job import build_curation_cron_job, build_training_cron_job
from evolving_operator.core.builders.deployment import build_deployment
from evolving_operator.core.builders.job import build_on_demand_job
from evolving_operator.core.builders.network_policy import build_network_policy
from evolving_operator.core.render import render_agent_config
from support.golden import CASES, build_all, context_of

_WITH_PODS = ("deployment", "curation_cron_job", "training_cron_job", "evaluation_job", "validation_job")


def _pod(manifest: Manifest) -> Manifest:
    pod: Manifest = manifest["spec"].get("jobTemplate", manifest)["spec"]["template"]["spec"]
    return pod


def _applied_hash(manifest: Manifest) -> str:
    applied: str = manifest["metadata"]["annotations"][names.ANNOTATION_APPLIED_HASH]
    return applied


@pytest.mark.parametrize("case", CASES)
def test_what_has_no_owner_carries_no_label_by_which_argo_cd_would_prune_it(case: str) -> None:
    for name, child in build_all(context_of(case)).items():
        metadata = child["metadata"]
        assert ("ownerReferences" in metadata) == (names.LABEL_INSTANCE in metadata["labels"]), name


@pytest.mark.parametrize("case", CASES)
def test_every_child_belongs_to_its_agent_and_carries_the_hash_of_itself(case: str) -> None:
    context = context_of(case)
    for name, child in build_all(context).items():
        assert child["metadata"]["namespace"] == context.namespace
        assert child["metadata"]["labels"][names.LABEL_AGENT] == context.name
        assert with_applied_hash(child) == child, "the hash depends on itself"
        owners = [owner["uid"] for owner in child["metadata"].get("ownerReferences", [])]
        retained = name == "store_claim" and case != "openai"  # that one says deletionPolicy: Delete
        outlives = retained or name == "provider_debt"
        assert owners == ([] if outlives else [context.uid])


def test_the_hash_follows_the_content_and_not_the_order_of_keys() -> None:
    manifest = {"kind": "X", "metadata": {"name": "a"}, "spec": {"one": 1, "two": 2}}
    reordered = {"spec": {"two": 2, "one": 1}, "metadata": {"name": "a"}, "kind": "X"}
    changed = {"kind": "X", "metadata": {"name": "a"}, "spec": {"one": 1, "two": 3}}

    assert _applied_hash(with_applied_hash(manifest)) == _applied_hash(with_applied_hash(reordered))
    assert _applied_hash(with_applied_hash(manifest)) != _applied_hash(with_applied_hash(changed))
    assert "annotations" not in manifest["metadata"], "the input was changed"


def test_hashes_are_the_same_in_a_process_that_orders_its_sets_differently() -> None:
    script = (
        "from support.golden import *\n"
        "for case in CASES:\n"
        "    for name, child in build_all(context_of(case)).items():\n"
        "        print(case, name, child['metadata']['annotations']['evolvingagents.io/applied-hash'])"
    )
    roots = [root for root in sys.path if root]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(roots)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "4242")
    }
    assert len(outputs) == 1
    assert outputs.pop().count("\n") > 20


@pytest.mark.parametrize("case", ["lora", "openai"])
def test_pods_hold_no_credentials_and_no_rights(case: str) -> None:
    built = build_all(context_of(case))
    for name in _WITH_PODS:
        pod = _pod(built[name])
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        own = pod["containers"][0]
        assert own["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_replicas_do_not_change_what_a_pod_serves() -> None:
    context = context_of("lora")
    more = context.spec.model_copy(update={"agent": context.spec.agent.model_copy(update={"replicas": 5})})
    scaled = build_deployment(replace(context, spec=more), "0123456789")
    before = build_deployment(context, "0123456789")

    assert scaled["spec"].pop("replicas") == 5
    assert before["spec"].pop("replicas") == 2
    assert scaled["spec"] == before["spec"]


def test_the_config_volume_is_mounted_whole_so_that_it_is_refreshed() -> None:
    pod = _pod(build_all(context_of("lora"))["deployment"])
    assert not [mount for mount in pod["containers"][0]["volumeMounts"] if "subPath" in mount]


def test_pods_share_a_node_only_where_the_volume_demands_it() -> None:
    bound, free = build_all(context_of("lora")), build_all(context_of("openai"))
    for name in _WITH_PODS:
        (term,) = _pod(bound[name])["affinity"]["podAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        labels = bound[name]["spec"].get("jobTemplate", bound[name])["spec"]["template"]["metadata"]["labels"]
        # Without matching its own term the first pod of an agent could never be scheduled.
        assert term["labelSelector"]["matchLabels"].items() <= labels.items()
        assert "affinity" not in _pod(free[name])
    assert bound["disruption_budget"]["spec"]["maxUnavailable"] == "100%"
    assert free["disruption_budget"]["spec"]["maxUnavailable"] == 1


def test_job_pods_are_never_selected_by_the_service() -> None:
    built = build_all(context_of("lora"))
    selector = built["service"]["spec"]["selector"]
    assert selector == built["deployment"]["spec"]["selector"]["matchLabels"]
    for name in _WITH_PODS[1:]:
        labels = built[name]["spec"].get("jobTemplate", built[name])["spec"]["template"]["metadata"]["labels"]
        assert not selector.items() <= labels.items()


def test_a_network_policy_lets_the_agents_own_pods_through() -> None:
    context = context_of("object-store")
    built = build_all(context)
    policy = built["network_policy"]["spec"]
    own = {"podSelector": policy["podSelector"]}
    for name in ("deployment", "curation_cron_job"):
        template = built[name]["spec"].get("jobTemplate", built[name])["spec"]["template"]
        assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()

    (ingress,) = policy["ingress"]
    (port,) = _pod(built["deployment"])["containers"][0]["ports"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": port["containerPort"]}]
    assert ingress["from"][0] == own
    assert policy["egress"][0] == {"to": [own]}


def test_who_names_nobody_lets_everybody_ask_and_leaves_egress_open() -> None:
    policy = build_all(context_of("openai"))["network_policy"]["spec"]
    assert "from" not in policy["ingress"][0]
    assert policy["policyTypes"] == ["Ingress"]
    assert "egress" not in policy


def test_egress_that_names_nothing_is_closed_but_for_names_and_own_pods() -> None:
    context = context_of("minimal")
    closed = NetworkPolicy(mode=NetworkPolicyMode.ENABLED, egress=())
    agent = context.spec.agent.model_copy(update={"network_policy": closed})
    spec = context.spec.model_copy(update={"agent": agent})
    policy = build_network_policy(replace(context, spec=spec))["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [sorted(rule) for rule in policy["egress"]] == [["to"], ["ports"]]
    assert {port["port"] for port in policy["egress"][1]["ports"]} == {53}


def test_a_permanent_failure_is_not_tried_again_and_an_eviction_is_no_failure() -> None:
    rules = build_all(context_of("lora"))["training_job"]["spec"]["podFailurePolicy"]["rules"]
    assert [(rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in rules] == [
        ("FailJob", [42]),
        ("Ignore", None),
    ]


def test_the_training_key_is_given_only_where_it_differs() -> None:
    def variables(case: str) -> set[str]:
        pod = _pod(build_all(context_of(case))["training_cron_job"])
        return {variable["name"] for variable in pod["containers"][0]["env"]}

    assert {"EVOLVING_API_KEY", "EVOLVING_TRAINING_API_KEY"} <= variables("openai")
    assert not {"EVOLVING_API_KEY", "EVOLVING_TRAINING_API_KEY"} & variables("lora")


def test_a_revision_leaves_the_decision_to_people() -> None:
    assert "decision" not in build_all(context_of("lora"))["revision"]["spec"]


def test_the_configuration_changes_its_hash_with_anything_that_changes_an_answer() -> None:
    context = context_of("lora")
    base = render_agent_config(context, "support-1", "m")
    other_text = context.spec.model_copy(
        update={"agent": context.spec.agent.model_copy(update={"instructions": "Else."})}
    )

    assert render_agent_config(context, "support-1", "m").hash == base.hash
    assert render_agent_config(context, "support-1", "n").hash != base.hash
    assert render_agent_config(replace(context, spec=other_text), "support-1", "m").hash != base.hash


def test_nothing_is_built_from_a_block_that_is_not_there() -> None:
    minimal = context_of("minimal")
    with pytest.raises(ValueError, match=r"greeter has no spec\.curation"):
        build_curation_cron_job(minimal)
    with pytest.raises(ValueError, match=r"greeter has no spec\.training"):
        build_training_cron_job(minimal)
    with pytest.raises(ValueError, match=r"greeter has no spec\.agent\.networkPolicy"):
        build_network_policy(minimal)
    with pytest.raises(ValueError, match="no Job is run on demand for 'evaluate'"):
        build_on_demand_job(minimal, names.COMPONENT_EVALUATE, "evaluate")


@pytest.mark.parametrize("case", CASES)
def test_derived_names_fit_with_the_longest_agent_name(case: str) -> None:
    context = replace(context_of(case), name="a" * names.MAX_AGENT_NAME)
    for child in build_all(context).values():
        limit = {"CronJob": 52, "AgentRevision": 253}.get(child["kind"], 63)
        assert len(child["metadata"]["name"]) <= limit
        assert all(len(value) <= 63 for value in child["metadata"]["labels"].values())
