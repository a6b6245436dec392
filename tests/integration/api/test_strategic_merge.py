"""What users add to pods is merged as the API server itself merges a strategic merge patch."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolving_operator.api.pod_template import MERGED_BY, REPLACED_BY, PodTemplate
from evolving_operator.core.builders.strategic import merge_pod_template
from support.cluster import RunningCluster

pytestmark = pytest.mark.cluster

Value = dict[str, Any]
LABELS = {"app": "support"}
BUILT: Value = {
    "metadata": {"labels": LABELS},
    "spec": {
        "serviceAccountName": "default",
        "automountServiceAccountToken": False,
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 90,
        "nodeSelector": {"disk": "fast", "zone": "a"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["one", "two"]}],
        "imagePullSecrets": [{"name": "registry"}],
        "securityContext": {"runAsUser": 65532, "fsGroup": 65532},
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "cache", "emptyDir": {}}],
        "initContainers": [
            {"name": "fetch", "image": "fetch:1", "env": [{"name": "A", "value": "1"}]},
        ],
        "containers": [
            {
                "name": "agent",
                "image": "agent:1",
                "args": ["serve"],
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "env": [{"name": "OWN", "value": "1"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "resources": {"requests": {"cpu": "50m", "memory": "192Mi"}},
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
            },
            {
                "name": "proxy",
                "image": "proxy:1",
                "args": ["--verbose"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "envFrom": [{"configMapRef": {"name": "old"}}],
                "ports": [{"containerPort": 9000}, {"containerPort": 9001, "name": "admin"}],
                "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                "securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}},
            },
        ],
    },
}


def listed(key: str, names: list[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Value]]:
    """Elements by their key, some of which are to be deleted."""

    def element(name: Any) -> st.SearchStrategy[Value]:
        added = st.fixed_dictionaries({key: st.just(name), **fields})
        return added | st.just({key: name, "$patch": "delete"})

    return st.lists(st.sampled_from(names), unique=True, min_size=1, max_size=3).flatmap(
        lambda chosen: st.tuples(*map(element, chosen)).map(list)
    )


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Value]:
    return st.fixed_dictionaries({}, optional=fields)


def or_none(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([*values, None])


RESOURCES = some(
    requests=some(cpu=or_none("100m", "1"), memory=or_none("1Gi")),
    limits=some(memory=or_none("2Gi", "2048Mi")),
)
COMMON = {
    "resources": RESOURCES,
    "workingDir": or_none("/tmp"),
    "securityContext": some(
        runAsNonRoot=or_none(True),
        capabilities=some(drop=or_none(["ALL"], []), add=or_none(["CHOWN"]))
        | st.sampled_from(
            [
                {"$patch": "delete"},
                {"$patch": "replace", "drop": ["KILL"]},
                {"$deleteFromPrimitiveList/drop": ["ALL"], "$deleteFromPrimitiveList/add": ["CHOWN"]},
            ]
        ),
    ),
    "lifecycle": or_none({"preStop": {"sleep": {"seconds": 3}}}),
}
AGENT = st.fixed_dictionaries(
    {"name": st.just("agent")},
    optional=COMMON
    | {
        "livenessProbe": or_none({"periodSeconds": 30}),
        "envFrom": st.just([{"secretRef": {"name": "more"}}]),
    },
)
PROXY = st.fixed_dictionaries(
    {"name": st.just("proxy")},
    optional=COMMON
    | {
        "image": st.just("proxy:2"),
        "args": or_none(["--quiet"], []),
        "env": listed("name", ["A", "B", "C"], value=st.sampled_from(["x", "y"])),
        "envFrom": or_none([{"secretRef": {"name": "new"}}]),
        "ports": listed("containerPort", [9000, 9001, 9002], protocol=st.just("TCP")),
        "volumeMounts": listed("mountPath", ["/cache", "/more"], name=st.sampled_from(["data", "cache"])),
    },
) | st.sampled_from([{"name": "proxy", "$patch": "delete"}, {"name": "second", "image": "second:1"}])
FETCH = st.fixed_dictionaries(
    {"name": st.just("fetch")},
    optional={"env": listed("name", ["A", "B"], value=st.just("x")), "image": st.just("fetch:2")},
) | st.sampled_from([{"name": "fetch", "$patch": "delete"}, {"name": "warm", "image": "warm:1"}])
PODS = some(
    containers=st.tuples(AGENT, PROXY).map(list) | AGENT.map(lambda one: [one]),
    initContainers=FETCH.map(lambda one: [one]),
    tolerations=or_none([{"key": "gpu", "operator": "Exists"}], []),
    nodeSelector=some(disk=or_none("slow"), rack=st.just("7"))
    | st.sampled_from([None, {"$patch": "replace", "rack": "7"}, {"$patch": "delete"}]),
    hostAliases=listed("ip", ["10.0.0.1", "10.0.0.2"], hostnames=st.just(["three"])),
    imagePullSecrets=listed("name", ["registry", "other"]),
    securityContext=some(runAsUser=or_none(1000), fsGroup=st.just(2000))
    | st.just({"$retainKeys": ["fsGroup"], "fsGroup": 3000}),
    terminationGracePeriodSeconds=or_none(30),
    priorityClassName=or_none(""),
    dnsConfig=or_none(
        {"nameservers": ["10.0.0.53"], "searches": ["example"]},
        {"$patch": "replace", "nameservers": ["10.0.0.53"]},  # where nothing was
        {"$patch": "delete", "nameservers": ["10.0.0.53"]},
    ),
    topologySpreadConstraints=st.just(
        [
            {
                "topologyKey": "zone",
                "maxSkew": 1,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": LABELS},
            }
        ]
    ),
)


def deployment(template: Value) -> Value:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "merged"},
        "spec": {"replicas": 0, "selector": {"matchLabels": LABELS}, "template": template},
    }


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(added=PODS)
def test_the_outcome_is_that_of_the_api_servers_strategic_merge(
    api: RunningCluster, namespace: str, added: Value
) -> None:
    api.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(deployment(BUILT)))
    dry = ["-n", namespace, "--dry-run=server", "-o", "json"]
    patch = json.dumps({"spec": {"template": {"spec": added}}})
    theirs = json.loads(api.kubectl("patch", "deployment/merged", "--type=strategic", "-p", patch, *dry))

    merged = merge_pod_template(BUILT, PodTemplate(spec=added))
    ours = json.loads(api.kubectl("replace", *dry, "-f", "-", stdin=json.dumps(deployment(merged))))

    their_pod = by_key(without_deleted(theirs["spec"]["template"]["spec"], added))
    assert by_key(ours["spec"]["template"]["spec"]) == their_pod


def without_deleted(value: Any, added: Any) -> Any:
    """Without the {} that the API server leaves where a map was deleted: as a probe, it would refuse it."""
    if isinstance(value, list) and isinstance(added, list):
        patches = {item["name"]: item for item in added if isinstance(item, dict) and "name" in item}
        return [
            without_deleted(item, patches.get(item.get("name"))) if isinstance(item, dict) else item
            for item in value
        ]
    if not (isinstance(value, dict) and isinstance(added, dict)):
        return value
    deleted = {name for name, patch in added.items() if is_deletion(patch) and value.get(name) == {}}
    return {
        name: without_deleted(item, added.get(name)) for name, item in value.items() if name not in deleted
    }


def is_deletion(patch: Any) -> bool:
    return isinstance(patch, dict) and patch.get("$patch") == "delete"


def by_key(value: Any, name: str = "") -> Any:
    """Lists that have a key, as maps: the API server puts what is new first, and the operator its own."""
    if isinstance(value, dict):
        return {key: by_key(item, key) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    if name in MERGED_BY | REPLACED_BY:
        return {item[(MERGED_BY | REPLACED_BY)[name]]: by_key(item) for item in value}
    return [by_key(item) for item in value]


def test_a_probe_is_taken_away_by_its_deletion_which_the_api_servers_merge_could_not(
    api: RunningCluster, namespace: str
) -> None:
    api.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(deployment(BUILT)))
    added = {"containers": [{"name": "agent", "livenessProbe": {"$patch": "delete"}}]}
    patch = json.dumps({"spec": {"template": {"spec": added}}})

    with pytest.raises(AssertionError, match="must specify a handler type"):
        api.kubectl("patch", "deployment/merged", "-n", namespace, "--type=strategic", "-p", patch)

    merged = merge_pod_template(BUILT, PodTemplate(spec=added))
    api.kubectl("replace", "-n", namespace, "-f", "-", stdin=json.dumps(deployment(merged)))
    (agent, _) = api.get("-n", namespace, "deployment/merged")["spec"]["template"]["spec"]["containers"]
    assert "livenessProbe" not in agent
