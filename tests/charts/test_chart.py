"""The chart renders what it promises, grants little, and refuses values that it does not know."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from evolving_agent.contract import env
from evolving_operator.api import names
from evolving_operator.api.crd import custom_resource_definitions
from evolving_operator.core.builders.context import Images
from evolving_operator.settings import Settings
from support.chart import CHART, Rendered, bound_rules, render
from support.cluster import program

Values = dict[str, Any]

# What goes while its agent stays; the rest goes with the agent, by the garbage collector.
DISPOSABLE = {
    "agentrevisions",
    "configmaps",
    "cronjobs",
    "jobs",
    "networkpolicies",
    "poddisruptionbudgets",
}


def test_lint_finds_nothing() -> None:
    subprocess.run([program("helm"), "lint", "--strict", str(CHART)], check=True, capture_output=True)


def test_versions_are_those_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (CHART.parents[1] / "pyproject.toml").read_text()
    assert f'version = "{chart["appVersion"]}"' in project


@pytest.mark.parametrize("watched", [[], ["bank", "shop"]])
def test_rights_are_few(watched: list[str]) -> None:
    for rule in bound_rules(render({"watchNamespaces": watched})):
        assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
        assert "secrets" not in rule["resources"]
        assert "deletecollection" not in rule["verbs"]
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
        if "delete" in rule["verbs"]:
            assert set(rule["resources"]) <= DISPOSABLE


def test_a_cluster_that_guards_owners_gets_the_rights_that_it_asks_for() -> None:
    owned = {"deployments", "persistentvolumeclaims", "serviceaccounts", "services"}

    def deletable(rendered: Rendered) -> set[str]:
        rules = [rule for rule in bound_rules(rendered) if "delete" in rule["verbs"]]
        return {resource for rule in rules for resource in rule["resources"]}

    assert deletable(render()) == DISPOSABLE
    asked = {"rbac": {"ownerReferencesPermissionEnforcement": True}}
    assert deletable(render(asked)) == DISPOSABLE | owned
    assert deletable(render(api_versions=("security.openshift.io/v1",))) == DISPOSABLE | owned


def test_all_namespaces_are_watched_by_a_cluster_role() -> None:
    rendered = render()
    binding = rendered.one("ClusterRoleBinding")
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "learning-evolving-agents", "namespace": "ops"}
    ]
    assert [role["metadata"]["namespace"] for role in rendered.all("Role")] == ["ops"]  # the Lease


def test_watched_namespaces_get_a_role_each_and_nothing_is_granted_beyond() -> None:
    rendered = render({"watchNamespaces": ["bank", "shop"]})

    assert rendered.all("ClusterRole") == rendered.all("ClusterRoleBinding") == []
    assert {role["metadata"]["namespace"] for role in rendered.all("Role")} == {"bank", "shop"}
    assert environment(rendered)["EVOLVING_OPERATOR_NAMESPACES"] == "bank,shop"


def test_the_lease_can_be_written_under_its_name_only() -> None:
    rendered = render()
    lease = environment(rendered)["EVOLVING_OPERATOR_LEASE_NAME"]
    rules = [rule for rule in bound_rules(rendered) if "leases" in rule["resources"]]
    assert [rule.get("resourceNames") for rule in rules if rule["verbs"] != ["create"]] == [[lease]] * 2


@pytest.mark.parametrize(
    ("watched", "namespace"), [([], "ops"), (["bank", "ops"], "ops"), (["bank", "shop"], "bank")]
)
def test_the_lease_lies_where_the_operator_watches(watched: list[str], namespace: str) -> None:
    rendered = render({"watchNamespaces": watched})
    assert environment(rendered)["EVOLVING_OPERATOR_LEASE_NAMESPACE"] == namespace
    leader = rendered.one("Role", "learning-evolving-agents-leader")
    assert leader["metadata"]["namespace"] == namespace


def container(rendered: Rendered) -> dict[str, Any]:
    only: dict[str, Any]
    (only,) = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"]
    return only


def environment(rendered: Rendered) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in container(rendered)["env"]}


def test_images_come_from_one_registry_with_the_charts_version() -> None:
    rendered = render()
    assert container(rendered)["image"] == "localhost/evolving-agents/operator:0.1.0"
    assert environment(rendered)["EVOLVING_OPERATOR_AGENT_IMAGE"] == "localhost/evolving-agents/agent:0.1.0"
    trainer = environment(rendered)["EVOLVING_OPERATOR_TRAINER_IMAGE"]
    assert trainer == "localhost/evolving-agents/trainer:0.1.0"

    other = render({"image": {"registry": "registry.example/ea", "operator": {"tag": "7"}}})
    assert container(other)["image"] == "registry.example/ea/operator:7"
    assert environment(other)["EVOLVING_OPERATOR_AGENT_IMAGE"] == "registry.example/ea/agent:0.1.0"


def test_the_operators_pod_is_confined() -> None:
    rendered = render()
    pod = rendered.one("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(rendered)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_standby_comes_with_a_disruption_budget_and_wants_another_node() -> None:
    rendered = render()
    assert rendered.one("Deployment")["spec"]["replicas"] == 2
    assert rendered.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    selector = rendered.one("Deployment")["spec"]["selector"]["matchLabels"]
    affinity = rendered.one("Deployment")["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
    (preferred,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["podAffinityTerm"]["labelSelector"]["matchLabels"] == selector

    alone = render({"replicas": 1})
    assert alone.all("PodDisruptionBudget") == []
    assert "affinity" not in alone.one("Deployment")["spec"]["template"]["spec"]


def test_what_is_asked_for_the_operators_pod_reaches_it() -> None:
    spread = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    asked: Values = {
        "nodeSelector": {"pool": "infra"},
        "tolerations": [{"key": "infra", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [spread],
        "priorityClassName": "system-cluster-critical",
    }
    proxy = {"name": "HTTPS_PROXY", "value": "http://proxy:3128"}
    more: Values = {
        "image": {"pullSecrets": [{"name": "registry"}], "pullPolicy": "Always"},
        "resources": {"limits": {"memory": "1Gi"}},
        "podLabels": {"team": "ml"},
        "podAnnotations": {"note": "x"},
        "extraEnv": [proxy, {"name": "EVOLVING_OPERATOR_RESYNC_SECONDS", "value": "600"}],
    }
    rendered = render(asked | more)
    template = rendered.one("Deployment")["spec"]["template"]

    assert asked.items() <= template["spec"].items()
    assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert container(rendered)["imagePullPolicy"] == "Always"
    assert container(rendered)["resources"]["limits"] == {"memory": "1Gi"}
    assert template["metadata"]["labels"]["team"] == "ml"
    assert template["metadata"]["annotations"] == {"note": "x"}
    assert proxy in container(rendered)["env"]
    assert Settings.from_environment(environment(rendered)).resync_seconds == 600


def test_releases_may_share_the_agents_by_their_labels() -> None:
    first, second = (render({"labelSelector": f"shard={name}"}, release=name) for name in ("a", "b"))

    assert environment(first)["EVOLVING_OPERATOR_LABEL_SELECTOR"] == "shard=a"
    assert Settings.from_environment(environment(second)).label_selector == "shard=b"
    leases = {environment(release)["EVOLVING_OPERATOR_LEASE_NAME"] for release in (first, second)}
    assert len(leases) == 2


def test_the_network_lets_metrics_in_and_the_operator_to_the_api_server_and_its_agents() -> None:
    assert render().all("NetworkPolicy") == []
    rendered = render({"networkPolicy": {"enabled": True, "apiServerPorts": [6443]}})
    policy = rendered.one("NetworkPolicy")["spec"]

    assert policy["podSelector"] == rendered.one("Deployment")["spec"]["selector"]
    agents, api_server = policy["egress"]
    assert api_server == {"ports": [{"port": 6443, "protocol": "TCP"}]}
    assert agents["ports"] == [{"port": env.SERVE_PORT, "protocol": "TCP"}]
    (selected,) = agents["to"]
    assert selected["namespaceSelector"] == {}
    assert selected["podSelector"]["matchLabels"].items() <= names.selector_labels("any").items()
    (port,) = container(rendered)["ports"]
    assert policy["ingress"] == [{"ports": [{"port": port["name"], "protocol": "TCP"}]}]


def test_the_crds_are_those_that_the_models_give() -> None:
    rendered = {crd["metadata"]["name"]: crd for crd in render().all("CustomResourceDefinition")}
    expected = {crd["metadata"]["name"]: crd for crd in custom_resource_definitions().values()}

    assert rendered.keys() == expected.keys()
    for name, crd in rendered.items():
        assert crd["spec"] == expected[name]["spec"]
        assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_crds_can_be_left_to_others() -> None:
    assert render({"crds": {"install": False}}).all("CustomResourceDefinition") == []
    dropped = render({"crds": {"keep": False}}).all("CustomResourceDefinition")
    assert all("annotations" not in crd["metadata"] for crd in dropped)


def test_monitoring_is_off_until_asked_for() -> None:
    assert not {"PodMonitor", "PrometheusRule", "ConfigMap"} & {item["kind"] for item in render().objects}


def test_monitoring_carries_the_labels_by_which_it_is_found() -> None:
    labels = {"release": "prometheus"}
    asked = {"enabled": True, "labels": labels}
    rendered = render({"metrics": {"podMonitor": asked, "rules": asked, "dashboard": asked}})

    found = [*rendered.all("PodMonitor"), rendered.one("PrometheusRule"), rendered.one("ConfigMap")]
    assert len(found) == 4
    for item in found:
        assert labels.items() <= item["metadata"]["labels"].items()
    dashboard = json.loads(rendered.one("ConfigMap")["data"]["evolving-agents.json"])
    assert dashboard == json.loads((CHART / "dashboards" / "evolving-agents.json").read_text())
    assert rendered.one("ConfigMap")["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_agents_are_scraped_where_they_are_watched() -> None:
    monitor = {"metrics": {"podMonitor": {"enabled": True}}}
    everywhere = render(monitor).one("PodMonitor", "learning-evolving-agents-agents")
    assert everywhere["spec"]["namespaceSelector"] == {"any": True}
    some = render(monitor | {"watchNamespaces": ["bank"]}).one(
        "PodMonitor", "learning-evolving-agents-agents"
    )
    assert some["spec"]["namespaceSelector"] == {"matchNames": ["bank"]}
    (endpoint,) = some["spec"]["podMetricsEndpoints"]
    (relabeling,) = endpoint["relabelings"]
    pod_label = relabeling["sourceLabels"][0].removeprefix("__meta_kubernetes_pod_label_")
    assert pod_label == re.sub("[^a-z]", "_", names.LABEL_AGENT)  # else the dashboard's `agent` is empty
    assert relabeling["targetLabel"] == "agent"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": "two"}, "/replicas"),
        ({"image": {"operator": {"repo": "x"}}}, "repo"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"watchNamespaces": "bank"}, "/watchNamespaces"),
        ({"watchNamespaces": ["Bank"]}, "/watchNamespaces/0"),
        ({"logLevel": "loud"}, "/logLevel"),
        ({"labelSelector": ["a"]}, "/labelSelector"),
        ({"networkPolicy": {"apiServerPorts": [0]}}, "/networkPolicy/apiServerPorts/0"),
        ({"metrics": {"podMonitor": {"interval": "often"}}}, "/metrics/podMonitor/interval"),
        ({"crds": {"instal": True}}, "instal"),
        ({"extraEnv": {"HTTPS_PROXY": "x"}}, "/extraEnv"),
    ],
)
def test_values_that_the_chart_does_not_know_are_refused_by_name(values: Values, named: str) -> None:
    rendered = render(values)
    assert rendered.objects == []
    assert named in rendered.error


def test_every_object_can_be_told_apart_by_its_release() -> None:
    everything = {
        "replicas": 2,
        "metrics": {name: {"enabled": True} for name in ("podMonitor", "rules", "dashboard")},
    }
    for item in render(everything, release="evolving-agents").objects:
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "evolving-agents"
        assert "evolving-agents-evolving-agents" not in item["metadata"]["name"]


@pytest.mark.cluster
def test_an_api_server_takes_every_object(control_plane: Any) -> None:
    core = [item for item in render({"replicas": 2}).objects if item["kind"] != "CustomResourceDefinition"]
    for item in core:
        if "namespace" in item["metadata"]:
            item["metadata"]["namespace"] = "default"
    listed = {"apiVersion": "v1", "kind": "List", "items": core}
    control_plane.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(listed)
    )


def test_the_operator_understands_what_the_chart_tells_it() -> None:
    told = environment(render({"watchNamespaces": ["bank"], "logLevel": "debug"}))
    settings = Settings.from_environment(told)

    assert settings.namespaces == ("bank",)
    assert settings.log_level == "DEBUG"
    assert settings.images == Images(
        agent="localhost/evolving-agents/agent:0.1.0", trainer="localhost/evolving-agents/trainer:0.1.0"
    )
    known = set(re.findall(r'variable\.\w+\("(\w+)"', inspect.getsource(Settings)))
    assert {name.removeprefix("EVOLVING_OPERATOR_") for name in told if name.startswith("EVOLVING_")} <= known
    (port,) = container(render())["ports"]
    assert settings.metrics_port == port["containerPort"]


@pytest.mark.parametrize(
    ("release", "namespace"), [("123", "ops"), ("1e3", "1234"), ("on", "null"), ("1" * 53, "0x1f")]
)
def test_names_that_yaml_reads_as_something_else_are_texts(release: str, namespace: str) -> None:
    rendered = render(
        {
            "watchNamespaces": ["1234"],
            "serviceAccount": {"name": "7"},
            "priorityClassName": "8",
            "networkPolicy": {"enabled": True},
            "metrics": {"podMonitor": {"enabled": True}},
        },
        release,
        namespace,
    )

    assert rendered.error == ""
    assert {item["metadata"].get("namespace", namespace) for item in rendered.objects} == {namespace, "1234"}
    assert list(_no_texts(rendered.objects)) == []


def _no_texts(value: Any, path: str = "") -> Iterator[str]:
    """Paths of names and labels that are no texts."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "openAPIV3Schema":
                yield from _no_texts(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from _no_texts(item, path)
    elif not isinstance(value, str) and re.search(r"[nN]ame|\.labels|matchLabels|image|\.value", path):
        yield f"{path}: {value!r}"


def test_labels_of_the_pods_leave_the_charts_own_alone() -> None:
    theirs = {"team": "shop", "app.kubernetes.io/name": "theirs"}
    deployment = render({"podLabels": theirs}).one("Deployment")

    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "shop"
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    helm = [program("helm"), "template", str(CHART), "--set", "podLabels.app\\.kubernetes\\.io/name=theirs"]
    text = subprocess.run(helm, check=True, capture_output=True, text=True).stdout
    assert "name: theirs" not in text  # of a key that is there twice, a parser may take either


@pytest.mark.parametrize(
    "value", ["podLabels", "podAnnotations", "nodeSelector", "tolerations", "affinity", "extraEnv"]
)
def test_null_takes_back_what_is_added_to_the_pods(value: str) -> None:
    """It is how helm is told to forget a value."""
    rendered = render({value: None})

    assert rendered.error == ""
    metadata = rendered.one("Deployment")["spec"]["template"]["metadata"]
    assert metadata == render().one("Deployment")["spec"]["template"]["metadata"]
