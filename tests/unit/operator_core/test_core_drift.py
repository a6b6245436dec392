"""Drift of children is set right; what others own is left alone; who insists is not fought at full speed."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.api.models import ConditionStatus
from evolving_operator.cluster.errors import Invalid
from evolving_operator.core.ownership import is_autoscaled, lost_fields, other_writers, owned_fields
from evolving_operator.testing.simulation import Simulation
from support.autoscaling import autoscale

Spec = dict[str, Any]

MANIFEST: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "support", "namespace": "default", "ownerReferences": [{"uid": "u1", "name": "a"}]},
    "spec": {
        "selector": {"app": "support"},
        "containers": [
            {"name": "agent", "image": "agent:1", "ports": [{"containerPort": 8080}], "volumes": [{}]},
        ],
        "finalizers": ["one"],
    },
}
FIELDS: dict[str, Any] = {
    "f:metadata": {"f:ownerReferences": {'k:{"uid":"u1"}': {}}},
    "f:spec": {
        "f:selector": {},
        "f:containers": {
            'k:{"name":"agent"}': {
                ".": {},
                "f:name": {},
                "f:image": {},
                "f:ports": {'k:{"containerPort":8080,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}},
                "f:volumes": {},
            }
        },
        "f:finalizers": {'v:"one"': {}},
    },
}


def recorded(fields: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
    entry = {"manager": names.FIELD_MANAGER, "operation": "Apply", "fieldsV1": fields}
    return {"metadata": {"managedFields": [*others, entry]}}


def without(fields: dict[str, Any], *path: str) -> dict[str, Any]:
    """A part that ends takes the parts along that held nothing else: {} would mean "owned as a whole"."""
    first, *rest = path
    below = without(fields[first], *rest) if rest else {}
    kept = {key: value for key, value in fields.items() if key != first}
    return {**kept, first: below} if below else kept


def test_an_object_that_nobody_touched_has_lost_nothing() -> None:
    assert list(lost_fields(MANIFEST, owned_fields(recorded(FIELDS)))) == []


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (("f:spec", "f:selector"), "spec.selector"),
        (
            ("f:spec", "f:containers", 'k:{"name":"agent"}', "f:image"),
            "spec.containers[agent].image",
        ),
        (("f:spec", "f:containers", 'k:{"name":"agent"}'), "spec.containers"),
        (
            (
                "f:spec",
                "f:containers",
                'k:{"name":"agent"}',
                "f:ports",
                'k:{"containerPort":8080,"protocol":"TCP"}',
                "f:containerPort",
            ),
            "spec.containers[agent].ports[0].containerPort",
        ),
        (("f:spec", "f:finalizers", 'v:"one"'), "spec.finalizers"),
        (("f:metadata",), "metadata"),
    ],
)
def test_a_field_that_somebody_took_is_told_by_its_path(path: tuple[str, ...], told: str) -> None:
    lost = list(lost_fields(MANIFEST, owned_fields(recorded(without(FIELDS, *path)))))

    assert lost == [told]


def test_without_a_record_everything_is_lost() -> None:
    assert owned_fields({"metadata": {}}) == ""
    assert list(lost_fields(MANIFEST, "")) == ["metadata", "spec"]


def test_agents_of_one_shape_share_one_text() -> None:
    other = {**FIELDS, "f:metadata": {"f:ownerReferences": {'k:{"uid":"u2"}': {}}}}

    assert owned_fields(recorded(FIELDS)) is owned_fields(recorded(other))


def test_only_a_pod_autoscaler_is_let_scale_the_deployment() -> None:
    fields: dict[str, Any] = {"f:spec": {"f:replicas": {}}}

    def by(manager: str, subresource: str) -> dict[str, Any]:
        return {
            "manager": manager,
            "operation": "Update",
            "subresource": subresource,
            "fieldsV1": fields,
        }

    assert is_autoscaled(recorded(FIELDS, by("kube-controller-manager", "scale")))
    assert not is_autoscaled(recorded(FIELDS, by("kubectl", "scale")))
    assert not is_autoscaled(recorded(FIELDS, by("kube-controller-manager", "status")))
    assert other_writers(recorded(FIELDS, by("kubectl", "scale"), by("x", "status"))) == "kubectl"


# --- the decision ---------------------------------------------------------------------------------


def edit_service(world: Simulation, port: int = 8080) -> None:
    service = world.cluster.get("Service", "support")
    assert service is not None
    service["spec"]["ports"] = [{**service["spec"]["ports"][0], "port": port}]
    world.cluster.put(service)


def port(world: Simulation) -> int:
    service = world.cluster.get("Service", "support")
    assert service is not None
    return int(service["spec"]["ports"][0]["port"])


async def test_a_foreign_edit_is_set_right_and_told(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)

    edit_service(world)
    await world.settle()

    assert port(world) == 80
    told = [raw for raw in world.cluster.all("Event") if raw["reason"] == "DriftCorrected"]
    assert len(told) == 1
    assert "Service support: spec.ports was changed" in told[0]["note"]

    # and then it is quiet, for a new process too
    world.cluster.writes.clear()
    await world.settle()
    world.restart()
    await world.settle()
    assert world.cluster.writes == []


async def test_a_field_that_cannot_stand_beside_ours_is_taken_away(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    budget = world.cluster.get("PodDisruptionBudget", "support")
    assert budget is not None
    before = budget["spec"]
    apply = world.cluster.apply

    async def validating(manifest: dict[str, Any]) -> dict[str, Any]:
        live = world.cluster.get(manifest["kind"], manifest["metadata"]["name"])
        if manifest["kind"] == "PodDisruptionBudget" and live and "minAvailable" in live["spec"]:
            raise Invalid("minAvailable and maxUnavailable cannot be both set")
        return await apply(manifest)

    world.cluster.apply = validating  # type: ignore[method-assign]
    edited = {"minAvailable": 2} | {key: before[key] for key in before if key != "maxUnavailable"}
    world.cluster.put(budget | {"spec": edited})
    await world.settle()

    healed = world.cluster.get("PodDisruptionBudget", "support")
    assert healed is not None
    assert healed["spec"] == before
    assert world.condition("Degraded").status is ConditionStatus.FALSE


HOME_FIELD = "spec.template.spec.containers[0].env[0].valueFrom"


def edit_home(world: Simulation) -> None:
    """A source beside the operator's value, to which server-side apply would add that again."""
    deployment = world.node.deployment("support")
    for variable in deployment["spec"]["template"]["spec"]["containers"][0]["env"]:
        if variable["name"] == "HOME":
            del variable["value"]
            variable["valueFrom"] = {"fieldRef": {"fieldPath": "metadata.name"}}
    world.cluster.put(deployment)


