"""Rights that an admission plugin asks for, on an API server that runs it: no audit log shows these as used.

OwnerReferencesPermissionEnforcement asks whoever makes an object's deletion wait for another's for `update`
of the other's finalizers, and whoever changes owners of an object for `delete` of the object.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolving_operator.api import names
from support.cluster import RunningCluster, eventually, running_cluster
from support.kinds import serve_kinds
from support.operator_process import Place, start_operator_process

pytestmark = pytest.mark.cluster

AGENT: dict[str, Any] = {
    "apiVersion": names.API_VERSION,
    "kind": names.AGENT_KIND,
    "metadata": {"name": "support"},
    "spec": {"model": {"base": "m"}, "agent": {"instructions": "Help.", "replicas": 0}},
}
ENFORCED = {"rbac": {"ownerReferencesPermissionEnforcement": True}}


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningCluster]:
    plugin = ("--admission-plugin", "OwnerReferencesPermissionEnforcement")
    with running_cluster("test-strict", "control-plane", *plugin) as cluster:
        serve_kinds(cluster)
        yield cluster


Install = Callable[..., Place]


@pytest.fixture
def install(strict: RunningCluster, tmp_path: Path) -> Iterator[Install]:
    """The chart's rights in a namespace, with these values."""
    with strict.namespace(f"strict-{uuid.uuid4().hex[:8]}") as namespace:
        yield lambda **values: Place.prepare(strict, namespace, tmp_path, **values)


def owner(place: Place, **fields: Any) -> dict[str, Any]:
    """A reference to the agent, which exists."""
    uid = place.get("evolvingagent", "support")["metadata"]["uid"]
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.AGENT_KIND,
        "name": "support",
        "uid": uid,
        **fields,
    }


def as_operator(place: Place, *arguments: str, manifest: dict[str, Any] | None = None) -> str:
    """What kubectl says to the chart's account, of a write that is only tried."""
    account = replace(place.cluster, kubeconfig=place.operator_kubeconfig)
    tried = (*arguments, "-n", place.namespace, "--dry-run=server")
    try:
        return account.kubectl(*tried, stdin=json.dumps(manifest) if manifest else None)
    except AssertionError as refusal:
        return str(refusal)


def test_with_the_charts_rights_children_are_owned_and_owners_set_right(
    install: Install, tmp_path: Path
) -> None:
    def owners(child: str) -> list[str]:
        metadata = place.get(child)["metadata"]
        return [reference["name"] for reference in metadata.get("ownerReferences", [])]

    place = install(**ENFORCED)
    operator = start_operator_process(place, tmp_path / "operator.log")
    try:
        place.apply(AGENT)
        eventually(
            lambda: place.condition("support", "Progressing").get("reason") == "Converged", 60, "all is there"
        )
        assert owners("pvc/support-store") == []
        for policy, expected in (("Delete", ["support"]), ("Retain", [])):
            place.apply({**AGENT, "spec": {**AGENT["spec"], "deletionPolicy": policy}})
            eventually(
                lambda expected=expected: owners("pvc/support-store") == expected,  # type: ignore[misc]
                30,
                f"the volume under {policy}",
            )
        for child in ("deployment/support", "service/support", "serviceaccount/support"):
            nobody = json.dumps({"metadata": {"ownerReferences": None}})
            place.kubectl("patch", child, "--type=merge", "-p", nobody)
            eventually(
                lambda child=child: owners(child) == ["support"],  # type: ignore[misc]
                30,
                f"{child} has its owner again",
            )
        assert operator.refusals() == []
        assert operator.errors() == []
    finally:
        operator.kill()


def test_without_the_finalizers_right_no_child_could_be_owned(install: Install) -> None:
    place = install()
    place.apply(AGENT)
    child = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "child", "ownerReferences": [owner(place, blockOwnerDeletion=True)]},
    }
    assert as_operator(place, "create", "-f", "-", manifest=child).startswith("configmap/child created")

    finalizers = f"{names.AGENT_PLURAL}/finalizers"
    rules = place.get("role", place.release)["rules"]
    fewer = {"rules": [rule for rule in rules if finalizers not in rule["resources"]]}
    place.kubectl("patch", "role", place.release, "--type=merge", "-p", json.dumps(fewer))

    eventually(
        lambda: "cannot set blockOwnerDeletion" in as_operator(place, "create", "-f", "-", manifest=child),
        30,
        "the plugin refuses",
    )


@pytest.mark.parametrize("is_enforced", [False, True])
def test_owners_are_changed_only_by_who_may_delete(install: Install, is_enforced: bool) -> None:
    place = install(**(ENFORCED if is_enforced else {}))
    place.apply(AGENT)
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "store"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    place.apply(claim)
    owned = {**claim, "metadata": {"name": "store", "ownerReferences": [owner(place)]}}

    said = as_operator(place, "apply", "--server-side", "-f", "-", manifest=owned)

    assert ("cannot set an ownerRef on a resource you can't delete" in said) is not is_enforced
    assert ("serverside-applied" in said) is is_enforced
