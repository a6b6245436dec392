"""Drift on a real API server: what was changed comes back, what others own stays, and idle means idle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from evolving_operator.api import names
from support.cluster import eventually
from support.kubelet import Kubelet
from support.operator_process import Place, StartOperator, restarted_with_nothing_to_do

pytestmark = pytest.mark.cluster

AGENT: dict[str, Any] = {
    "apiVersion": names.API_VERSION,
    "kind": names.AGENT_KIND,
    "metadata": {"name": "support"},
    "spec": {
        "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
        "agent": {
            "instructions": "You route requests.",
            "replicas": 2,
            "networkPolicy": {
                "mode": "Enabled",
                "ingressFrom": [{"podSelector": {"matchLabels": {"app": "shop"}}}],
            },
            "podTemplate": {
                "metadata": {"annotations": {"team": "support"}},
                "spec": {
                    "tolerations": [{"key": "spot", "operator": "Exists"}],
                    "containers": [
                        {"name": "agent", "resources": {"limits": {"memory": "1024Mi"}}},
                        {"name": "proxy", "image": "proxy:1", "ports": [{"containerPort": 9000}]},
                    ],
                },
            },
        },
        "curation": {"schedule": "0 1 1 1 *", "timeZone": "Europe/Berlin"},
    },
}


def patch(place: Place, target: str, body: dict[str, Any], kind: str = "merge", *options: str) -> None:
    place.kubectl("patch", target, f"--type={kind}", "-p", json.dumps(body), *options)


def settled(place: Place, kubelet: Kubelet) -> None:
    place.apply(AGENT)
    eventually(lambda: place.get("deployment", "support"), timeout=30, message="a Deployment")
    template = place.get("deployment", "support")["spec"]["template"]["metadata"]
    kubelet.wait_for_service("support", template["annotations"][names.ANNOTATION_CONFIG_HASH], replicas=2)
    eventually(
        lambda: place.condition("support", "Progressing").get("reason") == "Converged",
        timeout=30,
        message="Converged",
    )


def versions(place: Place) -> dict[str, str]:
    """Of the specs, where a kind counts them: controllers write states at any time."""
    kinds = (
        "deployments,services,serviceaccounts,configmaps,pvc,poddisruptionbudgets,networkpolicies,cronjobs"
    )
    return {
        f"{raw['kind']}/{raw['metadata']['name']}": str(
            raw["metadata"].get("generation") or raw["metadata"]["resourceVersion"]
        )
        for raw in place.get(kinds)["items"]
        if names.LABEL_AGENT in raw["metadata"].get("labels", {})
    }


def has_field(place: Place, target: str, *path: str) -> Any:
    found: Any = place.get(*target.split("/"))
    for key in path:
        found = found.get(key, {}) if isinstance(found, dict) else found[int(key)]
    return found


# what a person changes → the field that comes back
CHANGES: dict[str, tuple[str, dict[str, Any], str, tuple[str, ...]]] = {
    "image": (
        "deployment/support",
        {"spec": {"template": {"spec": {"containers": [{"name": "agent", "image": "other:1"}]}}}},
        "strategic",
        ("spec", "template", "spec", "containers", "0", "image"),
    ),
    "sidecar's image": (
        "deployment/support",
        {"spec": {"template": {"spec": {"containers": [{"name": "proxy", "image": "other:1"}]}}}},
        "strategic",
        ("spec", "template", "spec", "containers", "1", "image"),
    ),
    "variable": (
        "deployment/support",
        {
            "spec": {
                "template": {
                    "spec": {
                        "containers": [{"name": "agent", "env": [{"name": "EVOLVING_STORE", "value": "/x"}]}]
                    }
                }
            }
        },
        "strategic",
        ("spec", "template", "spec", "containers", "0", "env"),
    ),
    "probe taken away": (
        "deployment/support",
        {"spec": {"template": {"spec": {"containers": [{"name": "agent", "readinessProbe": None}]}}}},
        "strategic",
        ("spec", "template", "spec", "containers", "0", "readinessProbe", "httpGet", "path"),
    ),
    "tolerations": (
        "deployment/support",
        {"spec": {"template": {"spec": {"tolerations": []}}}},
        "merge",
        ("spec", "template", "spec", "tolerations"),
    ),
    "replicas": ("deployment/support", {"spec": {"replicas": 0}}, "merge", ("spec", "replicas")),
    "selector": (
        "service/support",
        {"spec": {"selector": {"app.kubernetes.io/component": "other"}}},
        "merge",
        ("spec", "selector"),
    ),
    "port": (
        "service/support",
        {"spec": {"ports": [{"name": "http", "port": 81, "targetPort": "http"}]}},
        "merge",
        ("spec", "ports", "0", "port"),
    ),
    "document": (
        "configmap/support-config",
        {"data": {"agent_config.json": "{}"}},
        "merge",
        ("data", "agent_config.json"),
    ),
    "schedule": (
        "cronjob/support-curate",
        {"spec": {"schedule": "* * * * *"}},
        "merge",
        ("spec", "schedule"),
    ),
    "suspended": ("cronjob/support-curate", {"spec": {"suspend": True}}, "merge", ("spec", "suspend")),
    "Jobs that start suspended": (
        "cronjob/support-curate",
        {"spec": {"jobTemplate": {"spec": {"suspend": True}}}},
        "merge",
        ("spec", "jobTemplate", "spec", "suspend"),
    ),
    "time zone taken away": (
        "cronjob/support-curate",
        {"spec": {"timeZone": None}},
        "merge",
        ("spec", "timeZone"),
    ),
    "budget": (
        "pdb/support",
        {"spec": {"maxUnavailable": 0}},
        "merge",
        ("spec", "maxUnavailable"),
    ),
    "another kind of budget": (
        "pdb/support",
        {"spec": {"minAvailable": 1, "maxUnavailable": None}},
        "merge",
        ("spec",),
    ),
    "peers": (
        "networkpolicy/support",
        {"spec": {"ingress": [{}]}},
        "merge",
        ("spec", "ingress"),
    ),
    "whose network": (
        "networkpolicy/support",
        {"spec": {"podSelector": {"matchLabels": {"app": "other"}}}},
        "merge",
        ("spec", "podSelector"),
    ),
    "token": (
        "serviceaccount/support",
        {"automountServiceAccountToken": True},
        "merge",
        ("automountServiceAccountToken",),
    ),
    "owner": (
        "configmap/support-config",
        {"metadata": {"ownerReferences": None}},
        "merge",
        ("metadata", "ownerReferences", "0", "name"),
    ),
    "claim's label": (
        "pvc/support-store",
        {"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}},
        "merge",
        ("metadata", "labels", "app.kubernetes.io/managed-by"),
    ),
}


def test_a_pause_of_the_deployment_is_taken_back(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    """It would hold up every promotion, until it is taken for the candidate's fault."""
    operator = start_operator()
    settled(place, kubelet)

    place.kubectl("rollout", "pause", "deployment/support")

    eventually(
        lambda: not has_field(place, "deployment/support", "spec", "paused"), timeout=30, message="it goes on"
    )
    assert operator.errors() == []


