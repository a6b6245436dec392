"""What the API server says about the steps of a canary."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evolving_operator.api import names
from support.cluster import RunningCluster

pytestmark = pytest.mark.cluster


def agent(*percents: int) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.AGENT_KIND,
        "metadata": {"name": "support"},
        "spec": {
            "model": {"base": "m"},
            "agent": {"instructions": "Help."},
            "rollout": {"canary": {"steps": [{"percent": percent} for percent in percents]}},
        },
    }


def create(api: RunningCluster, namespace: str, *percents: int) -> dict[str, Any]:
    made = api.kubectl(
        "create",
        "-n",
        namespace,
        "--dry-run=server",
        "-o",
        "json",
        "-f",
        "-",
        stdin=json.dumps(agent(*percents)),
    )
    taken: dict[str, Any] = json.loads(made)["spec"]["rollout"]["canary"]
    return taken


def test_steps_that_grow_are_taken_with_their_defaults(api: RunningCluster, namespace: str) -> None:
    assert create(api, namespace, 5, 25, 50) == {
        "steps": [{"percent": percent, "pauseSeconds": 300} for percent in (5, 25, 50)]
    }


@pytest.mark.parametrize("percents", [(50, 10), (10, 10), (5, 50, 25)])
def test_steps_that_do_not_grow_are_refused(
    api: RunningCluster, namespace: str, percents: tuple[int, ...]
) -> None:
    with pytest.raises(AssertionError, match="each percent must be larger than the one before"):
        create(api, namespace, *percents)


@pytest.mark.parametrize("percents", [(), (0,), (100,)])
def test_a_share_is_no_more_than_a_part(
    api: RunningCluster, namespace: str, percents: tuple[int, ...]
) -> None:
    with pytest.raises(AssertionError, match="steps"):
        create(api, namespace, *percents)
