"""An agent whose experience lies in an object store has no volume, and its pods know where to write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from evolving_operator.core.builders.base import Manifest
from support.golden import build_all, context_of

CONTEXT = context_of("object-store")


def pods() -> Iterator[tuple[str, Manifest]]:
    for name, manifest in build_all(CONTEXT).items():
        spec: Any = manifest.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield name, spec["template"]["spec"]


def test_no_pod_needs_a_volume_or_a_certain_node() -> None:
    named = dict(pods())
    assert set(named) == {"deployment", "curation_cron_job", "curation_job"}
    for spec in named.values():
        assert "affinity" not in spec
        assert {"name": "store", "emptyDir": {}} in spec["volumes"]
        assert not any("persistentVolumeClaim" in volume for volume in spec["volumes"])
    assert "store_claim" not in build_all(CONTEXT)


def test_every_pod_knows_the_agents_own_folder_and_reads_the_key_from_its_secret() -> None:
    for _, spec in pods():
        variables = {item["name"]: item for item in spec["containers"][0]["env"]}
        assert variables["EVOLVING_OBJECT_STORE"]["value"] == "s3://agents/production/bank/greeter"
        assert variables["AWS_ENDPOINT_URL"]["value"] == "http://minio.storage:9000"
        assert variables["AWS_REGION"]["value"] == "eu-central-1"
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert variables[key]["valueFrom"] == {"secretKeyRef": {"name": "s3", "key": key}}


def test_pods_may_go_one_by_one() -> None:
    """None waits for another's node: a drain takes them in turn."""
    assert build_all(CONTEXT)["disruption_budget"]["spec"]["maxUnavailable"] == 1
