"""An agent whose memory is a PostgreSQL database: who is told where it is, and where its pods may run."""

from __future__ import annotations

import re
from dataclasses import replace

import yaml

from evolving_agent.contract import env
from evolving_agent.memory.postgres.uri import driver_uri
from evolving_operator.api.models import AgentMemory, ConnectionSecretRef, EvolvingAgentSpec
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.deployment import build_deployment
from evolving_operator.core.render import render_agent_config
from support.cluster import REPOSITORY
from support.golden import build_all, context_of

CONTEXT = context_of("postgresql")


def variables(manifest: Manifest) -> dict[str, Manifest]:
    pod = manifest["spec"].get("jobTemplate", manifest)["spec"]["template"]["spec"]
    return {item["name"]: item for item in pod["containers"][0]["env"]}


def test_serving_pods_read_the_uri_from_its_secret_and_jobs_do_not() -> None:
    built = build_all(CONTEXT)
    with_pods = {name: variables(built[name]) for name in ("deployment", "curation_cron_job", "curation_job")}

    uri = with_pods["deployment"][env.MEMORY_URI]
    assert uri["valueFrom"] == {"secretKeyRef": {"name": "memory-database", "key": "uri"}}
    assert [name for name, told in with_pods.items() if env.MEMORY_URI in told] == ["deployment"]


def test_pods_on_any_node_share_the_memory() -> None:
    built = build_all(CONTEXT)

    assert "affinity" not in built["deployment"]["spec"]["template"]["spec"]
    assert built["disruption_budget"]["spec"]["maxUnavailable"] == 1


def test_another_secret_replaces_the_pods_and_changes_no_configuration() -> None:
    """The configuration that answers is the same; a pod reads its environment only when it starts."""
    moved = CONTEXT.spec.agent.model_copy(
        update={
            "memory": AgentMemory(
                type=CONTEXT.spec.agent.memory.type,
                connection_secret_ref=ConnectionSecretRef(name="memory-database", key="replica"),
            )
        }
    )
    context = replace(CONTEXT, spec=CONTEXT.spec.model_copy(update={"agent": moved}))
    before, after = (render_agent_config(each, "r", "m").hash for each in (CONTEXT, context))

    assert before == after
    assert (
        build_deployment(CONTEXT, before)["spec"]["template"]
        != build_deployment(context, after)["spec"]["template"]
    )


def test_the_agent_that_the_documentation_shows_is_valid() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs/memory.md").read_text(), re.DOTALL)
    secret, agent = yaml.safe_load_all(text)

    memory = EvolvingAgentSpec.model_validate(agent["spec"]).agent.memory
    assert memory.connection_secret_ref is not None
    assert memory.connection_secret_ref.name == secret["metadata"]["name"]
    assert driver_uri(secret["stringData"][memory.connection_secret_ref.key])


def test_an_agent_with_another_memory_is_told_of_no_database() -> None:
    for case in ("minimal", "openai", "lora", "object-store"):
        assert env.MEMORY_URI not in variables(build_all(context_of(case))["deployment"])