def test_a_volume_that_somebody_has_grown_stays_so_when_its_owner_changes(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    storage_class = f"growing-{place.namespace}"
    with growing_volume(place, storage_class):
        operator = start_operator()
        volume = {"size": "10Gi", "storageClassName": storage_class, "accessModes": ["ReadWriteOnce"]}
        spec = {**AGENT["spec"], "storage": {"volume": volume}}
        place.apply({**AGENT, "spec": spec})
        eventually(
            lambda: place.kubectl("get", "pvc", "-o", "jsonpath={.items[*].status.phase}") == "Bound",
            timeout=60,
            message="a volume",
        )
        patch(place, "pvc/support-store", {"spec": {"resources": {"requests": {"storage": "20Gi"}}}})

        # when the claim is to belong to the agent, which the API server allows, but not to shrink
        place.apply({**AGENT, "spec": {**spec, "deletionPolicy": "Delete"}})

        eventually(
            lambda: has_field(place, "pvc/support-store", "metadata").get("ownerReferences"),
            timeout=30,
            message="an owner",
        )
        size = ("spec", "resources", "requests", "storage")
        assert has_field(place, "pvc/support-store", *size) == "20Gi"
        eventually(  # the status is written after the children
            lambda: place.condition("support", "Degraded").get("reason") == "AsExpected",
            timeout=30,
            message="nothing is wrong",
        )

        # and the user's own word is the last one
        volume["size"] = "30Gi"
        place.apply({**AGENT, "spec": spec})
        eventually(
            lambda: has_field(place, "pvc/support-store", *size) == "30Gi", timeout=30, message="30 GiB"
        )
        assert operator.errors() == []


@contextmanager
def growing_volume(place: Place, storage_class: str) -> Iterator[None]:
    """A volume for the agent's claim, of a class that lets claims grow."""
    name = f"volume-{place.namespace}"
    place.cluster.apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": storage_class},
            "provisioner": "kubernetes.io/no-provisioner",
            "allowVolumeExpansion": True,
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "10Gi"},
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": storage_class,
                "hostPath": {"path": "/nowhere"},
                "claimRef": {"namespace": place.namespace, "name": "support-store"},
            },
        },
    )
    try:
        yield
    finally:
        place.cluster.kubectl("delete", "--wait=false", "pv", name)
        place.cluster.kubectl("delete", "storageclass", storage_class)


