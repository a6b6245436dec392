"""Provider-side work follows the deletion policy, whether or not an operator runs at the deletion."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evolving_agent.contract import env
from evolving_agent.contract.report import Outcome, ReleaseReport
from evolving_operator.api import names
from evolving_operator.cluster.errors import Conflict, Forbidden, Invalid, NotServed
from evolving_operator.cluster.kinds import Kind
from evolving_operator.core.builders.debt import DEBT_KEY
from evolving_operator.core.builders.pod import nobody
from evolving_operator.core.plan import ObjectRef
from evolving_operator.testing.fake_cluster import Fault
from evolving_operator.testing.simulation import Simulation, training_report
from support.orphans import orphan

Spec = dict[str, Any]
PROVIDER = "https://provider/v1"


@pytest.fixture
def spec() -> Spec:
    endpoint = {"baseURL": PROVIDER, "apiKeySecretRef": {"name": "openai", "key": "apiKey"}}
    return {
        "model": {"base": "gpt", "endpoint": endpoint},
        "agent": {"instructions": "You route requests."},
        "training": {"schedule": "0 3 * * *", "backend": {"type": "OpenAI"}},
        "deletionPolicy": "Delete",
    }


def report(outcome: Outcome, reason: str) -> ReleaseReport:
    return ReleaseReport(run_id="r", outcome=outcome, reason=reason, message="as it went", models_deleted=1)


def uid(world: Simulation) -> str:
    raw = world.cluster.get(names.AGENT_KIND, "support")
    assert raw is not None
    return str(raw["metadata"]["uid"])


def debts(world: Simulation) -> list[str]:
    return [
        raw["metadata"]["name"]
        for raw in world.cluster.all("ConfigMap")
        if raw["metadata"]["labels"][names.LABEL_COMPONENT] == names.COMPONENT_RELEASE
    ]


async def test_a_deleted_agents_provider_is_made_to_forget_it(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    gone = uid(world)
    assert debts(world) == [names.provider_debt("support", gone, PROVIDER)]

    # no finalizer: the agent is gone at once, while no operator looks
    world.watch_is_frozen = True
    world.cluster.remove(names.AGENT_KIND, "support")
    world.watch_is_frozen = False
    world.restart()
    await world.settle()

    job = names.release_job("support", gone, PROVIDER)
    assert world.jobs(names.COMPONENT_RELEASE) == [job]
    raw = world.cluster.get("Job", job)
    assert raw is not None
    container = raw["spec"]["template"]["spec"]["containers"][0]
    variables = {item["name"]: item for item in container["env"]}
    assert container["args"] == ["release"]
    assert variables[env.AGENT_UID]["value"] == gone
    assert variables[env.RELEASE_ENDPOINT]["value"] == "https://provider/v1"
    assert variables[env.API_KEY]["valueFrom"]["secretKeyRef"] == {"name": "openai", "key": "apiKey"}

    world.node.finish_job(job, report(Outcome.SUCCEEDED, "Released"))
    await world.settle()

    assert debts(world) == []
    assert world.jobs(names.COMPONENT_RELEASE) == []  # it is the debt's, and goes with it
    assert world.events().count("Released") == 1
    world.cluster.writes.clear()
    await world.settle()
    assert world.cluster.writes == []


async def test_what_failed_is_told_and_tried_again_later(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    job = names.release_job("support", uid(world), PROVIDER)
    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    first = world.cluster.get("Job", job)
    assert first is not None

    failed = ("PodFailurePolicy", "exit 42")
    world.node.finish_job(job, report(Outcome.FAILED, "CredentialsRejected"), failed=failed)
    delay = await world.settle()

    assert world.jobs(names.COMPONENT_RELEASE) == []
    assert len(debts(world)) == 1
    told = [raw["note"] for raw in world.cluster.all("Event") if raw["reason"] == "ReleaseFailed"]
    assert len(told) == 1
    assert "CredentialsRejected" in told[0]
    assert "kubectl delete configmap support-provider-" in told[0]
    assert delay == 3600

    # by a new process, too
    world.restart()
    world.pass_time(3600)
    await world.settle()
    again = world.cluster.get("Job", job)
    assert again is not None
    assert again["metadata"]["uid"] != first["metadata"]["uid"]
    world.node.finish_job(job, None)
    world.pass_time(30)
    await world.settle()
    assert debts(world) == []


async def test_what_somebody_gives_up_while_it_fails_is_not_made_anew(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    job = names.release_job("support", uid(world), PROVIDER)
    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    world.node.finish_job(job, None, failed=("BackoffLimitExceeded", "no"))
    [debt] = debts(world)

    world.watch_is_frozen = True  # what tells so is on its way
    world.cluster.remove("ConfigMap", debt)
    with pytest.raises(Conflict):
        await world.reconciler.reconcile(("default", "support"))
    assert debts(world) == []

    world.restart()
    await world.settle()
    assert debts(world) == []
    assert world.events().count("ReleaseFailed") == 0


async def test_an_agent_of_the_same_name_does_not_inherit_it(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    gone = uid(world)
    world.cluster.remove(names.AGENT_KIND, "support")
    await world.serve(spec)
    new = uid(world)

    assert world.jobs(names.COMPONENT_RELEASE) == [names.release_job("support", gone, PROVIDER)]
    world.node.finish_job(names.release_job("support", gone, PROVIDER), report(Outcome.SUCCEEDED, "Released"))
    await world.settle()

    assert debts(world) == [names.provider_debt("support", new, PROVIDER)]
    assert world.jobs(names.COMPONENT_RELEASE) == []


@pytest.mark.parametrize(
    "change",
    [
        {"deletionPolicy": "Retain"},
        {"training": None},
        {
            "training": {
                "schedule": "0 3 * * *",
                "backend": {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}},
            }
        },
    ],
    ids=["retain", "no training", "LoRA"],
)
async def test_nothing_is_owed_where_nothing_is_to_go(world: Simulation, spec: Spec, change: Spec) -> None:
    changed = {key: value for key, value in (spec | change).items() if value is not None}
    await world.serve(changed)

    assert debts(world) == []


async def test_the_policy_may_change(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    assert owners(world) != []

    await world.serve(spec | {"deletionPolicy": "Retain"})
    assert debts(world) == []
    assert owners(world) == []

    await world.serve(spec)
    assert len(debts(world)) == 1
    assert owners(world) != []
    # what was trained at a provider is still there once the agent trains elsewhere
    await world.serve({key: value for key, value in spec.items() if key != "training"})
    assert len(debts(world)) == 1


def owners(world: Simulation) -> list[Any]:
    """Of the volume's claim: with one, it goes when the agent goes."""
    claim = world.cluster.get("PersistentVolumeClaim", "support-store")
    assert claim is not None
    return list(claim["metadata"].get("ownerReferences") or [])


