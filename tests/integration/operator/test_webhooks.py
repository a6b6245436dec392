"""An admission webhook that is asked about one kind of object, and does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from evolving_operator.api import names
from support.cluster import eventually
from support.operator_process import Place, StartOperator

pytestmark = pytest.mark.cluster

AGENT = {
    "apiVersion": names.API_VERSION,
    "kind": names.AGENT_KIND,
    "metadata": {"name": "support"},
    "spec": {
        "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
        "agent": {"instructions": "You route requests.", "replicas": 0},
        "curation": {"schedule": "0 1 * * *"},
    },
}


@pytest.fixture
def webhook(place: Place) -> Iterator[str]:
    """Its configuration; of the test's namespace only."""
    name = f"nowhere-{place.namespace}"
    place.cluster.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [
                {
                    "name": "nowhere.example.com",
                    "failurePolicy": "Fail",
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                    "timeoutSeconds": 1,
                    "clientConfig": {"url": "https://127.0.0.1:9/"},
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": place.namespace}},
                    "rules": [
                        {
                            "apiGroups": ["apps"],
                            "apiVersions": ["v1"],
                            "resources": ["deployments"],
                            "operations": ["CREATE", "UPDATE"],
                        }
                    ],
                }
            ],
        }
    )
    yield name
    place.cluster.kubectl("delete", "validatingwebhookconfiguration", name, "--ignore-not-found")


def test_a_webhook_that_does_not_answer_is_told_and_holds_nothing_else_up(
    place: Place, start_operator: StartOperator, webhook: str
) -> None:
    operator = start_operator()
    place.apply(AGENT)
    told: dict[str, Any] = {}

    def degraded() -> bool:
        told.update(place.condition("support", "Degraded"))
        return told.get("reason") == "WebhookFailed"

    eventually(degraded, timeout=40, message="Degraded/WebhookFailed")
    assert "nowhere.example.com" in told["message"]
    assert place.get("deployments")["items"] == []
    for kind in ("services", "cronjobs", "configmaps/support-config", "serviceaccounts/support"):
        assert place.get(kind).get("items", True), kind

    place.cluster.kubectl("delete", "validatingwebhookconfiguration", webhook)
    eventually(lambda: place.get("deployments")["items"], timeout=40, message="a Deployment")
    eventually(
        lambda: place.condition("support", "Degraded").get("status") == "False",
        timeout=40,
        message="Degraded is over",
    )
    assert operator.errors() == []
