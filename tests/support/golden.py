"""An agent's YAML in, the YAML of all its children out."""

from __future__ import annotations

from pathlib import Path

import yaml

from evolving_agent.contract.config import AgentConfigFile
from evolving_operator.api import names
from evolving_operator.api.models import EvolvingAgentSpec, RevisionDataset, RevisionTraining
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.config_map import build_config_map
from evolving_operator.core.builders.context import BuildContext, Images
from evolving_operator.core.builders.cron_job import build_curation_cron_job, build_training_cron_job
from evolving_operator.core.builders.debt import build_provider_debt, owes_provider
from evolving_operator.core.builders.deployment import build_deployment
from evolving_operator.core.builders.disruption_budget import build_disruption_budget
from evolving_operator.core.builders.job import (
    build_evaluation_job,
    build_on_demand_job,
    build_validation_job,
)
from evolving_operator.core.builders.network_policy import build_network_policy, limits_network
from evolving_operator.core.builders.revision import build_revision
from evolving_operator.core.builders.service import build_service
from evolving_operator.core.builders.service_account import build_service_account
from evolving_operator.core.builders.store_claim import build_store_claim
from evolving_operator.core.render import render_agent_config, render_learning_config

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CASES = sorted(path.name for path in GOLDEN.iterdir())
IMAGES = Images(agent="example/agent:1", trainer="example/trainer:1")


def context_of(case: str) -> BuildContext:
    agent = yaml.safe_load((GOLDEN / case / "agent.yaml").read_text())
    return BuildContext(
        name=agent["metadata"]["name"],
        namespace=agent["metadata"]["namespace"],
        uid=agent["metadata"]["uid"],
        spec=EvolvingAgentSpec.model_validate(agent["spec"]),
        images=IMAGES,
    )


def build_all(context: BuildContext) -> dict[str, Manifest]:
    """Every child that the spec calls for, by the name of its golden file."""
    base_name = names.revision(context.name, context.spec.model.base, "", "Base", "")
    base = render_agent_config(context, base_name, context.spec.model.base)
    file = AgentConfigFile(agent=context.name, model=context.spec.model.base, configs={base.hash: base})
    built = {
        "service_account": build_service_account(context),
        "config_map": build_config_map(context, file, render_learning_config(context)),
        "deployment": build_deployment(context, base.hash),
        "service": build_service(context),
        "disruption_budget": build_disruption_budget(context),
        "base_revision": build_revision(
            context,
            name=base_name,
            model_id=context.spec.model.base,
            base=context.spec.model.base,
            dataset=None,
            training=None,
            made_for=context.uid,
        ),
    }
    if context.spec.storage.claim is not None:
        built["store_claim"] = build_store_claim(context)
    if limits_network(context):
        built["network_policy"] = build_network_policy(context)
    if owes_provider(context):
        built["provider_debt"] = build_provider_debt(context)
    if context.spec.curation is not None:
        built["curation_cron_job"] = build_curation_cron_job(context)
        built["curation_job"] = build_on_demand_job(context, names.COMPONENT_CURATE, "curate:now")
    if context.spec.training is not None:
        revision = f"{context.name}-0badcafe"
        built["training_cron_job"] = build_training_cron_job(context)
        built["training_job"] = build_on_demand_job(context, names.COMPONENT_FINETUNE, "finetune")
        built["revision"] = build_revision(
            context,
            name=revision,
            model_id="learned",
            base=context.spec.model.base,
            dataset=RevisionDataset(version="v1", digest="d1", examples=120),
            training=RevisionTraining(backend="LoRA", job_id="job-1"),
            made_for=context.uid,
        )
        built["evaluation_job"] = build_evaluation_job(
            context,
            revision=revision,
            candidate_hash="cafecafeca",
            incumbent_hash=base.hash,
            dataset_version="v1",
            attempt="",
        )
        built["validation_job"] = build_validation_job(
            context,
            revision=revision,
            config_hash="cafecafeca",
            dataset_version=None,
            promotion="2026-03-02T12:00:00Z",
        )
    return built
