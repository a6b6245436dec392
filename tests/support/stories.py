"""Agents' lives in passages: what a user or a Job does, and how it shows that the operator has dealt with it.

The passages of one story build upon each other; each belongs to a scenario (create, scale, edit …). The state
at its end is told without what differs from run to run: times, the namespace, the agent's UID, names of pods.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from evolving_agent.contract.report import (
    CurationReport,
    DatasetRef,
    EvaluationReport,
    Outcome,
    ReleaseReport,
    Report,
    SuiteResult,
    ValidationReport,
)
from evolving_operator.api import names
from evolving_operator.testing.simulation import revision_of, training_report
from support.api_client import ApiClient
from support.cluster import eventually_async
from support.node import Node, Ward

Raw = dict[str, Any]
Act = Callable[["Scene"], Awaitable[None]]

NAME = "support"
CHILDREN = (
    "serviceaccounts",
    "persistentvolumeclaims",
    "configmaps",
    "deployments",
    "services",
    "poddisruptionbudgets",
    "networkpolicies",
    "cronjobs",
)
# Events of what may have come and gone while the operator was dead, which then tells of the end only: a run
# that was begun and ended, and a problem of pods that were replaced meanwhile. Unschedulable, because the
# scheduler of a cluster without nodes may speak before `node` does, of pods that are a minute old.
# InvalidSpec, because a write that the API server refuses once is told of, and taken back; PodsRefused,
# because that may have been the pods' ServiceAccount.
PASSING = frozenset(
    {
        "CurationStarted",
        "TrainingStarted",
        "CrashLoop",
        "InvalidSpec",
        "NobodyServes",
        "PodsRefused",
        "Unschedulable",
    }
    | {"Recovered"}
)

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_POD = re.compile(rf"\b{NAME}-[a-z0-9]{{6,10}}-[a-z0-9]{{5}}\b")
_DEBT = re.compile(rf"\b{NAME}-(provider|release)-[0-9a-f]{{8}}\b")  # a digest of the UID
# Chosen by the API server or its controllers.
_ALLOTTED = frozenset({"clusterIP", "clusterIPs", "volumeName"})
_SECONDS = 60  # until a change is seen by whoever looks
_TIDY_SECONDS = 150  # with an operator that is killed, or an API server that refuses, on the way


@dataclass(frozen=True)
class Passage:
    """`is_over` judges the agent as it is; None is an agent that is gone."""

    scenario: str
    act: Act
    is_over: Callable[[Raw | None], bool]


@dataclass(frozen=True)
class Story:
    name: str
    spec: Raw
    passages: tuple[Passage, ...]


@dataclass
class Scene:
    """One agent in a namespace of its own, and what users and Jobs do to it."""

    api: ApiClient
    node: Node
    ward: Ward
    namespace: str
    spec: Raw = field(default_factory=dict)

    async def apply(self, **changes: Any) -> None:
        """Create the agent, or change parts of its spec: `agent={"replicas": 2}` is merged, None removes."""
        await self.replace(merged(self.spec, changes))

    async def replace(self, spec: Raw) -> None:
        """Create the agent with this spec, or give it another one."""
        metadata = {"name": NAME, "namespace": self.namespace}
        manifest = {"apiVersion": names.API_VERSION, "kind": names.AGENT_KIND, "metadata": metadata}
        await self.api.apply(self.namespace, names.AGENT_PLURAL, {**manifest, "spec": spec})
        self.spec = spec

    async def scale(self, replicas: int) -> None:
        """As `kubectl scale` does."""
        self.spec = merged(self.spec, {"agent": {"replicas": replicas}})
        patch = {"spec": {"replicas": replicas}}
        await self.api.merge(self.namespace, names.AGENT_PLURAL, f"{NAME}/scale", patch)

    async def run(self, what: str) -> None:
        """Ask for a run on demand."""
        patch = {"metadata": {"annotations": {names.ANNOTATION_RUN: what}}}
        await self.api.merge(self.namespace, names.AGENT_PLURAL, NAME, patch)

    async def decide(self, revision: str, decision: str) -> None:
        """A person's word on a revision."""
        patch = {"spec": {"decision": decision}}
        await self.api.merge(self.namespace, names.REVISION_PLURAL, revision, patch)

    async def let_end(self, job: str, report: Report) -> None:
        """The Job's pod ends with the report, now or once there is one."""
        self.ward.reports[job] = report
        await self.node.look_again(self.namespace)

    async def only_present_pods_are_well(self) -> None:
        """Pods with a configuration that is not served now crash again and again."""
        self.ward.good_stamps = {await self.stamp()}

    async def all_pods_are_well(self) -> None:
        self.ward.good_stamps = None
        await self.node.look_again(self.namespace)

    async def delete(self) -> None:
        """Its objects go a little later than the agent, by the garbage collector."""
        await self.api.delete(self.namespace, names.AGENT_PLURAL, NAME)
        await eventually_async(self._is_collected, _TIDY_SECONDS, "what the agent owned is collected")

    async def _is_collected(self) -> bool:
        own = f"{names.LABEL_COMPONENT}!={names.COMPONENT_RELEASE}"
        left = [await self.api.list(self.namespace, names.REVISION_PLURAL)]
        left.append(await self.api.list(self.namespace, "jobs", own))
        return not any(left)

    async def agent(self) -> Raw | None:
        return await self.api.get(self.namespace, names.AGENT_PLURAL, NAME)

    async def status(self) -> Raw:
        found = await self.agent()
        return (found or {}).get("status") or {}

    async def stamp(self) -> str:
        """The configuration that the Deployment's pods are stamped with."""
        deployment = await self.api.get(self.namespace, "deployments", NAME)
        assert deployment is not None
        return str(deployment["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_CONFIG_HASH])

    async def reach(
        self, what: str, is_reached: Callable[[Raw | None], bool], seconds: float = _SECONDS
    ) -> None:
        """Raises NotInTimeError, naming what was to be reached."""

        async def reached() -> bool:
            return holds(is_reached, await self.agent())

        await eventually_async(reached, seconds, what)

    async def state(self) -> Raw:
        """What is there: status, children, revisions, and how many Jobs and Events there are of each sort."""
        agent = await self.agent()
        events = await self.api.list(self.namespace, "events")
        revisions = await self.api.list(self.namespace, names.REVISION_PLURAL)
        jobs = await self.api.list(self.namespace, "jobs", names.LABEL_AGENT)
        status = (agent or {}).get("status")
        # A hash of the pod template, in which the namespace is.
        for told in ("rollout", "promotion"):
            ((status or {}).get(told) or {}).pop("template", None)
        state: Raw = {
            "status": status,
            "finalizers": (agent or {}).get("metadata", {}).get("finalizers"),
            "revisions": {
                raw["metadata"]["name"]: {"spec": raw["spec"], "status": raw.get("status")}
                for raw in revisions
            },
            "children": {
                f"{plural}/{raw['metadata']['name']}": _essence(raw)
                for plural in CHILDREN
                for raw in await self.api.list(self.namespace, plural, names.LABEL_AGENT)
            },
            "jobs": Counter(component_of(raw["metadata"]["name"]) for raw in jobs),
            "events": sorted(
                {
                    event["reason"]
                    for event in events
                    if event.get("reportingController") == names.MANAGED_BY and event["reason"] not in PASSING
                }
            ),
        }
        text = json.dumps(state).replace(self.namespace, "NAMESPACE")
        if agent is not None:
            text = text.replace(agent["metadata"]["uid"], "UID")
        text = _DEBT.sub("DEBT", _POD.sub("POD", _TIME.sub("TIME", text)))
        normal: Raw = json.loads(text)
        return normal


def merged(spec: Raw, changes: Raw) -> Raw:
    """A merge patch, as RFC 7386 has it."""
    result = copy.deepcopy(spec)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def holds(predicate: Callable[[Raw | None], bool], agent: Raw | None) -> bool:
    """False too where a field that it asks for is not there yet."""
    try:
        return predicate(agent)
    except (KeyError, TypeError):
        return False


def component_of(job: str) -> str:
    """`evaluate` of `support-evaluate-1a2b3c4d`."""
    return job.removeprefix(f"{NAME}-").partition("-")[0]


def _essence(raw: Raw) -> Raw:
    """Of a child, what the operator asks for. Its hash covers the UID and says nothing between runs."""
    annotations = {
        key: value
        for key, value in raw["metadata"].get("annotations", {}).items()
        if key.startswith(names.GROUP) and key != names.ANNOTATION_APPLIED_HASH
    }
    spec = {key: value for key, value in raw.get("spec", {}).items() if key not in _ALLOTTED}
    return {
        "labels": raw["metadata"]["labels"],
        "annotations": annotations,
        "owners": raw["metadata"].get("ownerReferences"),
        "spec": spec,
        "data": raw.get("data"),
    }


# --- how it shows ---------------------------------------------------------------------------------


def condition(agent: Raw | None, kind: str) -> Raw:
    """KeyError while there is none."""
    assert agent is not None
    conditions: dict[str, Raw] = {item["type"]: item for item in agent["status"]["conditions"]}
    return conditions[kind]


def is_current(agent: Raw | None) -> bool:
    assert agent is not None
    return bool(agent["status"]["observedGeneration"] == agent["metadata"]["generation"])


def is_well(agent: Raw | None) -> bool:
    """Served, as the newest spec asks, and nothing under way."""
    progressing, ready = condition(agent, "Progressing"), condition(agent, "Ready")
    return is_current(agent) and (progressing["reason"], ready["status"]) == ("Converged", "True")


def serves(revision: str) -> Callable[[Raw | None], bool]:
    return lambda agent: is_well(agent) and agent is not None and _ref(agent, "active") == revision


def awaits(revision: str, reason: str) -> Callable[[Raw | None], bool]:
    """The candidate is proven, for the reason that Evaluated or Promoted gives."""

    def is_awaited(agent: Raw | None) -> bool:
        assert agent is not None
        reasons = {condition(agent, kind)["reason"] for kind in ("Evaluated", "Promoted")}
        return _ref(agent, "candidate") == revision and reason in reasons and _is_calm(agent)

    return is_awaited


def has_rollout(revision: str, step: str) -> Callable[[Raw | None], bool]:
    def is_there(agent: Raw | None) -> bool:
        assert agent is not None
        rollout = agent["status"]["rollout"]
        return is_well(agent) and (rollout["revision"], rollout["step"]) == (revision, step)

    return is_there


def _is_calm(agent: Raw) -> bool:
    """All serving pods are there: nothing but the proof of the candidate is under way, if that is."""
    reason: str = condition(agent, "Progressing")["reason"]
    return reason in ("CandidateInProof", "AwaitsPerson")


def _ref(agent: Raw, place: str) -> str:
    return str(agent["status"][place]["revision"])


# --- what Jobs report -----------------------------------------------------------------------------

_DONE: Raw = {"run_id": "run", "outcome": Outcome.SUCCEEDED, "message": ""}


def curation(version: str = "d1") -> CurationReport:
    dataset = DatasetRef(version=version, digest=f"digest-{version}", examples=100, holdout=50)
    return CurationReport(**_DONE, reason="DatasetWritten", dataset=dataset)


def evaluation(*suites: str, gain: int = 6500) -> EvaluationReport:
    """The candidate is better than the incumbent by so many basis points, for certain."""
    results = tuple(
        SuiteResult(
            suite=suite,
            samples=50,
            baseline_bps=2000,
            candidate_bps=2000 + gain,
            delta_bps=gain,
            lower_bps=gain - 1500,
        )
        for suite in suites or ("holdout",)
    )
    return EvaluationReport(
        **_DONE, reason="Measured", candidate="candidate", incumbent="incumbent", suites=results
    )


def validation(revision: str, *suites: str, score: int = 8500) -> ValidationReport:
    results = tuple(
        SuiteResult(suite=suite, samples=50, candidate_bps=score) for suite in suites or ("holdout",)
    )
    return ValidationReport(**_DONE, reason="Measured", revision=revision, suites=results)


# --- the stories ----------------------------------------------------------------------------------


def model(number: int) -> str:
    return f"smollm2-ft-{number}"


def revision(number: int) -> str:
    return revision_of(NAME, model(number))


def base_revision(base: str = "smollm2") -> str:
    return names.revision(NAME, base, "", "Base", "")


def _create(scene: Scene) -> Awaitable[None]:
    return scene.apply()


def train(number: int) -> Act:
    async def act(scene: Scene) -> None:
        run = f"finetune:{number}"
        await scene.let_end(names.on_demand_job(NAME, "finetune", run), training_report(model(number)))
        await scene.run(run)

    return act


def _curate(run: str) -> Act:
    async def act(scene: Scene) -> None:
        await scene.let_end(names.on_demand_job(NAME, "curate", run), curation(run.replace(":", "-")))
        await scene.run(run)

    return act


def promote(which: str, *suites: str, served_score: int = 8500) -> Act:
    """The evaluation goes well; so does the validation, unless the score says otherwise."""

    async def act(scene: Scene) -> None:
        await scene.let_end(names.validate_job(which), validation(which, *suites, score=served_score))
        await scene.let_end(names.evaluate_job(which, ""), evaluation(*suites))

    return act


def _promote_what_crashes(which: str, *suites: str) -> Act:
    async def act(scene: Scene) -> None:
        await scene.only_present_pods_are_well()
        await promote(which, *suites)(scene)

    return act


def _heal_and(act: Act) -> Act:
    async def healed(scene: Scene) -> None:
        await scene.all_pods_are_well()
        await act(scene)

    return healed


async def _delete_and_tidy(scene: Scene) -> None:
    """What the agent owes to its provider is paid by a Job, after its end."""
    agent = await scene.agent()
    assert agent is not None
    job = names.release_job(NAME, agent["metadata"]["uid"], _ENDPOINT["baseURL"])
    await scene.let_end(job, ReleaseReport(**_DONE, reason="Released", models_deleted=1))
    await scene.delete()

    async def is_paid() -> bool:
        selector = f"{names.LABEL_COMPONENT}={names.COMPONENT_RELEASE}"
        return not await scene.api.list(scene.namespace, "configmaps", selector)

    await eventually_async(is_paid, _TIDY_SECONDS, "what the agent owed is paid")


def _apply(**changes: Any) -> Act:
    return lambda scene: scene.apply(**changes)


def _is_gone(agent: Raw | None) -> bool:
    return agent is None


def _curated(version: str) -> Callable[[Raw | None], bool]:
    def is_curated(agent: Raw | None) -> bool:
        assert agent is not None
        return is_current(agent) and agent["status"]["dataset"]["version"] == version

    return is_curated


_ENDPOINT = {"baseURL": "http://models:8000/v1"}
_DELETE = Passage("delete", Scene.delete, _is_gone)

LEARNING = Story(
    "a LoRA agent that learns",
    {
        "model": {"base": "smollm2", "endpoint": _ENDPOINT},
        "agent": {"instructions": "You route requests.", "replicas": 2},
        "curation": {"schedule": "0 1 1 1 *"},
        "training": {
            "schedule": "0 3 1 1 *",
            "backend": {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}},
        },
        "rollout": {"bakeSeconds": 0},
    },
    (
        Passage("create", _create, is_well),
        Passage("train-report", train(1), awaits(revision(1), "Evaluating")),
        Passage("promote", promote(revision(1)), has_rollout(revision(1), "Done")),
        Passage("train-report", train(2), awaits(revision(2), "Evaluating")),
        Passage("stuck rollout", _promote_what_crashes(revision(2)), has_rollout(revision(2), "RolledBack")),
        Passage("train-report", _heal_and(train(3)), awaits(revision(3), "Evaluating")),
        Passage("rollback", promote(revision(3), served_score=3000), has_rollout(revision(3), "RolledBack")),
        Passage("pin", _apply(rollout={"pin": base_revision()}), serves(base_revision())),
        Passage("pin", _apply(rollout={"pin": revision(1)}), serves(revision(1))),
        Passage("edit", _apply(agent={"instructions": "You route requests, politely."}), is_well),
        Passage("scale", lambda scene: scene.scale(1), is_well),
        _DELETE,
    ),
)

_SUITES = [
    {"name": name, "configMapRef": {"name": "cases", "key": f"{name}.jsonl"}} for name in ("routing", "tone")
]
CAREFUL = Story(
    "an OpenAI agent with specialists, no memory, a network of its own, two suites, a shadow and a person "
    "who approves",
    {
        "model": {
            "base": "smollm2",
            "endpoint": {**_ENDPOINT, "apiKeySecretRef": {"name": "openai", "key": "apiKey"}},
        },
        "agent": {
            "instructions": "You route requests.",
            "replicas": 1,
            "memory": {"type": "Disabled"},
            "reflection": {"mode": "Disabled"},
            "tools": [{"name": "tickets", "type": "MCP", "url": "http://tickets:8000/mcp"}],
            "specialists": [{"name": "billing", "description": "Invoices.", "instructions": "You bill."}],
            "networkPolicy": {"mode": "Enabled", "ingressFrom": [{"namespaceSelector": {}}]},
            "podTemplate": {
                "metadata": {"labels": {"team": "support"}},
                "spec": {"containers": [{"name": "agent", "env": [{"name": "REGION", "value": "eu"}]}]},
            },
        },
        "storage": {"volume": {"size": "2Gi", "accessModes": ["ReadWriteMany"]}},
        "curation": {"schedule": "@yearly", "timeZone": "Europe/Berlin"},
        "training": {"schedule": "@yearly", "backend": {"type": "OpenAI"}},
        "evaluation": {"suites": _SUITES},
        "rollout": {"approval": "Manual", "bakeSeconds": 0, "shadow": {"timeoutSeconds": 1}},
        "revisionHistoryLimit": 0,
    },
    (
        Passage("create", _create, is_well),
        Passage("train-report", _curate("curate:1"), _curated("curate-1")),
        Passage("train-report", train(1), awaits(revision(1), "Evaluating")),
        Passage("promote", promote(revision(1), "routing", "tone"), awaits(revision(1), "AwaitsApproval")),
        Passage(
            "promote", lambda scene: scene.decide(revision(1), "Approved"), has_rollout(revision(1), "Done")
        ),
        Passage("scale", lambda scene: scene.scale(3), is_well),
        Passage("train-report", train(2), awaits(revision(2), "Evaluating")),
        Passage("rollback", lambda scene: scene.decide(revision(2), "Rejected"), serves(revision(1))),
        Passage("edit", _apply(curation=None, training=None), is_well),
        Passage("edit", _apply(suspend=True, agent={"specialists": [], "networkPolicy": None}), is_well),
        _DELETE,
    ),
)

_CASES = [{"name": "routing", "configMapRef": {"name": "cases", "key": "cases.jsonl"}}]
REBASED = Story(
    "an agent that only serves, and whose base model changes",
    {
        "model": {"base": "smollm2", "endpoint": _ENDPOINT},
        "agent": {"instructions": "You route requests.", "replicas": 2},
        "evaluation": {"suites": _CASES},
        "rollout": {"bakeSeconds": 0},
        "deletionPolicy": "Delete",
    },
    (
        Passage("create", _create, is_well),
        Passage("edit", _apply(model={"base": "qwen3"}), awaits(base_revision("qwen3"), "Evaluating")),
        Passage(
            "promote",
            promote(base_revision("qwen3"), "routing"),
            has_rollout(base_revision("qwen3"), "Done"),
        ),
        Passage("edit", _apply(model={"base": "gemma3"}), awaits(base_revision("gemma3"), "Evaluating")),
        Passage(
            "stuck rollout",
            _promote_what_crashes(base_revision("gemma3"), "routing"),
            has_rollout(base_revision("gemma3"), "RolledBack"),
        ),
        Passage("pin", _heal_and(_apply(rollout={"pin": base_revision()})), serves(base_revision())),
        Passage("scale", lambda scene: scene.scale(0), is_well),
        Passage("scale", lambda scene: scene.scale(2), is_well),
        Passage("edit", _apply(storage={"volume": {"size": "20Gi"}}), is_well),
        _DELETE,
    ),
)

CANARY = Story(
    "an agent whose candidates answer a share of the conversations first, and whose provider is to be tidied",
    {
        "model": {"base": "smollm2", "endpoint": _ENDPOINT},
        "agent": {"instructions": "You route requests.", "replicas": 3},
        "training": {"schedule": "@yearly", "backend": {"type": "OpenAI"}},
        "evaluation": {"suites": _CASES, "onInconclusive": "Reject"},
        "rollout": {
            "bakeSeconds": 0,
            "canary": {"steps": [{"percent": 10, "pauseSeconds": 1}, {"percent": 50, "pauseSeconds": 1}]},
        },
        "deletionPolicy": "Delete",
    },
    (
        Passage("create", _create, is_well),
        Passage("train-report", train(1), awaits(revision(1), "Evaluating")),
        Passage("promote", promote(revision(1), "routing"), has_rollout(revision(1), "Done")),
        Passage("scale", lambda scene: scene.scale(1), is_well),
        Passage("train-report", train(2), awaits(revision(2), "Evaluating")),
        Passage(
            "rollback",
            promote(revision(2), "routing", served_score=1000),
            has_rollout(revision(2), "RolledBack"),
        ),
        Passage("edit", _apply(deletionPolicy="Retain", rollout={"canary": None}), is_well),
        Passage("edit", _apply(deletionPolicy="Delete"), is_well),
        Passage("delete", _delete_and_tidy, _is_gone),
    ),
)

STORIES = (LEARNING, CAREFUL, REBASED, CANARY)
