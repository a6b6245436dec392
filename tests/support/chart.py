"""The chart, rendered by a real helm."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

import yaml

from support.cluster import REPOSITORY, program

CHART = REPOSITORY / "charts" / "evolving-agents"


@dataclass(frozen=True)
class Rendered:
    """The objects of one `helm template`, or what helm said instead."""

    objects: list[dict[str, Any]]
    error: str

    def one(self, kind: str, name: str | None = None) -> dict[str, Any]:
        (found,) = self.all(kind, name)
        return found

    def all(self, kind: str, name: str | None = None) -> list[dict[str, Any]]:
        return [
            item for item in self.objects if item["kind"] == kind and name in (None, item["metadata"]["name"])
        ]


def render(
    values: dict[str, Any] | None = None,
    release: str = "learning",
    namespace: str = "ops",
    api_versions: tuple[str, ...] = (),
) -> Rendered:
    """The chart with those values, for a cluster that serves those API versions besides the usual ones."""
    served = [f"--api-versions={version}" for version in api_versions]
    done = subprocess.run(
        [program("helm"), "template", release, str(CHART), "--namespace", namespace, *served, "-f", "-"],
        input=json.dumps(values or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    objects = [item for item in yaml.safe_load_all(done.stdout) if item]
    return Rendered(objects, done.stderr if done.returncode else "")


def bound_rules(rendered: Rendered) -> list[dict[str, Any]]:
    """The rules that are bound to the operator's own account."""
    bound = {
        binding["roleRef"]["name"]
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for binding in rendered.all(kind)
    }
    roles = rendered.all("Role") + rendered.all("ClusterRole")
    return [rule for role in roles if role["metadata"]["name"] in bound for rule in role["rules"]]
