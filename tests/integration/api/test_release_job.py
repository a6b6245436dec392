"""The Job that pays a deleted agent's debt is taken where little is allowed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from evolving_operator.api.models import DeletionPolicy
from evolving_operator.core.builders.debt import DEBT_KEY, build_provider_debt, owes_provider
from support.cluster import RunningCluster
from support.golden import context_of

pytestmark = pytest.mark.cluster


def test_it_is_taken_without_a_warning(api: RunningCluster, namespace: str) -> None:
    standard = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    api.kubectl("label", "namespace", namespace, *standard)
    context = context_of("openai")
    spec = context.spec.model_copy(update={"deletion_policy": DeletionPolicy.DELETE})
    context = replace(context, spec=spec, namespace=namespace)
    assert owes_provider(context)

    debt = build_provider_debt(context)
    job = json.loads(debt["data"][DEBT_KEY])

    strictly = ["--dry-run=server", "--validate=strict", "--warnings-as-errors"]
    listed = {"apiVersion": "v1", "kind": "List", "items": [debt, job]}
    told = api.kubectl("apply", "--server-side", *strictly, "-f", "-", stdin=json.dumps(listed))
    assert len(told.splitlines()) == 2
    pod = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in pod  # the agent's own is gone by then
    assert "volumes" not in pod
