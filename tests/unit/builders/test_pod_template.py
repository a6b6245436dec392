"""What a user may add to the pods, and what stays the operator's."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from evolving_operator.api import names
from evolving_operator.api.pod_template import PodMetadata, PodTemplate
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.debt import build_provider_debt
from evolving_operator.core.builders.strategic import merge_pod_template
from support.golden import build_all, context_of


def _template(manifest: Manifest) -> Manifest:
    spec = manifest["spec"].get("jobTemplate", manifest)["spec"]
    template: Manifest = spec["template"]
    return template


def _container(template: Manifest, name: str) -> Manifest:
    container: Manifest
    (container,) = (c for c in template["spec"]["containers"] if c["name"] == name)
    return container


def _env(container: Manifest) -> dict[str, Any]:
    values = {variable["name"]: variable for variable in container["env"]}
    assert len(values) == len(container["env"]), "a variable is set twice"
    return values


@pytest.fixture(scope="module")
def built() -> dict[str, Manifest]:
    return build_all(context_of("openai"))


def test_additions_arrive_in_the_serving_pods(built: dict[str, Manifest]) -> None:
    template = _template(built["deployment"])
    agent = _container(template, "agent")

    assert template["metadata"]["labels"]["team"] == "shop"
    assert template["spec"]["nodeSelector"] == {"disk": "fast"}
    assert template["spec"]["tolerations"] == [{"key": "dedicated", "operator": "Exists"}]
    assert template["spec"]["securityContext"]["fsGroup"] == 2000
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True  # maps are merged, not replaced
    assert agent["resources"] == {"requests": {"cpu": "50m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}}
    assert _env(agent)["HTTPS_PROXY"]["value"] == "http://proxy:3128"
    assert [c["name"] for c in template["spec"]["containers"]] == ["agent", "sidecar"]


def test_what_makes_a_pod_serve_its_revision_cannot_be_replaced(built: dict[str, Manifest]) -> None:
    deployment = built["deployment"]
    template = _template(deployment)
    agent = _container(template, "agent")
    stamp = deployment["metadata"]["annotations"][names.ANNOTATION_CONFIG_HASH]

    assert template["metadata"]["annotations"][names.ANNOTATION_CONFIG_HASH] == stamp != "forged"
    assert _env(agent)["EVOLVING_CONFIG_HASH"]["value"] == stamp
    assert deployment["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert agent["image"] == "registry.example/desk:7"
    assert template["spec"]["restartPolicy"] == "Always"
    (config,) = (v for v in template["spec"]["volumes"] if v["name"] == "config")
    assert config == {"name": "config", "configMap": {"name": "desk-config"}}
    (mount,) = (m for m in agent["volumeMounts"] if m["mountPath"] == "/etc/evolving-agent/config")
    assert mount["name"] == "config"


def test_a_job_takes_no_sidecar_that_would_keep_it_from_ending(built: dict[str, Manifest]) -> None:
    for name in ("curation_cron_job", "training_job", "evaluation_job"):
        template = _template(built[name])
        assert [c["name"] for c in template["spec"]["containers"]] == ["job"]
        assert _container(template, "job")["resources"]["limits"] == {"memory": "4Gi"}
        assert template["spec"]["restartPolicy"] == "Never"


def test_nothing_added_changes_nothing() -> None:
    built = _template(build_all(context_of("lora"))["deployment"])
    assert merge_pod_template(built, PodTemplate()) == built


def test_null_takes_a_field_away_but_none_of_the_operators_own() -> None:
    built = _template(build_all(context_of("lora"))["deployment"])
    removed = PodTemplate(
        spec={
            "affinity": None,
            "volumes": None,
            "containers": [{"name": "agent", "env": None, "livenessProbe": None, "volumeMounts": None}],
        }
    )

    merged = merge_pod_template(built, removed)

    assert "affinity" not in merged["spec"]
    assert "livenessProbe" not in _container(merged, "agent")
    assert merged["spec"]["volumes"] == built["spec"]["volumes"]
    assert _container(merged, "agent")["env"] == _container(built, "agent")["env"]


def test_a_users_affinity_is_added_to_the_same_node_rule() -> None:
    built = _template(build_all(context_of("lora"))["deployment"])
    term = {"labelSelector": {"matchLabels": {"app": "cache"}}, "topologyKey": "topology.kubernetes.io/zone"}
    added = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}

    merged = merge_pod_template(built, PodTemplate(spec={"affinity": added}))

    terms = merged["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert [t["topologyKey"] for t in terms] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]


def test_a_training_pod_can_have_additions_of_its_own() -> None:
    context = context_of("openai")
    assert context.spec.training is not None
    limits = {"nvidia.com/gpu": 1}
    own = PodTemplate(
        metadata=PodMetadata(labels={"queue": "gpu"}),
        spec={"containers": [{"name": "job", "resources": {"limits": limits}}]},
    )
    training = context.spec.training.model_copy(update={"pod_template": own})
    spec = context.spec.model_copy(update={"training": training})

    built = build_all(replace(context, spec=spec))

    template = _template(built["training_cron_job"])
    assert _container(template, "job")["resources"]["limits"] == limits
    assert template["metadata"]["labels"]["queue"] == "gpu"
    assert "nodeSelector" not in template["spec"]  # the agent's are not added as well
    assert _template(built["curation_cron_job"])["spec"]["nodeSelector"] == {"disk": "fast"}
    assert "podTemplate" not in built["config_map"]["data"]["learning.json"]


def test_directives_take_away_and_replace() -> None:
    built = _template(build_all(context_of("lora"))["deployment"])
    probe = {"$patch": "replace", "tcpSocket": {"port": 8080}}
    limits = {"$patch": "delete"}
    added = PodTemplate(
        spec={"containers": [{"name": "agent", "resources": {"requests": limits}, "livenessProbe": probe}]}
    )

    agent = _container(merge_pod_template(built, added), "agent")

    assert agent["resources"] == {}
    assert agent["livenessProbe"] == {"tcpSocket": {"port": 8080}}


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ([{"containerPort": 8080, "$patch": "delete"}], []),
        (None, []),
        ([{"containerPort": 8080, "name": "web", "hostPort": 80}], [{"hostPort": 80}]),
        (
            [{"containerPort": 8080, "protocol": "UDP", "name": "quic"}],
            [{}, {"containerPort": 8080, "protocol": "UDP", "name": "quic"}],
        ),
        (
            [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}],
            [{}, {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}],
        ),
    ],
)
def test_the_port_that_the_service_goes_to_stays(ports: Any, expected: list[dict[str, Any]]) -> None:
    built = _template(build_all(context_of("lora"))["deployment"])
    (own,) = _container(built, "agent")["ports"]

    merged = merge_pod_template(built, PodTemplate(spec={"containers": [{"name": "agent", "ports": ports}]}))

    first, *others = expected or [{}]
    assert _container(merged, "agent")["ports"] == [{**own, **first}, *others]


def test_a_map_that_is_deleted_is_gone() -> None:
    """Not {}: a probe of that would be refused. A null does not outlive `kubectl apply`."""
    built = _template(build_all(context_of("lora"))["deployment"])
    deleted = {"$patch": "delete"}
    added = PodTemplate(
        spec={"affinity": deleted, "containers": [{"name": "agent", "readinessProbe": deleted}]}
    )

    merged = merge_pod_template(built, added)

    assert "affinity" not in merged["spec"]
    assert "readinessProbe" not in _container(merged, "agent")


def test_the_operators_own_container_cannot_be_taken_away() -> None:
    built = _template(build_all(context_of("lora"))["deployment"])

    merged = merge_pod_template(
        built, PodTemplate(spec={"containers": [{"name": "agent", "$patch": "delete"}]})
    )

    assert merged["spec"]["containers"] == built["spec"]["containers"]


def test_a_directive_where_nothing_was_leaves_nothing() -> None:
    """As the API server does: there is nothing to take away, and nothing to replace."""
    built = _template(build_all(context_of("lora"))["deployment"])
    selector = {"$patch": "delete", "disk": "slow"}
    limits = {"$patch": "replace", "cpu": "1"}
    added = PodTemplate(
        spec={"nodeSelector": selector, "containers": [{"name": "agent", "resources": {"limits": limits}}]}
    )

    merged = merge_pod_template(built, added)

    assert "nodeSelector" not in merged["spec"]
    assert _container(merged, "agent")["resources"] == _container(built, "agent")["resources"]


def test_single_values_are_taken_from_a_list() -> None:
    built = _template(build_all(context_of("lora"))["deployment"])
    capabilities = {"$deleteFromPrimitiveList/drop": ["ALL"], "$deleteFromPrimitiveList/add": ["CHOWN"]}
    added = PodTemplate(
        spec={"containers": [{"name": "agent", "securityContext": {"capabilities": capabilities}}]}
    )

    agent = _container(merge_pod_template(built, added), "agent")

    assert agent["securityContext"]["capabilities"] == {"drop": []}


def test_a_users_terms_of_affinity_carry_no_directive_into_the_pods() -> None:
    built = _template(build_all(context_of("lora"))["deployment"])
    term = {"topologyKey": "zone", "labelSelector": {"$patch": "replace", "matchLabels": {"app": "cache"}}}
    added = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}

    merged = merge_pod_template(built, PodTemplate(spec={"affinity": added}))

    assert "$patch" not in str(merged)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"$patch": "merge"}, "$patch is 'merge': it can be delete or replace"),
        (
            {"containers": [{"name": "agent", "resources": {"limits": {"$patch": "remove"}}}]},
            "containers[0].resources.limits.$patch is 'remove': it can be delete or replace",
        ),
        ({"securityContext": {"$retainKeys": 5}}, "securityContext.$retainKeys is 5: it must be a list"),
        (
            {"dnsConfig": {"$deleteFromPrimitiveList/searches": "a"}},
            "dnsConfig.$deleteFromPrimitiveList/searches is 'a': it must be a list",
        ),
        ({"tolerations": [{"$patch": None}]}, "tolerations[0].$patch is None: it can be delete or replace"),
    ],
)
def test_a_directive_that_does_not_exist_is_refused(spec: dict[str, Any], words: str) -> None:
    """It would take away in silence what it was to change."""
    with pytest.raises(ValidationError) as refusal:
        PodTemplate(spec=spec)

    assert refusal.value.errors()[0]["msg"] == f"Value error, {words}"


def test_a_pod_that_is_deleted_as_a_whole_is_what_it_cannot_be_without() -> None:
    built = _template(build_all(context_of("lora"))["deployment"])

    spec = merge_pod_template(built, PodTemplate(spec={"$patch": "delete"}))["spec"]

    [container] = spec["containers"]
    assert container["image"] == built["spec"]["containers"][0]["image"]
    assert spec["volumes"] == built["spec"]["volumes"]
    assert "affinity" not in spec


def nested(levels: int, inmost: Any, key: str = "k") -> dict[str, Any]:
    for _ in range(levels):
        inmost = {key: inmost}
    return dict(inmost)


@pytest.mark.parametrize("levels", [101, 9900])
def test_what_is_nested_deeper_than_any_pod_is_refused(levels: int) -> None:
    """Ten thousand levels are a small object: whatever goes through them one by one may take much for it."""
    with pytest.raises(ValidationError) as refusal:
        PodTemplate(spec=nested(levels, {}))

    words = "Value error, it has more than 100 levels: no pod is nested so deep"
    assert refusal.value.errors()[0]["msg"] == words


def test_to_look_for_directives_takes_no_memory_for_paths() -> None:
    spec = nested(99, {"$patch": "delete"}, key="k" * 10_000)

    tracemalloc.start()
    PodTemplate(spec=spec)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 100_000


def test_a_fault_at_the_end_of_a_long_path_is_told_by_its_ends() -> None:
    with pytest.raises(ValidationError) as refusal:
        PodTemplate(spec={"containers": [nested(90, {"$patch": "x" * 10_000}, key="k" * 100)]})

    words = refusal.value.errors()[0]["msg"]
    assert len(words) < 600
    assert words.startswith("Value error, containers[0].kkk")
    assert ".$patch is 'xxx" in words
    assert words.endswith("xxx': it can be delete or replace")


def test_what_a_deleted_agent_owes_is_paid_by_a_job_without_directives() -> None:
    """What a user adds is merged into it as well: a literal `$patch` would be a label, and be refused."""
    context = context_of("openai")
    added = PodTemplate(
        spec={
            "nodeSelector": {"$retainKeys": ["disk"], "disk": "fast", "rack": None},
            "tolerations": [{"key": "spot"}, {"$patch": "delete", "key": "gpu"}],
            "priorityClassName": None,
            "dnsConfig": {"$patch": "delete"},
        }
    )
    agent = context.spec.agent.model_copy(update={"pod_template": added})

    debt = build_provider_debt(
        replace(context, spec=context.spec.model_copy(update={"agent": agent, "deletion_policy": "Delete"}))
    )

    pod = json.loads(debt["data"]["release-job.json"])["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"disk": "fast"}
    assert pod["tolerations"] == [{"key": "spot"}]
    assert "priorityClassName" not in pod
    assert "dnsConfig" not in pod
