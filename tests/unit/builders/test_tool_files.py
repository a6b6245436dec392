"""Pods that call tools get what the tools name; nothing else does, and no Secret is ever spelled out."""

from __future__ import annotations

import json
from typing import Any

from support.golden import build_all, context_of

FILES = "/etc/evolving-agent/files"


def mounts(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sources of the volumes for tools, by where they are mounted."""
    pod = manifest["spec"].get("jobTemplate", manifest)["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    return {
        mount["mountPath"].removeprefix(f"{FILES}/"): volumes[mount["name"]] | {"mount": mount}
        for container in pod["containers"]
        for mount in container.get("volumeMounts", ())
        if mount["mountPath"].startswith(FILES)
    }


def test_serving_and_evaluating_pods_get_what_tools_and_specialists_name() -> None:
    built = build_all(context_of("openai"))

    for name in ("deployment", "evaluation_job"):
        found = mounts(built[name])
        assert set(found) == {"configmaps/shop-api", "configmaps/law-code", "secrets/shop", "secrets/law"}
        assert found["configmaps/law-code"]["configMap"] == {"name": "law-code", "optional": True}
        keys = [item["key"] for item in found["secrets/shop"]["secret"]["items"]]
        assert keys == ["courts", "token"]
        for volume in found.values():
            assert volume["mount"]["readOnly"]
            assert len(volume["name"]) <= 63


def test_jobs_that_call_no_tool_get_nothing() -> None:
    built = build_all(context_of("openai"))

    for name in ("curation_cron_job", "training_cron_job", "validation_job"):
        assert mounts(built[name]) == {}


def test_without_references_pods_stay_as_they_were() -> None:
    deployment = build_all(context_of("minimal"))["deployment"]

    assert mounts(deployment) == {}
    assert "EVOLVING_FILES" not in json.dumps(deployment)