async def test_an_agent_that_another_installation_looks_after_owes_nothing(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    raw = world.cluster.get(names.AGENT_KIND, "support")
    assert raw is not None

    world.cache.forget(names.AGENT_KIND, "default", "support")  # it no longer matches the label selector
    world.cluster.writes.clear()
    await world.settle()

    assert world.cluster.writes == []


async def test_an_agent_of_another_installation_is_asked_for_now_and_then(
    world: Simulation, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.serve(spec)
    gone = uid(world)
    world.cache.forget(names.AGENT_KIND, "default", "support")
    asked: list[str] = []
    find = world.cluster.find

    async def counted(kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        asked.append(name)
        return await find(kind, namespace, name)

    monkeypatch.setattr(world.cluster, "find", counted)

    for _ in range(5):  # each time that anything of the agent's changes
        delay = await world.settle()
    assert len(asked) == 1
    assert delay == 30

    # it is made to be forgotten as soon as it is asked for again
    world.watch_is_frozen = True
    world.cluster.remove(names.AGENT_KIND, "support")
    world.watch_is_frozen = False
    world.pass_time(30)
    await world.settle()
    assert world.jobs(names.COMPONENT_RELEASE) == [names.release_job("support", gone, PROVIDER)]


async def test_no_debt_is_called_in_while_its_agent_may_live(
    world: Simulation, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its CRD is not served for a moment: whatever is asked about it is answered with 404."""
    await world.serve(spec)
    world.cache.forget(names.AGENT_KIND, "default", "support")

    async def not_served(*_: Any) -> Any:
        raise NotServed("GET /apis: the server could not find the requested resource")

    for name in ("find", "read"):
        monkeypatch.setattr(world.cluster, name, not_served)
    with pytest.raises(NotServed):
        await world.reconciler.reconcile(("default", "support"))

    assert world.jobs(names.COMPONENT_RELEASE) == []


@pytest.mark.parametrize("is_known", [True, False], ids=["ours", "another installation's"])
async def test_a_release_for_an_agent_that_lives_is_called_off(
    world: Simulation, spec: Spec, is_known: bool
) -> None:
    await world.serve(spec)
    job = json.loads(the_debt(world)["data"][DEBT_KEY])
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": the_debt(world)["metadata"]["uid"]}
    job["metadata"]["ownerReferences"] = [owner]
    await world.cluster.create(job)
    if not is_known:
        world.cache.forget(names.AGENT_KIND, "default", "support")

    await world.settle()

    assert world.jobs(names.COMPONENT_RELEASE) == []
    assert len(debts(world)) == 1


async def test_an_earlier_agents_debt_is_paid_though_the_new_one_makes_no_sense(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    gone = uid(world)
    world.cluster.remove(names.AGENT_KIND, "support")

    world.apply_agent({"model": {"base": "gpt"}, "agent": {"replicas": "many"}})
    await world.settle()

    assert world.condition("Degraded").reason == "InvalidSpec"
    assert world.jobs(names.COMPONENT_RELEASE) == [names.release_job("support", gone, PROVIDER)]


# --- an agent that has taken another's revisions over ---


async def orphaned(world: Simulation, spec: Spec, *, by_an_older_operator: bool = False) -> str:
    """A model was trained at the provider, and served; its agent was deleted by `--cascade=orphan`.

    Returns the name of the model's revision.
    """
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_FINETUNE, "run")
    await world.settle()
    revision = await trained(world)
    await world.evaluate(revision, lower=2000)
    world.node.roll_out("support")
    await world.settle()
    if by_an_older_operator:
        for raw in world.cluster.all(names.REVISION_KIND):
            del raw["metadata"]["annotations"][names.ANNOTATION_AGENT_UID]
            world.cluster.put(raw)
    orphan(world)
    world.cluster.remove(names.AGENT_KIND, "support")
    return revision


async def trained(world: Simulation) -> str:
    """The training ends with a model. Returns the name of its revision, the candidate."""
    told = training_report("ft-1", run_id="run", base="gpt").model_copy(update={"backend": "OpenAI"})
    world.node.finish_job("run", told)
    await world.settle()
    assert world.status.candidate is not None
    return world.status.candidate.revision


async def test_models_that_an_agent_has_taken_over_are_not_forgotten(world: Simulation, spec: Spec) -> None:
    before = await orphaned(world, spec)
    [first] = debts(world)

    world.apply_agent(spec)
    await world.settle()

    assert world.status.active is not None
    assert (world.status.active.revision, world.status.active.model_id) == (before, "ft-1")
    assert world.jobs(names.COMPONENT_RELEASE) == []
    own = names.provider_debt("support", uid(world), PROVIDER)
    assert set(debts(world)) == {first, own}

    # they go with the agent that uses them
    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    assert len(world.jobs(names.COMPONENT_RELEASE)) == 2


async def test_nor_what_is_being_trained_for_the_one_before(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    world.node.start_job("support", names.COMPONENT_FINETUNE, "run")
    await world.settle()
    before = uid(world)
    orphan(world)
    world.cluster.remove(names.AGENT_KIND, "support")
    world.apply_agent(spec)
    await world.settle()
    assert world.jobs(names.COMPONENT_RELEASE) == []

    revision = world.cluster.get(names.REVISION_KIND, await trained(world))
    assert revision is not None
    assert revision["metadata"]["annotations"][names.ANNOTATION_AGENT_UID] == before
    world.cluster.remove("Job", "run")
    await world.settle()
    assert world.jobs(names.COMPONENT_RELEASE) == []


async def test_what_nobody_uses_any_more_is_forgotten(world: Simulation, spec: Spec) -> None:
    before = await orphaned(world, spec)
    [first] = debts(world)
    world.apply_agent(spec)
    await world.settle()
    assert world.jobs(names.COMPONENT_RELEASE) == []

    world.cluster.remove("Job", "run")
    world.cluster.remove(names.REVISION_KIND, before)
    await world.settle()

    [name] = world.jobs(names.COMPONENT_RELEASE)
    job = world.cluster.get("Job", name)
    assert job is not None
    assert [owner["name"] for owner in job["metadata"]["ownerReferences"]] == [first]


async def test_what_is_retained_of_another_agent_is_not_forgotten_either(
    world: Simulation, spec: Spec
) -> None:
    await orphaned(world, spec)

    world.apply_agent(spec | {"deletionPolicy": "Retain"})
    await world.settle()
    assert debts(world) == []

    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    assert world.jobs(names.COMPONENT_RELEASE) == []


async def test_where_nobody_knows_for_whom_a_model_was_made_it_is_not_forgotten(
    world: Simulation, spec: Spec
) -> None:
    await orphaned(world, spec, by_an_older_operator=True)

    world.apply_agent(spec)
    world.cluster.remove("Job", "run")
    await world.settle()
    assert world.jobs(names.COMPONENT_RELEASE) == []

    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    assert len(world.jobs(names.COMPONENT_RELEASE)) == 2


async def test_where_nobody_knows_it_to_retain_takes_all_debts_back(world: Simulation, spec: Spec) -> None:
    await orphaned(world, spec, by_an_older_operator=True)
    world.cluster.remove("Job", "run")

    world.apply_agent(spec | {"deletionPolicy": "Retain"})
    await world.settle()
    assert debts(world) == []


async def test_nor_what_an_agent_has_taken_over_that_another_installation_looks_after(
    world: Simulation, spec: Spec
) -> None:
    await orphaned(world, spec)
    world.apply_agent(spec)
    world.cache.forget(names.AGENT_KIND, "default", "support")
    world.cluster.writes.clear()

    await world.settle()

    assert world.cluster.writes == []


# --- what people and other programs do to a debt ---


def the_debt(world: Simulation) -> Spec:
    [name] = debts(world)
    raw = world.cluster.get("ConfigMap", name)
    assert raw is not None
    return raw


async def test_a_debt_that_says_where_and_as_whom_is_not_believed(world: Simulation, spec: Spec) -> None:
    # who may write ConfigMaps need not be allowed to run pods as another account, or in another namespace
    await world.serve(spec)
    gone = uid(world)
    debt = the_debt(world)
    job = json.loads(debt["data"][DEBT_KEY])
    job["metadata"] |= {"namespace": "kube-system", "name": "takeover"}
    pod = job["spec"]["template"]["spec"]
    pod |= {"serviceAccountName": "admin", "hostNetwork": True, "automountServiceAccountToken": True}
    pod["volumes"] = [{"name": "root", "hostPath": {"path": "/"}}]
    [container] = pod["containers"]
    container |= {"securityContext": {"privileged": True}, "command": ["sh"]}
    container["env"] += [{"name": env.AGENT_UID, "value": "another"}]
    debt["data"][DEBT_KEY] = json.dumps(job)

    world.cluster.remove(names.AGENT_KIND, "support")
    world.cluster.put(debt)
    await world.settle()

    [made] = world.cluster.all("Job")
    assert made["metadata"]["namespace"] == "default"
    assert made["metadata"]["name"] == names.release_job("support", gone, PROVIDER)
    pod = made["spec"]["template"]["spec"]
    assert not {"serviceAccountName", "hostNetwork", "volumes"} & set(pod)
    assert pod["automountServiceAccountToken"] is False
    [container] = pod["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert "command" not in container
    assert [item["value"] for item in container["env"] if item["name"] == env.AGENT_UID] == [gone]


@pytest.mark.parametrize("text", ["", "garbage", "[]", '{"spec": {}}', '{"kind": "Job"}'])
async def test_a_debt_that_cannot_be_read_is_told_of_and_holds_nothing_up(
    world: Simulation, spec: Spec, text: str
) -> None:
    await world.serve(spec)
    debt = the_debt(world)
    world.cluster.remove(names.AGENT_KIND, "support")
    debt["data"] = {DEBT_KEY: text}
    world.cluster.put(debt)

    assert await world.settle() == 3600

    assert world.events().count("ReleaseFailed") == 1
    # nor an agent of the same name
    await world.serve(spec)
    assert world.condition("Ready").reason == "Serving"
    assert world.cluster.all("Job") == []


@pytest.mark.parametrize("text", ["soon", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00"])
async def test_a_time_that_is_none_holds_nothing_up(world: Simulation, spec: Spec, text: str) -> None:
    await world.serve(spec)
    debt = the_debt(world)
    world.cluster.remove(names.AGENT_KIND, "support")
    debt["metadata"]["annotations"][names.ANNOTATION_RETRY_AT] = text
    world.cluster.put(debt)

    await world.settle()

    assert len(world.jobs(names.COMPONENT_RELEASE)) == 1


@pytest.mark.parametrize("said", [None, "another"])
async def test_an_agent_that_lives_never_pays(world: Simulation, spec: Spec, said: str | None) -> None:
    await world.serve(spec)
    debt = the_debt(world)
    annotations = debt["metadata"]["annotations"]
    del annotations[names.ANNOTATION_AGENT_UID]
    if said is not None:
        annotations[names.ANNOTATION_AGENT_UID] = said
    world.cluster.put(debt)

    await world.settle()

    assert world.jobs(names.COMPONENT_RELEASE) == []


async def test_each_provider_that_trained_for_it_is_made_to_forget_it(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    gone, other = uid(world), "https://other/v1"
    model = spec["model"] | {"endpoint": spec["model"]["endpoint"] | {"baseURL": other}}
    world.apply_agent(spec | {"model": model})
    await world.settle()
    both = {names.provider_debt("support", gone, endpoint) for endpoint in (PROVIDER, other)}
    assert set(debts(world)) == both

    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    jobs = {names.release_job("support", gone, endpoint) for endpoint in (PROVIDER, other)}
    assert set(world.jobs(names.COMPONENT_RELEASE)) == jobs
    for job in jobs:
        world.node.finish_job(job, report(Outcome.SUCCEEDED, "Released"))
    await world.settle()
    assert debts(world) == []


async def test_to_retain_takes_all_debts_back(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    model = spec["model"] | {"endpoint": spec["model"]["endpoint"] | {"baseURL": "https://other/v1"}}
    for changes in ({"model": model}, {"deletionPolicy": "Retain"}):
        world.apply_agent(spec | changes)
        await world.settle()

    assert debts(world) == []


async def test_to_retain_takes_debts_back_though_there_is_a_fault_elsewhere(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    faulty = {"podTemplate": {"spec": {"affinity": {"$patch": "remove"}}}}

    world.apply_agent(spec | {"deletionPolicy": "Retain", "agent": spec["agent"] | faulty})
    await world.settle()
    assert world.condition("Degraded").reason == "InvalidSpec"
    assert debts(world) == []
    assert owners(world) == []

    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    assert world.jobs(names.COMPONENT_RELEASE) == []


async def test_what_is_owed_is_written_down_though_there_is_a_fault_elsewhere(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec | {"deletionPolicy": "Retain"})
    assert debts(world) == []
    faulty = {"podTemplate": {"spec": {"affinity": {"$patch": "remove"}}}}

    world.apply_agent(spec | {"agent": spec["agent"] | faulty})
    await world.settle()
    assert world.condition("Degraded").reason == "InvalidSpec"
    assert debts(world) == [names.provider_debt("support", uid(world), PROVIDER)]

    world.cluster.writes.clear()
    await world.settle()
    assert world.cluster.writes == []


@pytest.mark.parametrize("where", ["agent", "training"])
async def test_a_release_starts_and_gets_out_as_the_trainings_do(
    world: Simulation, spec: Spec, where: str
) -> None:
    variables = [
        {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        {"name": "no_proxy", "valueFrom": {"configMapKeyRef": {"name": "proxies", "key": "none"}}},
        {"name": "REGION", "value": "north"},
    ]
    pod = {
        "securityContext": {"runAsUser": None, "runAsGroup": 7, "fsGroup": None},
        "imagePullSecrets": [{"name": "registry"}],
        "containers": [{"name": "job", "env": variables}, {"name": "proxy", "image": "example/proxy"}],
    }
    await world.serve(spec | {where: spec[where] | {"podTemplate": {"spec": pod}}})

    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()

    [made] = world.cluster.all("Job")
    released = made["spec"]["template"]["spec"]
    [container] = released["containers"]
    sent = {item["name"]: item.get("value") for item in container["env"]}
    assert sent["HTTPS_PROXY"] == "http://proxy:3128"
    assert not {"no_proxy", "REGION"} & sent.keys()
    assert released["imagePullSecrets"] == [{"name": "registry"}]
    assert released["securityContext"] == {
        "runAsNonRoot": True,
        "runAsGroup": 7,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@pytest.mark.parametrize(
    "said",
    [{"runAsUser": 0, "runAsNonRoot": False}, {"runAsUser": 0}, {"runAsUser": None, "runAsNonRoot": None}],
    ids=["root", "zero", "whoever"],
)
async def test_a_release_runs_as_nobody_where_trainings_run_as_root(
    world: Simulation, spec: Spec, said: Spec
) -> None:
    pod = {"securityContext": said}
    await world.serve(spec | {"training": spec["training"] | {"podTemplate": {"spec": pod}}})
    job = json.loads(the_debt(world)["data"][DEBT_KEY])

    assert job["spec"]["template"]["spec"]["securityContext"] == nobody()


@pytest.mark.parametrize("value", ["http://$(NODE_IP):3128", 3128], ids=["of-others", "no-text"])
async def test_a_proxy_that_would_not_do_by_itself_is_left_out(
    world: Simulation, spec: Spec, value: Any
) -> None:
    proxy = {"name": "HTTPS_PROXY", "value": value}
    pod = {"containers": [{"name": "job", "env": [proxy]}]}
    await world.serve(spec | {"training": spec["training"] | {"podTemplate": {"spec": pod}}})

    assert "HTTPS_PROXY" not in the_debt(world)["data"][DEBT_KEY]


@pytest.mark.parametrize("said", [["runAsUser"], "nobody"])
async def test_a_security_context_that_is_none_is_the_api_servers_to_refuse(
    world: Simulation, spec: Spec, said: Any
) -> None:
    pod = {"securityContext": said}
    await world.serve(spec | {"training": spec["training"] | {"podTemplate": {"spec": pod}}})

    assert world.condition("Degraded").reason == "AsExpected"
    assert debts(world) == [names.provider_debt("support", uid(world), PROVIDER)]


async def test_a_debt_that_may_not_be_taken_back_is_not_asked_for_again_and_again(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    delete, asked = world.cluster.delete, []

    async def refusing(ref: ObjectRef) -> dict[str, Any] | None:
        if ref.kind == "ConfigMap":
            asked.append(ref.name)
            raise Forbidden("config maps are frozen")
        return await delete(ref)

    world.cluster.delete = refusing  # type: ignore[method-assign]
    faulty = {"podTemplate": {"spec": {"affinity": {"$patch": "remove"}}}}
    world.apply_agent(spec | {"deletionPolicy": "Retain", "agent": spec["agent"] | faulty})
    await world.settle()
    assert len(asked) == 1

    world.cluster.delete = delete  # type: ignore[method-assign]
    world.pass_time(11)
    await world.settle()
    assert debts(world) == []


async def test_a_release_that_is_refused_is_told_and_tried_again_in_an_hour(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    create, asked = world.cluster.create, []

    async def refusing(manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest["kind"] == "Job":
            asked.append(manifest["metadata"]["name"])
            raise Forbidden("exceeded quota: jobs")
        return await create(manifest)

    world.cluster.create = refusing  # type: ignore[method-assign]
    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    for _ in range(20):
        world.pass_time(60)
        await world.settle()
    assert len(asked) == 3
    (told,) = (raw["note"] for raw in world.cluster.all("Event") if raw["reason"] == "ReleaseFailed")
    assert "exceeded quota: jobs" in told

    world.cluster.create = create  # type: ignore[method-assign]
    world.pass_time(3600)
    await world.settle()
    assert len(world.jobs(names.COMPONENT_RELEASE)) == 1


async def test_a_release_that_is_refused_for_a_moment_is_tried_again_soon(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    world.cluster.faults.append(Fault(at=0, error=Invalid("a webhook", ("spec",)), kind="Job"))
    world.cluster.remove(names.AGENT_KIND, "support")
    await world.settle()
    assert world.jobs(names.COMPONENT_RELEASE) == []

    world.pass_time(10)
    await world.settle()

    assert len(world.jobs(names.COMPONENT_RELEASE)) == 1
    assert "ReleaseFailed" not in world.events()


async def test_a_debt_that_cannot_be_put_off_is_not_told_again_and_again(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    create, apply = world.cluster.create, world.cluster.apply

    async def no_job(manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest["kind"] == "Job":
            raise Forbidden("exceeded quota: jobs")
        return await create(manifest)

    async def no_config_map(manifest: dict[str, Any]) -> dict[str, Any]:
        raise Forbidden("config maps are frozen")

    world.cluster.remove(names.AGENT_KIND, "support")
    world.cluster.create = no_job  # type: ignore[method-assign]
    world.cluster.apply = no_config_map  # type: ignore[method-assign]
    for _ in range(30):
        await world.settle()
        world.pass_time(10)
    assert world.events().count("ReleaseFailed") == 0  # nothing says until when it is put off

    world.cluster.apply = apply  # type: ignore[method-assign]
    for _ in range(30):
        await world.settle()
        world.pass_time(10)
    assert world.events().count("ReleaseFailed") == 1