def home(world: Simulation) -> Spec:
    container = world.node.deployment("support")["spec"]["template"]["spec"]["containers"][0]
    [found] = (variable for variable in container["env"] if variable["name"] == "HOME")
    return dict(found)


def refuse_while_edited(world: Simulation, *fields: str) -> None:
    apply = world.cluster.apply

    async def validating(manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest["kind"] == "Deployment" and "valueFrom" in home(world):
            raise Invalid("may not be specified when `value` is not empty", fields)
        return await apply(manifest)

    world.cluster.apply = validating  # type: ignore[method-assign]


async def test_it_is_taken_away_of_what_is_to_become_another_too(world: Simulation, spec: Spec) -> None:
    """Nobody knows then that it was edited: it differs from what is wanted in any case."""
    await world.serve(spec)
    edit_home(world)
    refuse_while_edited(world, HOME_FIELD)

    world.apply_agent(spec | {"agent": {"instructions": "Be brief.", "replicas": 2}})
    await world.settle()

    assert home(world)["value"]
    assert "valueFrom" not in home(world)
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_what_is_at_fault_by_itself_is_told_in_the_words_that_were_said_of_it(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    edit_home(world)
    refuse_while_edited(world, HOME_FIELD)

    async def refusing(manifest: dict[str, Any]) -> dict[str, Any]:
        raise Invalid("some of it was dropped")

    world.cluster.overwrite = refusing  # type: ignore[method-assign]
    world.apply_agent(spec | {"agent": {"instructions": "Be brief.", "replicas": 2}})
    await world.settle()

    assert "may not be specified" in world.condition("Degraded").message
    assert HOME_FIELD in world.condition("Degraded").message


async def test_what_does_not_fit_its_schema_is_not_written_in_another_way(
    world: Simulation, spec: Spec
) -> None:
    """A merge patch drops a field that is none, and is taken."""
    await world.serve(spec)
    edit_home(world)
    refuse_while_edited(world)

    world.apply_agent(spec | {"agent": {"instructions": "Be brief.", "replicas": 2}})
    await world.settle()

    assert world.condition("Degraded").reason == "InvalidSpec"
    assert not [write for write in world.cluster.writes if write.verb == "overwrite"]


async def test_what_others_add_stays(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    deployment = world.node.deployment("support")
    deployment["metadata"]["annotations"]["mesh.example/injected"] = "yes"
    deployment["spec"]["template"]["metadata"]["labels"]["mesh.example/rev"] = "7"
    world.cluster.put(deployment)
    world.cluster.writes.clear()

    await world.settle()
    assert [write for write in world.cluster.writes if write.verb != "apply_status"] == []
    await world.serve(spec | {"agent": {"instructions": "Be brief.", "replicas": 2}})

    after = world.node.deployment("support")
    assert after["metadata"]["annotations"]["mesh.example/injected"] == "yes"
    assert after["spec"]["template"]["metadata"]["labels"]["mesh.example/rev"] == "7"


async def test_two_programs_that_insist_do_not_fight_at_full_speed(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    for _ in range(3):
        edit_service(world)
        await world.settle()
        assert port(world) == 80

    # when it is changed once more, the operator waits, and says so
    edit_service(world)
    delay = await world.settle()
    assert port(world) == 8080
    assert delay == 10
    assert world.condition("Degraded").reason == "ChildContested"
    assert "Service support was set back 3 times" in world.condition("Degraded").message

    world.pass_time(10)
    await world.settle()
    assert port(world) == 80
    assert world.condition("Degraded").status is ConditionStatus.FALSE

    # longer each time
    edit_service(world)
    assert await world.settle() == 20


async def test_a_program_that_replaces_whole_objects_is_not_fought_at_full_speed(
    world: Simulation, spec: Spec
) -> None:
    """With our annotation, it takes away what tells whether the object is as it was applied."""
    await world.serve(spec)

    def replace() -> None:
        service = world.cluster.get("Service", "support")
        assert service is not None
        del service["metadata"]["annotations"]
        service["spec"]["ports"] = [{**service["spec"]["ports"][0], "port": 8080}]
        world.cluster.put(service)

    for _ in range(3):
        replace()
        await world.settle()
        assert port(world) == 80
    replace()
    assert await world.settle() == 10
    assert port(world) == 8080
    assert world.condition("Degraded").reason == "ChildContested"

    # what the user says meanwhile is done at once
    world.apply_agent(spec | {"agent": {**spec["agent"], "instructions": "Be brief."}})
    await world.settle()
    config_map = world.cluster.get("ConfigMap", "support-config")
    assert config_map is not None
    assert "Be brief." in config_map["data"]["agent_config.json"]

    world.pass_time(10)
    await world.settle()
    assert port(world) == 80


async def test_a_field_that_the_server_drops_is_asked_for_once(world: Simulation, spec: Spec) -> None:
    """An API server that does not know a field leaves it out of the object and of the record."""
    await world.serve(spec)
    apply = world.cluster.apply

    async def dropping(manifest: dict[str, Any]) -> dict[str, Any]:
        stored = await apply(manifest)
        if manifest["kind"] != "Service":
            return stored
        fields = stored["metadata"]["managedFields"][0]["fieldsV1"]
        del fields["f:spec"]["f:ports"]
        world.cluster.put({**stored, "spec": {**stored["spec"], "ports": []}})
        return world.cluster.get("Service", "support") or {}

    world.cluster.apply = dropping  # type: ignore[method-assign]
    edit_service(world)
    await world.settle()
    world.cluster.writes.clear()

    await world.settle()

    assert world.cluster.writes == []
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_an_autoscaler_of_the_deployment_keeps_its_word(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    autoscale(world, 5)
    await world.settle()
    assert world.node.deployment("support")["spec"]["replicas"] == 5

    # a promotion does not take its replicas back
    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    assert world.node.deployment("support")["spec"]["replicas"] == 5
    world.node.roll_out("support")
    await world.settle()
    assert world.status.rollout is not None
    assert world.status.rollout.step == "Bake"

    # what the user says later counts again
    world.apply_agent(spec | {"agent": {**spec["agent"], "replicas": 3}})
    await world.settle()
    assert world.node.deployment("support")["spec"]["replicas"] == 3


@pytest.mark.parametrize(("manager", "kept"), [("k3s", 5), ("kubelite", 5), ("keda", 5), ("kubectl", 2)])
async def test_an_autoscaler_is_known_by_the_binary_that_it_runs_in(
    world: Simulation, spec: Spec, manager: str, kept: int
) -> None:
    await world.serve(spec)
    autoscale(world, 5, manager)
    await world.settle()

    assert world.node.deployment("support")["spec"]["replicas"] == kept


async def test_what_an_autoscaler_has_scaled_to_none_is_not_validated(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    autoscale(world, 0)
    await world.settle()

    revision = await world.train()
    await world.evaluate(revision, lower=2500)
    world.node.roll_out("support")
    await world.settle()

    assert world.status.rollout is not None
    assert world.status.rollout.reason == "ScaledToZero"
    assert world.jobs(names.COMPONENT_VALIDATE) == []


async def test_what_an_autoscaler_scales_to_none_does_not_start_for_ever(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    autoscale(world, 0)
    world.pass_time(3600)
    await world.settle()
    assert world.condition("Ready").reason == "ScaledToZero"
    assert world.condition("Progressing").reason == "Converged"

    autoscale(world, 3)
    await world.settle()
    assert world.condition("Ready").message == "3 of 3 serving pods are ready."


async def test_pods_that_an_autoscaler_adds_are_not_drained_all_at_once(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec | {"agent": {**spec["agent"], "replicas": 1}})
    assert world.cluster.get("PodDisruptionBudget", "support") is None

    autoscale(world, 5)
    await world.settle()
    assert world.cluster.get("PodDisruptionBudget", "support") is not None

    autoscale(world, 1)
    await world.settle()
    assert world.cluster.get("PodDisruptionBudget", "support") is None


async def test_a_deployment_scaled_by_hand_is_scaled_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    deployment = world.node.deployment("support")
    deployment["spec"]["replicas"] = 7
    world.cluster.put(deployment)

    await world.settle()

    assert world.node.deployment("support")["spec"]["replicas"] == 2


async def test_jobs_do_not_start_from_a_configuration_that_somebody_changed(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    config_map = world.cluster.get("ConfigMap", "support-config")
    assert config_map is not None
    config_map["data"]["agent_config.json"] = "{}"
    world.cluster.put(config_map)

    await world.settle()

    healed = world.cluster.get("ConfigMap", "support-config")
    assert healed is not None
    assert world.stamp() in healed["data"]["agent_config.json"]


def grow(world: Simulation, size: str) -> None:
    """As a person does who edits the claim. The API server refuses to make one smaller."""
    claim = world.cluster.get("PersistentVolumeClaim", "support-store")
    assert claim is not None
    claim["spec"]["resources"]["requests"]["storage"] = size
    world.cluster.put(claim)


def claim_of(world: Simulation) -> dict[str, Any]:
    claim = world.cluster.get("PersistentVolumeClaim", "support-store")
    assert claim is not None
    return claim


def size_of(world: Simulation) -> str:
    return str(claim_of(world)["spec"]["resources"]["requests"]["storage"])


async def test_a_volume_that_somebody_has_grown_stays_so_whatever_else_changes(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    grow(world, "20Gi")
    await world.settle()
    assert size_of(world) == "20Gi"

    # when the claim has to change for another reason, its size is not spoken of
    world.apply_agent(spec | {"deletionPolicy": "Delete"})
    await world.settle()
    claim = claim_of(world)
    assert claim["metadata"]["ownerReferences"][0]["name"] == "support"
    assert size_of(world) == "20Gi"

    # and a new process agrees
    world.cluster.writes.clear()
    world.restart()
    await world.settle()
    assert world.cluster.writes == []

    # until the user speaks about it again
    world.apply_agent(spec | {"storage": {"volume": {"size": "30Gi"}}})
    await world.settle()
    assert size_of(world) == "30Gi"


async def test_a_claim_of_before_the_size_was_noted_is_not_made_smaller(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    grow(world, "20Gi")
    claim = claim_of(world)
    del claim["metadata"]["annotations"][names.ANNOTATION_SIZE]
    claim["metadata"]["annotations"][names.ANNOTATION_APPLIED_HASH] = "of another version"
    world.cluster.put(claim)
    world.restart()

    await world.settle()

    assert size_of(world) == "20Gi"
    assert claim_of(world)["metadata"]["annotations"][names.ANNOTATION_SIZE] == "10Gi"
