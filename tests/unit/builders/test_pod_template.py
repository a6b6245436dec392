"""What a user may add to the pods, and what stays the operator's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.api.pod_template import PodMetadata, PodTemplate
from evolving_operator.core.builders.base import Manifest
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
    port = {"containerPort": 8080, "$patch": "delete"}
    probe = {"$patch": "replace", "tcpSocket": {"port": 8080}}
    added = PodTemplate(spec={"containers": [{"name": "agent", "ports": [port], "livenessProbe": probe}]})

    agent = _container(merge_pod_template(built, added), "agent")

    assert agent["ports"] == []
    assert agent["livenessProbe"] == {"tcpSocket": {"port": 8080}}


def test_the_operators_own_container_cannot_be_taken_away() -> None:
    built = _template(build_all(context_of("lora"))["deployment"])

    merged = merge_pod_template(
        built, PodTemplate(spec={"containers": [{"name": "agent", "$patch": "delete"}]})
    )

    assert merged["spec"]["containers"] == built["spec"]["containers"]
