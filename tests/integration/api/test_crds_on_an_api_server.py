"""What the API server itself refuses, fills in, explains and prints."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.api.models import EvolvingAgentSpec
from evolving_operator.api.pod_template import PodTemplate
from support.cluster import REPOSITORY, RunningCluster, eventually

pytestmark = pytest.mark.cluster

Change = dict[str, Any]


def agent(name: str = "support", **spec: Any) -> dict[str, Any]:
    """A valid agent; `spec` is merged into its spec."""
    valid = {
        "model": {"base": "m"},
        "agent": {"instructions": "Help."},
        "curation": {"schedule": "0 1 * * *"},
        "training": {
            "schedule": "@daily",
            "backend": {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}},
        },
    }
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.AGENT_KIND,
        "metadata": {"name": name},
        "spec": merged(valid, spec),
    }


def merged(value: Any, change: Any) -> Any:
    """RFC 7386: maps are merged, null removes, all else replaces."""
    if not (isinstance(value, dict) and isinstance(change, dict)):
        return change
    result = copy.deepcopy(value)
    for key, part in change.items():
        if part is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), part)
    return result


def create(api: RunningCluster, namespace: str, manifest: dict[str, Any]) -> None:
    api.kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(manifest))


def patch(api: RunningCluster, namespace: str, target: str, change: Change) -> None:
    api.kubectl("patch", "-n", namespace, target, "--type=merge", "-p", json.dumps(change))


def tool(**fields: Any) -> Change:
    return {"agent": {"tools": [fields]}}


def network(**limits: Any) -> Change:
    return {"agent": {"networkPolicy": {"mode": "Enabled", **limits}}}


REFUSED: dict[str, tuple[Change, list[str]]] = {
    "no base model": ({"model": {"base": None}}, ["spec.model.base: Required value"]),
    "empty base model": ({"model": {"base": ""}}, ["spec.model.base", "at least 1 chars long"]),
    "no instructions": (
        {"agent": {"instructions": None}},
        ["spec.agent.instructions", "set instructions or instructionsFrom"],
    ),
    "instructions twice": (
        {"agent": {"instructionsFrom": {"configMapKeyRef": {"name": "prompts", "key": "support"}}}},
        ["spec.agent.instructions", "set instructions or instructionsFrom, and only one of them"],
    ),
    "instructions from nowhere": (
        {"agent": {"instructions": None, "instructionsFrom": {}}},
        ["spec.agent.instructionsFrom.configMapKeyRef: Required value"],
    ),
    "unknown field": ({"agent": {"replica": 2}}, ['unknown field "spec.agent.replica"']),
    "endpoint without scheme": (
        {"model": {"endpoint": {"baseURL": "model-server/v1"}}},
        ["spec.model.endpoint.baseURL", "should match"],
    ),
    "negative replicas": ({"agent": {"replicas": -1}}, ["spec.agent.replicas", "greater than or equal to 0"]),
    "memory of an unknown type": (
        {"agent": {"memory": {"type": "Redis"}}},
        ["spec.agent.memory.type", '"SQLite", "PostgreSQL", "Disabled"'],
    ),
    "PostgreSQL without its Secret": (
        {"agent": {"memory": {"type": "PostgreSQL"}}},
        ["spec.agent.memory.connectionSecretRef", "is required when type is PostgreSQL"],
    ),
    "SQLite with PostgreSQL's Secret": (
        {"agent": {"memory": {"connectionSecretRef": {"name": "database"}}}},
        ["spec.agent.memory.connectionSecretRef", "is only for type PostgreSQL"],
    ),
    "no memory with PostgreSQL's Secret": (
        {"agent": {"memory": {"type": "Disabled", "connectionSecretRef": {"name": "database"}}}},
        ["spec.agent.memory.connectionSecretRef", "is only for type PostgreSQL"],
    ),
    "a Secret's key that is none": (
        {"agent": {"memory": {"type": "PostgreSQL", "connectionSecretRef": {"name": "a", "key": "../b"}}}},
        ["spec.agent.memory.connectionSecretRef.key", "should match"],
    ),
    "SQLite on a shared volume": (
        {"storage": {"volume": {"accessModes": ["ReadWriteMany"]}}},
        ["spec.agent.memory.type", "SQLite needs a volume that is ReadWriteOnce"],
    ),
    "SQLite in an object store": (
        {"storage": {"objectStore": {"bucket": "agents"}}},
        ["spec.agent.memory.type", "SQLite needs a volume, and storage is an object store"],
    ),
    "a volume and an object store": (
        {
            "agent": {"memory": {"type": "Disabled"}},
            "storage": {"volume": {}, "objectStore": {"bucket": "b-1"}},
        },
        ["spec.storage.objectStore", "choose volume or objectStore"],
    ),
    "a bucket that is none": (
        {"agent": {"memory": {"type": "Disabled"}}, "storage": {"objectStore": {"bucket": "A"}}},
        ["spec.storage.objectStore.bucket", "should match"],
    ),
    "a size that is none": ({"storage": {"volume": {"size": "much"}}}, ["spec.storage.volume.size"]),
    "a storage class that is none": (
        {"storage": {"volume": {"storageClassName": "A B"}}},
        ["spec.storage.volume.storageClassName", "should match"],
    ),
    "a schedule that is none": (
        {"curation": {"schedule": "every day"}},
        ["spec.curation.schedule", "should match"],
    ),
    "too few examples": (
        {"curation": {"thresholds": {"minExamples": 3}}},
        ["spec.curation.thresholds.minExamples", "greater than or equal to 10"],
    ),
    "fewer examples than examples": (
        {"curation": {"thresholds": {"minExamples": 100, "maxExamples": 50}}},
        ["spec.curation.thresholds.minExamples", "must not be greater than maxExamples"],
    ),
    "LoRA without its block": (
        {"training": {"backend": {"lora": None}}},
        ["spec.training.backend.lora", "lora is required when type is LoRA"],
    ),
    "LoRA with the other's block": (
        {"training": {"backend": {"openAI": {}}}},
        ["spec.training.backend.openAI", "openAI is only for type OpenAI"],
    ),
    "OpenAI with the other's block": (
        {"training": {"backend": {"type": "OpenAI"}}},
        ["spec.training.backend.lora", "lora is only for type LoRA"],
    ),
    "a container beside that of a training Job": (
        {"training": {"podTemplate": {"spec": {"containers": [{"name": "agent"}]}}}},
        ["spec.training.podTemplate.spec.containers", "of a training Job is named job"],
    ),
    "beta for a method that has none": (
        {"training": {"hyperparameters": {"betaPercent": 10}}},
        [
            "spec.training.hyperparameters.betaPercent",
            "betaPercent is only for curation.format Preference",
        ],
    ),
    "beta where nothing is curated": (
        {"curation": None, "training": {"hyperparameters": {"betaPercent": 10}}},
        ["betaPercent is only for curation.format Preference"],
    ),
    "a beta that no provider takes": (
        {
            "curation": {"format": "Preference"},
            "training": {"hyperparameters": {"betaPercent": 201}},
        },
        ["spec.training.hyperparameters.betaPercent", "less than or equal to 200"],
    ),
    "a format that does not exist": (
        {"curation": {"format": "Ranking"}},
        ["spec.curation.format", "Unsupported value"],
    ),
    "a suffix that no provider takes": (
        {"training": {"suffix": "my model"}},
        ["spec.training.suffix", "should match"],
    ),
    "a suffix that no adapter's name can begin with": (
        {"training": {"suffix": ".acme"}},
        ["spec.training.suffix", "begins with a letter or a digit"],
    ),
    "two tools of one name": (
        {"agent": {"tools": [{"name": "recall", "type": "BuiltIn"}] * 2}},
        ["spec.agent.tools[1]", "Duplicate value"],
    ),
    "a tool that is not built in": (
        tool(name="fly", type="BuiltIn"),
        ["spec.agent.tools[0].name", "must be one of record_reflection, remember, recall"],
    ),
    "an MCP tool without an address": (
        tool(name="tickets", type="MCP"),
        ["spec.agent.tools[0].url", "url is required when type is MCP"],
    ),
    "an MCP tool with a method": (
        tool(name="tickets", type="MCP", url="http://tickets/mcp", method="GET"),
        ["spec.agent.tools[0].method", "method is only for type HTTP"],
    ),
    "an HTTP tool without a description": (
        tool(name="route", type="HTTP", url="http://desk/route", parameters={"type": "object"}),
        ["spec.agent.tools[0]", "a described call needs url, description and parameters"],
    ),
    "an HTTP tool with a description and a document": (
        tool(name="shop", type="HTTP", description="d", openAPI={"url": "http://shop/openapi.json"}),
        ["spec.agent.tools[0].openAPI", "come from the document"],
    ),
    "an OpenAPI document from nowhere": (
        tool(name="shop", type="HTTP", openAPI={"operations": ["getOrder"]}),
        ["spec.agent.tools[0].openAPI", "is at a url or in a configMapKeyRef"],
    ),
    "an OpenAPI document from a ConfigMap without a base": (
        tool(name="shop", type="HTTP", openAPI={"configMapKeyRef": {"name": "api", "key": "shop.yaml"}}),
        ["spec.agent.tools[0].url", "needs url, the base of its paths"],
    ),
    "a header with two values": (
        tool(
            name="tickets",
            type="MCP",
            url="http://tickets/mcp",
            headers=[{"name": "X-Key", "value": "a", "secretKeyRef": {"name": "s", "key": "k"}}],
        ),
        ["spec.agent.tools[0].headers[0]", "either a value or a secretKeyRef"],
    ),
    "a module without its name": (
        tool(name="orders", type="Module", configMapRef={"name": "orders"}),
        ["spec.agent.tools[0].module", "module is required when type is Module"],
    ),
    "a module that is a path": (
        tool(name="orders", type="Module", module="../orders"),
        ["spec.agent.tools[0].module", "should match"],
    ),
    "headers of a module": (
        tool(name="orders", type="Module", module="orders", headers=[{"name": "X-Key", "value": "a"}]),
        ["spec.agent.tools[0].headers", "headers is only for type HTTP or MCP"],
    ),
    "a specialist in no mode": (
        {"agent": {"specialists": [{"name": "a", "description": "d", "instructions": "i", "mode": "Ask"}]}},
        ["spec.agent.specialists[0].mode", '"Handoff", "Tool"'],
    ),
    "a tool's name that no model can call": (
        tool(name="route request", type="MCP", url="http://desk/mcp"),
        ["spec.agent.tools[0].name", "should match"],
    ),
    "a wrong tool of a specialist": (
        {
            "agent": {
                "specialists": [
                    {
                        "name": "billing",
                        "description": "d",
                        "instructions": "i",
                        "tools": [{"name": "t", "type": "MCP"}],
                    }
                ]
            }
        },
        ["spec.agent.specialists[0].tools[0].url"],
    ),
    "two suites of one name": (
        {"evaluation": {"suites": [{"name": "routing"}, {"name": "routing"}]}},
        ["spec.evaluation.suites[1]", "Duplicate value"],
    ),
    "a pod container without a name": (
        {"agent": {"podTemplate": {"spec": {"containers": [{"image": "x"}]}}}},
        ["spec.agent.podTemplate.spec.containers[0].name: Required value"],
    ),
    "pod volumes that are no list": (
        {"agent": {"podTemplate": {"spec": {"volumes": {"name": "x"}}}}},
        ["spec.agent.podTemplate.spec.volumes"],
    ),
    "environment variables that are no list": (
        {"agent": {"podTemplate": {"spec": {"containers": [{"name": "agent", "env": "A=1"}]}}}},
        ["spec.agent.podTemplate.spec.containers[0].env"],
    ),
    "a network policy that says nothing": (
        {"agent": {"networkPolicy": {}}},
        ["spec.agent.networkPolicy.mode: Required value"],
    ),
    "a network peer that is nothing": (
        network(ingressFrom=[{}]),
        ["spec.agent.networkPolicy.ingressFrom[0]", "choose ipBlock, or podSelector and namespaceSelector"],
    ),
    "a network peer that is two things": (
        network(ingressFrom=[{"podSelector": {}, "ipBlock": {"cidr": "::/0"}}]),
        ["spec.agent.networkPolicy.ingressFrom[0]", "choose ipBlock, or podSelector and namespaceSelector"],
    ),
    "nobody who may ask": (
        network(ingressFrom=[]),
        ["spec.agent.networkPolicy.ingressFrom", "at least 1 items"],
    ),
    "addresses that are none": (
        network(ingressFrom=[{"ipBlock": {"cidr": "10.0.0.0"}}]),
        ["spec.agent.networkPolicy.ingressFrom[0].ipBlock.cidr", "cidr must be a prefix"],
    ),
    "addresses without those that are not among them": (
        network(
            egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16"]}}]}]
        ),
        ["spec.agent.networkPolicy.egress[0].to[0].ipBlock.except", "prefixes that are parts of cidr"],
    ),
    "addresses without themselves": (
        network(egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]}]),
        ["spec.agent.networkPolicy.egress[0].to[0].ipBlock.except", "prefixes that are parts of cidr"],
    ),
    "a range of ports that ends before it begins": (
        network(egress=[{"ports": [{"port": 443, "endPort": 80}]}]),
        ["spec.agent.networkPolicy.egress[0].ports[0].endPort", "endPort must not be below port"],
    ),
    "labels that are in no set": (
        network(
            egress=[{"to": [{"podSelector": {"matchExpressions": [{"key": "tier", "operator": "In"}]}}]}]
        ),
        ["matchExpressions[0].values", "values are required when operator is In or NotIn"],
    ),
    "a share above the whole": (
        {"rollout": {"shadow": {"percent": 101}}},
        ["spec.rollout.shadow.percent", "less than or equal to 100"],
    ),
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_malformed_spec_is_refused_with_a_message_that_names_the_field(
    api: RunningCluster, change: str
) -> None:
    spec, expected = REFUSED[change]
    with pytest.raises(AssertionError) as refusal:
        api.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(agent(**spec)))
    for part in expected:
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a" * 41, "metadata.name must have at most 40 characters"),
        ("a.b", "metadata.name must be a DNS label"),
        ("1a", "metadata.name must be a DNS label that starts with a letter"),
    ],
)
def test_a_name_that_its_children_could_not_carry_is_refused(
    api: RunningCluster, name: str, expected: str
) -> None:
    with pytest.raises(AssertionError, match=expected):
        api.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(agent(name)))


def test_beta_comes_and_goes_with_preference(api: RunningCluster, namespace: str) -> None:
    tuned = {"hyperparameters": {"betaPercent": 30}}
    create(api, namespace, agent(curation={"format": "Preference"}, training=tuned))

    with pytest.raises(AssertionError, match=r"betaPercent is only for curation\.format Preference"):
        patch(api, namespace, "eva/support", {"spec": {"curation": {"format": "Supervised"}}})

    without = {"training": {"hyperparameters": {"betaPercent": None}}, "curation": {"format": "Supervised"}}
    patch(api, namespace, "eva/support", {"spec": without})
    assert (
        "betaPercent" not in api.get("-n", namespace, "eva", "support")["spec"]["training"]["hyperparameters"]
    )


def test_what_is_stored_is_what_the_models_mean(api: RunningCluster, namespace: str) -> None:
    written = agent("a" * 40)
    create(api, namespace, written)

    stored = api.get("-n", namespace, "eva", "a" * 40)["spec"]

    assert stored["storage"] == {}
    assert EvolvingAgentSpec.model_validate(stored) == EvolvingAgentSpec.model_validate(written["spec"])


def test_of_a_volume_only_the_size_can_be_changed(api: RunningCluster, namespace: str) -> None:
    create(api, namespace, agent(storage={"volume": {"size": "2Gi"}}))

    patch(api, namespace, "eva/support", {"spec": {"storage": {"volume": {"size": "3000Mi"}}}})
    # A claim cannot shrink, but who asked for a size that the cluster does not give can take that back.
    patch(api, namespace, "eva/support", {"spec": {"storage": {"volume": {"size": "2500Mi"}}}})
    with pytest.raises(AssertionError, match="storageClassName is immutable"):
        patch(api, namespace, "eva/support", {"spec": {"storage": {"volume": {"storageClassName": "x"}}}})
    without_sqlite = {"memory": {"type": "Disabled"}}
    shared = {"volume": {"accessModes": ["ReadWriteMany"]}}
    with pytest.raises(AssertionError, match="accessModes is immutable"):
        patch(api, namespace, "eva/support", {"spec": {"agent": without_sqlite, "storage": shared}})


def test_the_order_of_access_modes_cannot_be_changed(api: RunningCluster, namespace: str) -> None:
    """That of a claim cannot either: the API server would refuse it for ever."""
    without_sqlite, modes = {"memory": {"type": "Disabled"}}, ["ReadWriteOnce", "ReadWriteMany"]
    create(api, namespace, agent(agent=without_sqlite, storage={"volume": {"accessModes": modes}}))

    storage = {"volume": {"accessModes": modes[::-1]}}
    with pytest.raises(AssertionError, match="accessModes is immutable"):
        patch(api, namespace, "eva/support", {"spec": {"storage": storage}})


def test_of_a_volume_made_by_default_only_the_size_can_be_changed(
    api: RunningCluster, namespace: str
) -> None:
    create(api, namespace, agent())

    with pytest.raises(AssertionError, match="only the size can be changed"):
        patch(api, namespace, "eva/support", {"spec": {"storage": {"volume": {"storageClassName": "x"}}}})
    patch(api, namespace, "eva/support", {"spec": {"storage": {"volume": {"size": "20Gi"}}}})
    patch(api, namespace, "eva/support", {"spec": {"storage": {"volume": None}}})


@pytest.mark.parametrize(
    "storage", [{"volume": {"accessModes": ["ReadWriteMany"]}}, {"objectStore": {"bucket": "agents"}}, {}]
)
def test_postgresql_memory_goes_with_any_storage(
    api: RunningCluster, namespace: str, storage: dict[str, Any]
) -> None:
    memory = {"type": "PostgreSQL", "connectionSecretRef": {"name": "database"}}
    create(api, namespace, agent(agent={"memory": memory}, storage=storage))

    stored = api.get("-n", namespace, "eva", "support")["spec"]["agent"]["memory"]
    assert stored == {"type": "PostgreSQL", "connectionSecretRef": {"name": "database", "key": "uri"}}


def test_the_type_of_memory_can_change_with_its_secret(api: RunningCluster, namespace: str) -> None:
    create(api, namespace, agent())
    memory = {"type": "PostgreSQL", "connectionSecretRef": {"name": "database"}}

    patch(api, namespace, "eva/support", {"spec": {"agent": {"memory": memory}}})
    with pytest.raises(AssertionError, match="is only for type PostgreSQL"):
        patch(api, namespace, "eva/support", {"spec": {"agent": {"memory": {"type": "SQLite"}}}})
    back = {"type": "SQLite", "connectionSecretRef": None}
    patch(api, namespace, "eva/support", {"spec": {"agent": {"memory": back}}})


def test_an_agents_store_stays_where_it_is(api: RunningCluster, namespace: str) -> None:
    without_memory = {"memory": {"type": "Disabled"}}
    bucket = {"bucket": "agents", "prefix": "production"}
    create(api, namespace, agent(agent=without_memory, storage={"objectStore": bucket}))

    for change in ({"bucket": "others"}, {"prefix": "staging"}, {"prefix": None}):
        with pytest.raises(AssertionError, match="bucket and prefix are immutable"):
            patch(api, namespace, "eva/support", {"spec": {"storage": {"objectStore": change}}})
    with pytest.raises(AssertionError, match="does not move between a volume and an object store"):
        patch(api, namespace, "eva/support", {"spec": {"storage": {"objectStore": None}}})
    moved = {"endpoint": "http://minio.storage:9000", "credentialsSecretRef": {"name": "s3"}}
    patch(api, namespace, "eva/support", {"spec": {"storage": {"objectStore": moved}}})


def test_limits_of_the_network_can_be_taken_away_one_by_one(api: RunningCluster, namespace: str) -> None:
    """By server-side apply, which would leave a null of a block in which nothing is left."""
    limits: list[Change] = [{"ingressFrom": [{"podSelector": {}}], "egress": []}, {"egress": []}, {}]
    for limit in limits:
        wanted = agent(**network(**limit))
        wanted["metadata"]["namespace"] = namespace
        api.apply(wanted)
        stored = api.get("-n", namespace, "eva/support")["spec"]["agent"]["networkPolicy"]
        assert stored == {"mode": "Enabled", **limit}


@pytest.mark.parametrize("emptied", [{"metadata": {"labels": {}}, "spec": {}}, {"metadata": {}}, {}])
def test_a_pod_template_can_be_emptied(api: RunningCluster, namespace: str, emptied: Change) -> None:
    """By server-side apply, as Helm and GitOps tools do it."""
    full = {"metadata": {"labels": {"team": "shop"}}, "spec": {"nodeSelector": {"disk": "fast"}}}
    for template in (full, emptied):
        own: Change = template or {"spec": {}}  # of training: `{}` is not the same as none
        wanted = agent(agent={"podTemplate": template}, training={"podTemplate": own})
        wanted["metadata"]["namespace"] = namespace
        api.apply(wanted)

    stored = EvolvingAgentSpec.model_validate(api.get("-n", namespace, "eva/support")["spec"])
    assert stored.agent.pod_template == PodTemplate()
    assert stored.training is not None
    assert stored.training.pod_template == PodTemplate()


def test_settings_of_a_training_backend_can_be_emptied(api: RunningCluster, namespace: str) -> None:
    """By server-side apply, which leaves a null of them; a block like this has no defaults to come back."""
    lora = {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}}
    settings: Change
    for settings in ({"learningRateMultiplierPercent": 50}, {}):
        wanted = agent(training={"backend": {"type": "OpenAI", "openAI": settings, "lora": None}})
        wanted["metadata"]["namespace"] = namespace
        api.apply(wanted)
    emptied = EvolvingAgentSpec.model_validate(api.get("-n", namespace, "eva/support")["spec"])
    assert emptied.training is not None
    assert emptied.training.backend.open_ai is None

    wanted["spec"]["training"]["backend"] = lora
    api.apply(wanted)
    stored = api.get("-n", namespace, "eva/support")["spec"]["training"]["backend"]
    assert (stored["type"], "openAI" in stored) == ("LoRA", False)


def agents_in_documents() -> dict[str, str]:
    blocks = {
        f"{path.stem} {number}": block
        for path in sorted((REPOSITORY / "docs").glob("*.md"))
        for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.M | re.S))
    }
    return {name: block for name, block in blocks.items() if f"kind: {names.AGENT_KIND}" in block}


@pytest.mark.parametrize("name", agents_in_documents())
def test_agents_in_documents_are_accepted(api: RunningCluster, name: str) -> None:
    api.kubectl(
        "create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=agents_in_documents()[name]
    )


def revision(**spec: Any) -> dict[str, Any]:
    valid = {
        "agentRef": {"name": "support"},
        "modelID": "learned",
        "base": "m",
        "dataset": {"version": "v1", "digest": "d1", "examples": 120},
    }
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.REVISION_KIND,
        "metadata": {"name": "support-0badcafe"},
        "spec": merged(valid, spec),
    }


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"modelID": "else"}, "modelID"),
        ({"agentRef": {"name": "else"}}, "agentRef"),
        ({"base": "else"}, "base"),
        ({"dataset": {"examples": 1}}, "dataset"),
        ({"dataset": None}, "dataset"),
        ({"training": {"backend": "LoRA"}}, "training"),
    ],
)
def test_a_revision_is_immutable(api: RunningCluster, namespace: str, change: Change, field: str) -> None:
    create(api, namespace, revision())
    with pytest.raises(AssertionError, match=f"spec.{field}.*{field} is immutable: only decision can be"):
        patch(api, namespace, "arev/support-0badcafe", {"spec": change})


def test_a_person_may_decide_on_a_revision(api: RunningCluster, namespace: str) -> None:
    create(api, namespace, revision())
    assert api.get("-n", namespace, "arev", "support-0badcafe")["spec"]["decision"] == "Auto"

    patch(api, namespace, "arev/support-0badcafe", {"spec": {"decision": "Approved"}})

    with pytest.raises(AssertionError, match=r"spec\.decision: Unsupported value"):
        patch(api, namespace, "arev/support-0badcafe", {"spec": {"decision": "Perhaps"}})
    assert api.get("-n", namespace, "arev", "support-0badcafe")["spec"]["decision"] == "Approved"


def test_columns_tell_where_an_agent_stands(api: RunningCluster, namespace: str) -> None:
    now = "2030-01-01T03:00:00Z"
    create(api, namespace, agent())
    status = {
        "active": {"revision": "support-11111111", "modelID": "model-1", "since": now},
        "candidate": {"revision": "support-22222222", "modelID": "model-2", "since": now},
        "lastVerdict": {"result": "Inconclusive"},
        "dataset": {"version": "v1", "examples": 120, "digest": "d"},
        "nextTrainingTime": now,
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "Serving", "lastTransitionTime": now},
            {"type": "Degraded", "status": "False", "reason": "AllWell", "lastTransitionTime": now},
        ],
    }
    api.kubectl(
        "patch", "-n", namespace, "eva/support", "--subresource=status", "--type=merge",
        "-p", json.dumps({"status": status}),
    )  # fmt: skip

    header, row = api.kubectl("get", "-n", namespace, "eva").splitlines()
    assert " ".join(header.split()) == "NAME READY MODEL REVISION CANDIDATE VERDICT EXAMPLES AGE"
    assert row.split()[:7] == [
        "support", "True", "model-1", "support-11111111", "support-22222222", "Inconclusive", "120",
    ]  # fmt: skip
    wide = api.kubectl("get", "-n", namespace, "eva", "-o", "wide").splitlines()
    assert wide[0].split()[-3:] == ["NEXT", "TRAINING", "REASON"]
    assert wide[1].split()[-2:] == [now, "Serving"]
    assert "support" in api.kubectl("get", "-n", namespace, "all")


def test_columns_tell_the_lineage_of_revisions(api: RunningCluster, namespace: str) -> None:
    create(api, namespace, revision())
    api.kubectl(
        "patch", "-n", namespace, "arev/support-0badcafe", "--subresource=status", "--type=merge",
        "-p", json.dumps({"status": {"state": "Rejected", "deltaBps": -250}}),
    )  # fmt: skip

    selected = ("-n", namespace, "arev", "--field-selector")
    header, row = api.kubectl("get", *selected, "spec.agentRef.name=support").splitlines()
    assert " ".join(header.split()) == "NAME AGENT MODEL DATASET DELTA STATE AGE"
    assert row.split()[:6] == ["support-0badcafe", "support", "learned", "v1", "-250", "Rejected"]
    assert api.kubectl("get", *selected, "spec.agentRef.name=another") == ""


def test_the_scale_subresource_scales_the_agent(api: RunningCluster, namespace: str) -> None:
    create(api, namespace, agent())

    api.kubectl("scale", "-n", namespace, "eva/support", "--replicas=4")

    assert api.get("-n", namespace, "eva", "support")["spec"]["agent"]["replicas"] == 4
    with pytest.raises(AssertionError, match="should be less than or equal to 1000"):
        api.kubectl("scale", "-n", namespace, "eva/support", "--replicas=1001")


def test_status_is_a_subresource_of_its_own(api: RunningCluster, namespace: str) -> None:
    create(api, namespace, agent())
    before = api.get("-n", namespace, "eva", "support")["metadata"]["generation"]

    patch(api, namespace, "eva/support", {"status": {"lastRun": "curate"}})
    api.kubectl(
        "patch", "-n", namespace, "eva/support", "--subresource=status", "--type=merge",
        "-p", json.dumps({"status": {"lastRun": "finetune"}, "spec": {"suspend": True}}),
    )  # fmt: skip

    seen = api.get("-n", namespace, "eva", "support")
    assert seen["status"] == {"observedGeneration": -1, "lastRun": "finetune"}
    assert seen["spec"]["suspend"] is False
    assert seen["metadata"]["generation"] == before


def test_a_new_agent_is_in_progress_before_an_operator_has_seen_it(
    api: RunningCluster, namespace: str
) -> None:
    """kstatus takes an object without a status for done; helm and flux would not wait for it."""
    create(api, namespace, agent())

    created = api.get("-n", namespace, "eva", "support")
    assert created["status"]["observedGeneration"] != created["metadata"]["generation"]
    assert created["status"] == {"observedGeneration": -1}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("eva", "An AI agent that serves, learns"),
        ("eva.spec.agent.tools", "Kind of the tool"),
        ("eva.spec.training.backend.lora.adapterVolume", "PersistentVolumeClaim that the model server"),
        ("eva.status.conditions", "Why, in words, for people"),
        ("arev.spec.decision", "A person's word on this revision"),
    ],
)
def test_explain_is_documentation(api: RunningCluster, path: str, expected: str) -> None:
    def explained() -> bool:
        # kubectl reads a published OpenAPI document that follows the CRD with a delay.
        text = " ".join(api.kubectl("explain", path).split())
        assert expected in text
        assert "<no description>" not in text.split("FIELDS:", maxsplit=1)[0]
        return True

    assert eventually(explained, 60, f"kubectl explain {path}")


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "examples").rglob("*.yaml")), ids=lambda path: path.name
)
def test_an_example_is_taken_without_a_warning(api: RunningCluster, path: Path) -> None:
    api.kubectl("apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", str(path))
