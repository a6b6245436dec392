"""Whether an agent's children are what its spec asks for: by the operator's own pure code, and without it.

The pure code tells what is forgotten, half done or done twice; that it builds the right thing is told by
`told_by_hand`, which knows for the main fields where a person would look for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from evolving_operator.api import names
from evolving_operator.cluster.cache import Cache
from evolving_operator.core.children import wanted_children
from evolving_operator.core.clock import Timers
from evolving_operator.core.decide import decide
from evolving_operator.core.observed import InvalidField, Observed
from evolving_operator.core.reading import read_observed
from evolving_operator.core.situation import Situation
from evolving_operator.settings import Settings
from support.api_client import ApiClient
from support.spec_walk import PROMPTS
from support.stories import CHILDREN, NAME

Raw = dict[str, Any]

_KINDS = (*CHILDREN, names.REVISION_PLURAL, "jobs", "pods")
_NOTHING: tuple[Any, ...] = (None, "", [], {})
# Reasons of Degraded that say: part of this spec cannot be had.
REFUSED = frozenset({"InvalidSpec", "WriteRefused", "Forbidden", "InstructionsNotFound"})


async def observe(api: ApiClient, namespace: str) -> tuple[Raw, list[Raw]]:
    """The agent, and all that carries its label."""
    agent = await api.get(namespace, names.AGENT_PLURAL, NAME)
    assert agent is not None
    owned = []
    for plural in _KINDS:
        selector = "" if plural == names.REVISION_PLURAL else names.LABEL_AGENT
        owned += await api.list(namespace, plural, selector)
    return agent, owned


def left_to_do(agent: Raw, owned: list[Raw]) -> Iterator[str]:
    """What the operator would still do, and children that are not as its builders want them."""
    now = datetime.now(UTC)
    observed = _read(agent, owned)
    yield from (f"not done: {str(action)[:300]}" for action in decide(observed, now).actions)
    spec = observed.agent.spec
    assert not isinstance(spec, InvalidField), spec
    live = {(raw["kind"], raw["metadata"]["name"]): raw for raw in owned}
    for wanted in wanted_children(Situation(observed, spec, now, Timers(now))):
        key = wanted["kind"], wanted["metadata"]["name"]
        if key not in live:
            yield f"missing: {key}"
        else:
            yield from missing_in(live[key], wanted, "/".join(key))


def _read(agent: Raw, owned: list[Raw]) -> Observed:
    """As an operator that starts now would."""
    cache, key = Cache(), (agent["metadata"]["namespace"], NAME)
    for raw in (agent, *owned):
        cache.put({"apiVersion": names.API_VERSION, "kind": names.AGENT_KIND, **raw})
    known = cache.agent(key)
    assert known is not None
    return read_observed(known, cache.owned(key), Settings.from_environment({}).images)


def missing_in(live: Any, wanted: Any, path: str) -> Iterator[str]:
    """Parts of what is wanted that the live object has not; what the API server added is no fault."""
    if wanted in _NOTHING and live in _NOTHING:
        return
    if wanted is False and live is None and path.endswith(".paused"):
        return  # the API server keeps whose it is, but not that it is false
    if isinstance(wanted, dict) and isinstance(live, dict):
        for key, value in wanted.items():
            yield from missing_in(live.get(key), value, f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        for index, (left, right) in enumerate(zip(live, wanted, strict=True)):
            yield from missing_in(left, right, f"{path}[{index}]")
    elif live != wanted:
        yield f"{path}: {live!r} instead of {wanted!r}"[:400]


def told_by_hand(agent: Raw, owned: list[Raw]) -> Iterator[str]:
    """The main fields, where a person would look for them."""
    live = {(raw["kind"], raw["metadata"]["name"]): raw for raw in owned}
    spec = agent["spec"]
    for what, found, wanted in _places(spec, live):
        yield from missing_in(found, wanted, what)
    has_budget = ("PodDisruptionBudget", NAME) in live
    if has_budget != (spec["agent"]["replicas"] > 1):
        yield f"a PodDisruptionBudget with {spec['agent']['replicas']} replicas: {has_budget}"
    has_policy = ("NetworkPolicy", NAME) in live
    if has_policy != (spec["agent"].get("networkPolicy", {}).get("mode") == "Enabled"):
        yield f"a NetworkPolicy: {has_policy}"
    for part, name in (("curation", "curate"), ("training", "finetune")):
        if (("CronJob", f"{NAME}-{name}") in live) != (part in spec):
            yield f"a CronJob for spec.{part}: {('CronJob', f'{NAME}-{name}') in live}"


def _places(spec: Raw, live: dict[tuple[str, str], Raw]) -> Iterator[tuple[str, Any, Any]]:
    """What it is about, what there is, and what the spec says."""
    deployment = live["Deployment", NAME]["spec"]
    template = deployment["template"]
    container = next(item for item in template["spec"]["containers"] if item["name"] == "agent")
    wanted = spec["agent"]
    yield "replicas", deployment["replicas"], wanted["replicas"]
    yield "progress deadline", deployment["progressDeadlineSeconds"], _deadline(spec)
    if wanted.get("image"):
        yield "image", container["image"], wanted["image"]
    own = set(names.labels(NAME, names.COMPONENT_AGENT))
    metadata = wanted.get("podTemplate", {}).get("metadata", {})
    added = {key: value for key, value in metadata.get("labels", {}).items() if key not in own}
    yield "pod labels", template["metadata"]["labels"], added
    yield "pod annotations", template["metadata"]["annotations"], metadata.get("annotations", {})
    pod = wanted.get("podTemplate", {}).get("spec", {})
    yield "node selector", template["spec"].get("nodeSelector"), pod.get("nodeSelector", {})

    limits, policy = wanted.get("networkPolicy"), live.get(("NetworkPolicy", NAME))
    if limits is not None and policy is not None:
        # Beside what the spec names there are the agent's own pods, and for egress the name servers.
        peers = limits.get("ingressFrom")
        yield "ingress", policy["spec"]["ingress"][0].get("from", [])[1:], peers
        egress = limits.get("egress")
        yield "egress", policy["spec"].get("egress", [])[2:], egress
        yield "egress is limited", "Egress" in policy["spec"]["policyTypes"], egress is not None

    data = live["ConfigMap", f"{NAME}-config"]["data"]
    stamp = template["metadata"]["annotations"][names.ANNOTATION_CONFIG_HASH]
    config = json.loads(data["agent_config.json"])["configs"][stamp]
    yield "instructions", config["instructions"], _instructions(wanted)
    for part in ("reflection", "sessions", "limits", "specialists", "tools", "toolUseBehavior"):
        yield part, config[part], wanted.get(part, [])
    yield "memory", config["memory"], wanted["memory"]["type"]
    yield from _model_places(spec["model"], config["model"])
    grace = pod.get("terminationGracePeriodSeconds", wanted["limits"]["requestTimeoutSeconds"] + 30)
    yield "grace", template["spec"]["terminationGracePeriodSeconds"], grace
    yield from _store_places(spec, live, template["spec"])
    key = spec["model"]["endpoint"].get("apiKeySecretRef")
    yield "model's key", _secret(container, "EVOLVING_API_KEY"), key
    yield "database", _secret(container, "EVOLVING_MEMORY_URI"), wanted["memory"].get("connectionSecretRef")
    learning = json.loads(data["learning.json"])
    yield "base model", learning["baseModel"], spec["model"]["base"]
    for part in ("curation", "training", "evaluation"):
        wanted_part = {key: value for key, value in spec.get(part, {}).items() if key != "podTemplate"}
        yield part, learning.get(part), wanted_part

    for part, name in (("curation", "curate"), ("training", "finetune")):
        if part in spec and (cron := live.get(("CronJob", f"{NAME}-{name}"))) is not None:
            yield f"{part} schedule", cron["spec"]["schedule"], spec[part]["schedule"]
            yield f"{part} time zone", cron["spec"].get("timeZone"), spec[part].get("timeZone")
            yield f"{part} suspend", cron["spec"]["suspend"], spec["suspend"]
            job = cron["spec"]["jobTemplate"]["spec"]["template"]
            added = spec[part].get("podTemplate", {}).get("metadata", {}).get("labels", {})
            added = {key: value for key, value in added.items() if key not in own}
            yield f"{part} pod labels", job["metadata"]["labels"], added
    if "training" in spec and (cron := live.get(("CronJob", f"{NAME}-finetune"))) is not None:
        yield from _training_places(spec, cron["spec"]["jobTemplate"]["spec"])


def _model_places(model: Raw, served: Raw) -> Iterator[tuple[str, Any, Any]]:
    for part in ("maxOutputTokens", "temperaturePercent"):
        yield part, served.get(part), model.get(part)
    endpoint = {name: value for name, value in model["endpoint"].items() if name != "apiKeySecretRef"}
    yield "endpoint", served, endpoint
    is_trained = served["id"] != model["base"]
    pricing = model.get("trainedPricing" if is_trained else "pricing", model.get("pricing"))
    yield "pricing", served.get("pricing"), pricing


def _store_places(spec: Raw, live: dict[tuple[str, str], Raw], pod: Raw) -> Iterator[tuple[str, Any, Any]]:
    """A claim that the pods mount, or the environment that leads to a bucket."""
    claim, store = live.get(("PersistentVolumeClaim", f"{NAME}-store")), spec["storage"].get("objectStore")
    (mounted,) = (volume for volume in pod["volumes"] if volume["name"] == "store")
    container = next(item for item in pod["containers"] if item["name"] == "agent")
    told = {variable["name"]: variable.get("value") for variable in container["env"]}
    if store is not None:
        yield "a claim beside a bucket", claim, None
        yield "place of the store", "emptyDir" in mounted, True
        yield "bucket", told["EVOLVING_OBJECT_STORE"].startswith(f"s3://{store['bucket']}/"), True
        yield "prefix", f"/{store.get('prefix', '')}" in told["EVOLVING_OBJECT_STORE"], True
        yield "region", told["AWS_REGION"], store["region"]
        yield "S3 server", told.get("AWS_ENDPOINT_URL"), store.get("endpoint")
        secret = _secret(container, "AWS_SECRET_ACCESS_KEY") or {}
        yield "S3 key", secret.get("name"), store.get("credentialsSecretRef", {}).get("name")
        return
    volume = spec["storage"].get("volume", {"size": "10Gi", "accessModes": ["ReadWriteOnce"]})
    yield "place of the store", mounted["persistentVolumeClaim"]["claimName"], f"{NAME}-store"
    yield "a bucket beside a claim", told.get("EVOLVING_OBJECT_STORE"), None
    if claim is None:
        yield "claim", None, volume
        return
    yield "size", claim["spec"]["resources"]["requests"]["storage"], volume["size"]
    yield "access modes", claim["spec"]["accessModes"], volume["accessModes"]
    if "storageClassName" in volume:  # else the cluster chooses
        yield "storage class", claim["spec"].get("storageClassName"), volume["storageClassName"]
    owners = [owner["name"] for owner in claim["metadata"].get("ownerReferences", [])]
    yield "owner of the claim", owners == [NAME], spec["deletionPolicy"] == "Delete"


def _training_places(spec: Raw, job: Raw) -> Iterator[tuple[str, Any, Any]]:
    training, pod = spec["training"], job["template"]["spec"]
    container = next(item for item in pod["containers"] if item["name"] == "job")
    yield "training deadline", job["activeDeadlineSeconds"], training["activeDeadlineSeconds"]
    backend = training["backend"]
    if (lora := backend.get("lora")) is not None:
        claims = [volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["volumes"]]
        yield "adapters", lora["adapterVolume"]["claimName"] in claims, True
        if lora.get("image"):
            yield "trainer", container["image"], lora["image"]
        return
    key = backend.get("openAI", {}).get("endpoint", {}).get("apiKeySecretRef")
    yield "training key", _secret(container, "EVOLVING_TRAINING_API_KEY"), key
    if spec["agent"].get("image"):
        yield "image of the training", container["image"], spec["agent"]["image"]


def _secret(container: Raw, variable: str) -> Raw | None:
    """The key of a Secret that the variable is read from."""
    found: Raw = next((item for item in container["env"] if item["name"] == variable), {})
    ref: Raw | None = found.get("valueFrom", {}).get("secretKeyRef")
    return ref


def _instructions(agent: Raw) -> str:
    """Those of the spec, or of the ConfigMap that it names."""
    if "instructionsFrom" not in agent:
        return str(agent["instructions"])
    return PROMPTS[agent["instructionsFrom"]["configMapKeyRef"]["key"]]


def _deadline(spec: Raw) -> int:
    seconds: int = spec["rollout"]["progressDeadlineSeconds"]
    return seconds