def test_a_child_that_is_deleted_and_held_is_waited_for(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    """As a claim is while pods use it; here, so that it can be let go, by a finalizer."""
    operator = start_operator()
    settled(place, kubelet)
    target = "service/support"
    patch(place, target, {"metadata": {"finalizers": ["example.com/held"]}})
    uid = has_field(place, target, "metadata", "uid")

    place.kubectl("delete", target, "--wait=false")
    eventually(
        lambda: place.condition("support", "Degraded").get("reason") == "ChildDeleted",
        timeout=40,
        message="Degraded/ChildDeleted",
    )
    assert "example.com/held" in place.condition("support", "Degraded")["message"]
    asked = 'evolving_operator_api_requests_total{code="200",verb="apply"}'
    before = operator.metrics().get(asked, 0.0)

    patch(place, target, {"metadata": {"finalizers": None}})
    eventually(
        lambda: place.kubectl("get", target, "-o", "jsonpath={.metadata.uid}") not in ("", uid),
        timeout=30,
        message="another Service",
    )
    eventually(
        lambda: place.condition("support", "Degraded").get("status") == "False",
        timeout=30,
        message="all is well",
    )
    assert before == operator.metrics().get(asked, 0.0), "it was written to while it was held"
    assert operator.errors() == []


def test_objects_of_others_under_our_names_stay_theirs(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    place.kubectl("create", "service", "clusterip", "support", "--tcp=1234")
    place.kubectl("create", "configmap", "support-config", "--from-literal=theirs=yes")
    place.kubectl("create", "serviceaccount", "support")
    theirs = [("service", "support"), ("configmap", "support-config"), ("serviceaccount", "support")]
    before = [place.get(*target) for target in theirs]
    operator = start_operator()

    place.apply(AGENT)
    eventually(
        lambda: place.condition("support", "Degraded").get("reason") == "NameTaken",
        timeout=30,
        message="Degraded/NameTaken",
    )
    assert [place.get(*target) for target in theirs] == before

    # when they are out of the way, or said to be the agent's
    place.kubectl("delete", "service", "support")
    place.kubectl("delete", "configmap", "support-config")
    place.kubectl("label", "serviceaccount", "support", f"{names.LABEL_AGENT}=support")
    settled(place, kubelet)
    eventually(
        lambda: place.condition("support", "Degraded").get("status") == "False",
        timeout=30,
        message="all is well",
    )
    account = place.get("serviceaccount", "support")
    assert account["metadata"]["uid"] == before[2]["metadata"]["uid"]
    assert account["metadata"]["ownerReferences"][0]["kind"] == names.AGENT_KIND
    assert operator.errors() == []


def test_every_changed_field_comes_back_and_then_nothing_is_written(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    operator = start_operator()
    settled(place, kubelet)

    for what, (target, body, kind, path) in CHANGES.items():
        before = has_field(place, target, *path)
        assert before not in (None, {}), what
        patch(place, target, body, kind)
        eventually(
            lambda target=target, path=path, before=before: has_field(place, target, *path) == before,  # type: ignore[misc]
            timeout=40,
            message=f"{what}: {target} is as it was",
        )
    eventually(
        lambda: "DriftCorrected" in {event["reason"] for event in place.get("events")["items"]},
        timeout=10,
        message="an Event that tells of it",
    )
    settled(place, kubelet)

    # when it starts again, everything is its own, and as it should be
    operator = restarted_with_nothing_to_do(operator, start_operator, place, versions, AGENT)
    assert operator.errors() == []


def test_what_others_own_is_left_alone(place: Place, kubelet: Kubelet, start_operator: StartOperator) -> None:
    operator = start_operator()
    settled(place, kubelet)
    before = {name: uid for name, uid in versions(place).items() if "Deployment" not in name}

    # a mesh labels and annotates, a cloud annotates the account, somebody restarts the pods
    mesh = {"metadata": {"labels": {"mesh.example/rev": "7"}, "annotations": {"mesh.example/in": "yes"}}}
    patch(place, "deployment/support", {**mesh, "spec": {"template": mesh}})
    place.kubectl("rollout", "restart", "deployment/support")
    # and an autoscaler sets the replicas, as the controller of HorizontalPodAutoscalers does
    scale = ("--subresource=scale", "--field-manager=kube-controller-manager")
    patch(place, "deployment/support", {"spec": {"replicas": 5}}, "merge", *scale)
    eventually(
        lambda: "f:replicas" not in json.dumps(operator_fields(place)),
        timeout=30,
        message="the operator leaves the replicas to the autoscaler",
    )

    # then an edit of the agent changes what is the operator's, and nothing else
    stamp = has_field(place, "deployment/support", "metadata", "annotations")[names.ANNOTATION_CONFIG_HASH]
    place.apply({**AGENT, "spec": {**AGENT["spec"], "model": {"base": "smollm2", "maxOutputTokens": 99}}})
    eventually(
        lambda: (
            has_field(place, "deployment/support", "metadata", "annotations")[names.ANNOTATION_CONFIG_HASH]
            != stamp
        ),
        timeout=30,
        message="another configuration",
    )
    live = place.get("deployment", "support")
    assert live["spec"]["replicas"] == 5
    assert live["metadata"]["labels"]["mesh.example/rev"] == "7"
    assert live["spec"]["template"]["metadata"]["annotations"]["mesh.example/in"] == "yes"
    assert "kubectl.kubernetes.io/restartedAt" in live["spec"]["template"]["metadata"]["annotations"]
    untouched = {name for name in before if "ConfigMap" not in name}
    after = versions(place)
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
    reasons = [event["reason"] for event in place.get("events")["items"]]
    assert "DriftCorrected" not in reasons

    # until the user speaks about replicas again
    agent = {**AGENT["spec"]["agent"], "replicas": 3}
    place.apply({**AGENT, "spec": {**AGENT["spec"], "agent": agent}})
    eventually(
        lambda: has_field(place, "deployment/support", "spec", "replicas") == 3,
        timeout=30,
        message="the user's word on replicas",
    )
    assert operator.errors() == []


def operator_fields(place: Place) -> Any:
    shown = json.loads(place.kubectl("get", "deployment", "support", "--show-managed-fields", "-o", "json"))
    entries = shown["metadata"]["managedFields"]
    return [entry["fieldsV1"] for entry in entries if entry["manager"] == names.FIELD_MANAGER]


def test_who_insists_is_told_of_and_not_fought_at_full_speed(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    operator = start_operator()
    settled(place, kubelet)

    def port() -> Any:
        return has_field(place, "service/support", "spec", "ports", "0", "targetPort")

    def steal() -> None:
        ports = [{"name": "http", "port": 80, "targetPort": 9999}]
        patch(place, "service/support", {"spec": {"ports": ports}})

    for number in range(3):
        steal()
        eventually(lambda: port() == "http", timeout=30, message=f"set back at once, {number + 1}")
    steal()
    eventually(
        lambda: place.condition("support", "Degraded").get("reason") == "ChildContested",
        timeout=30,
        message="Degraded/ChildContested",
    )
    assert "kubectl" in place.condition("support", "Degraded")["message"]
    eventually(lambda: port() == "http", timeout=60, message="set back later")
    eventually(
        lambda: place.condition("support", "Degraded").get("status") == "False",
        timeout=30,
        message="peace again",
    )
    assert operator.errors() == []


def test_an_admission_policy_that_rewrites_what_is_applied_causes_no_loop(
    place: Place, kubelet: Kubelet, start_operator: StartOperator
) -> None:
    with rewriting_images(place, "mirror.example/agent:1"):
        operator = start_operator()
        settled(place, kubelet)
        image = ("spec", "template", "spec", "containers", "0", "image")
        assert has_field(place, "deployment/support", *image) == "mirror.example/agent:1"
        before = versions(place)

        # what else is changed comes back, and the policy has its way again
        patch(place, "deployment/support", {"spec": {"template": {"spec": {"tolerations": []}}}})
        path = ("spec", "template", "spec", "tolerations", "0", "key")
        eventually(lambda: has_field(place, "deployment/support", *path), timeout=30, message="a toleration")
        assert has_field(place, "deployment/support", *image) == "mirror.example/agent:1"
        settled(place, kubelet)

        # a new process finds nothing to do
        assert versions(place).keys() == before.keys()
        operator = restarted_with_nothing_to_do(operator, start_operator, place, versions, AGENT)
        told = [event for event in place.get("events")["items"] if event["reason"] == "DriftCorrected"]
        assert len(told) == 1
        assert operator.errors() == []


@contextmanager
def rewriting_images(place: Place, image: str) -> Iterator[None]:
    """A policy of the cluster's that gives every Deployment of the namespace this image."""
    name, path = f"rewrite-{place.namespace}", "/spec/template/spec/containers/0/image"
    expression = f'[JSONPatch{{op: "replace", path: "{path}", value: "{image}"}}]'
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": place.namespace}},
                "resourceRules": [
                    {
                        "apiGroups": ["apps"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": ["deployments"],
                    }
                ],
            },
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name},
    }
    place.cluster.apply(policy, binding)
    try:
        tried = ("create", "deployment", "tried", "--image=any", "--dry-run=server", "-o", "json")
        eventually(lambda: image in place.kubectl(*tried), timeout=60, message="the policy is in force")
        yield
    finally:
        place.cluster.kubectl("delete", "mutatingadmissionpolicybinding", name)
        place.cluster.kubectl("delete", "mutatingadmissionpolicy", name)
