"""Children that builders give are taken by a real API server, in a namespace that allows little."""

from __future__ import annotations

import json

import pytest

from support.cluster import RunningCluster
from support.golden import CASES, build_all, context_of

pytestmark = pytest.mark.cluster


@pytest.fixture
def restricted(api: RunningCluster, namespace: str) -> str:
    """A namespace under the strictest Pod Security standard."""
    standard = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    api.kubectl("label", "namespace", namespace, *standard)
    return namespace


@pytest.mark.parametrize("case", CASES)
def test_every_child_is_taken_without_a_warning(api: RunningCluster, restricted: str, case: str) -> None:
    children = list(build_all(context_of(case)).values())
    for child in children:
        child["metadata"]["namespace"] = restricted
    listed = {"apiVersion": "v1", "kind": "List", "items": children}
    strictly = ["--dry-run=server", "--validate=strict"]
    if case != "openai":  # its user adds a sidecar, which the standard does not allow as it stands
        strictly.append("--warnings-as-errors")

    told = api.kubectl("apply", "--server-side", *strictly, "-f", "-", stdin=json.dumps(listed))

    assert len(told.splitlines()) == len(children)


@pytest.mark.parametrize("case", CASES)
def test_applying_twice_changes_nothing(api: RunningCluster, namespace: str, case: str) -> None:
    """Else every reconciliation would be a write, and every write a reconciliation."""
    children = list(build_all(context_of(case)).values())
    for child in children:
        child["metadata"]["namespace"] = namespace
        child["metadata"].pop("ownerReferences", None)  # its owner is not here: it would be collected
    kinds = sorted({child["kind"].lower() for child in children} - {"job"})

    def versions() -> dict[str, str]:
        items = api.get("-n", namespace, ",".join(kinds), "-l", "evolvingagents.io/agent")["items"]
        return {
            f"{item['kind']}/{item['metadata']['name']}": json.dumps(item["spec"], sort_keys=True)
            for item in items
            if "spec" in item
        } | {
            f"{item['kind']}/{item['metadata']['name']}/generation": item["metadata"].get("generation")
            for item in items
        }

    wanted = [child for child in children if child["kind"] != "Job"]
    api.apply(*wanted)
    before = versions()
    api.apply(*wanted)

    assert len(before) > len(wanted)
    assert versions() == before
