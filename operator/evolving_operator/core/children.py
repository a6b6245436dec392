"""The objects that an agent consists of: which ones there should be, and which differ from that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evolving_agent.contract.config import AgentConfig, AgentConfigFile, Traffic, TrafficShare
from evolving_operator.api import names
from evolving_operator.api.models import RolloutStep
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.config_map import build_config_map
from evolving_operator.core.builders.cron_job import build_curation_cron_job, build_training_cron_job
from evolving_operator.core.builders.disruption_budget import build_disruption_budget
from evolving_operator.core.builders.service import build_service
from evolving_operator.core.builders.service_account import build_service_account
from evolving_operator.core.builders.store_claim import build_store_claim
from evolving_operator.core.observed import Child
from evolving_operator.core.plan import Apply, Delete, ObjectRef
from evolving_operator.core.render import render_learning_config
from evolving_operator.core.schedule import schedule_fault
from evolving_operator.core.situation import Situation, applied_hash


def config_file(situation: Situation) -> AgentConfigFile | None:
    """`agent_config.json`: active, previous and candidate, and what pods that still run are stamped with."""
    status = situation.status
    if status.active is None:
        return None
    refs = [ref for ref in (status.active, status.previous, status.candidate) if ref is not None]
    configs = _configs_in_use(situation)
    configs |= {config.hash: config for config in map(situation.config_of, refs)}
    return AgentConfigFile(
        agent=situation.agent,
        model=status.active.model_id,
        previous_model=status.previous.model_id if status.previous else None,
        configs=configs,
        traffic=_traffic(situation),
    )


def _configs_in_use(situation: Situation) -> dict[str, AgentConfig]:
    """Entries that a serving pod may still look up, should it start again in the middle of a restart."""
    live = situation.observed.config_map
    if live is None or live.file is None:
        return {}
    deployment = situation.observed.deployment
    stamps = {pod.stamp for pod in situation.observed.pods} | {deployment.stamp if deployment else None}
    return {stamp: config for stamp, config in live.file.configs.items() if stamp in stamps}


def _traffic(situation: Situation) -> Traffic:
    rollout, candidate = situation.status.rollout, situation.status.candidate
    shadow = situation.spec.rollout.shadow
    if rollout is None or rollout.step is not RolloutStep.SHADOW or candidate is None or shadow is None:
        return Traffic()
    return Traffic(shadow=TrafficShare(config=situation.config_of(candidate).hash, percent=shadow.percent))


def wanted_children(situation: Situation) -> Iterator[Manifest]:
    """Whole objects, each before those that need it."""
    context, spec = situation.context, situation.spec
    file, deployment = config_file(situation), situation.wanted_deployment
    if file is None or deployment is None:
        return
    yield build_service_account(context)
    yield build_store_claim(context)
    yield build_config_map(context, file, render_learning_config(context))
    yield deployment
    yield build_service(context)
    if spec.agent.replicas > 1:
        yield build_disruption_budget(context)
    if spec.curation is not None and not _curation_never_comes(situation):
        yield build_curation_cron_job(context)
    if spec.training is not None and not _training_never_comes(situation):
        yield build_training_cron_job(context)


def _curation_never_comes(situation: Situation) -> bool:
    curation = situation.spec.curation
    return curation is not None and (
        schedule_fault("spec.curation", curation.schedule, curation.time_zone, situation.now) is not None
    )


def _training_never_comes(situation: Situation) -> bool:
    training = situation.spec.training
    return training is not None and (
        schedule_fault("spec.training", training.schedule, training.time_zone, situation.now) is not None
    )


def needed_applies(situation: Situation, wanted: Sequence[Manifest]) -> Iterator[Apply]:
    """Those of the wanted children that are missing or were last applied in another form."""
    for manifest in wanted:
        live = situation.observed.children.get((manifest["kind"], manifest["metadata"]["name"]))
        if is_current(live, manifest):
            continue
        if not is_refused(situation, manifest):
            yield Apply(manifest)


def is_refused(situation: Situation, manifest: Manifest) -> bool:
    """Whether the API server refused this very object, and it is not yet time to try again."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    return any(
        (refusal.kind, refusal.name, refusal.applied_hash) == (kind, name, applied_hash(manifest))
        and not refusal.is_due
        for refusal in situation.observed.refusals
    )


def is_current(live: Child | None, wanted: Manifest) -> bool:
    """Whether the live object is the wanted one, as far as its last apply tells."""
    return live is not None and not live.deleting and live.applied_hash == applied_hash(wanted)


def config_map_is_current(situation: Situation, wanted: Sequence[Manifest]) -> bool:
    """Whether the live ConfigMap holds what a Job that starts now would look up."""
    live = situation.observed.children.get(("ConfigMap", names.config_map(situation.agent)))
    return any(is_current(live, manifest) for manifest in wanted if manifest["kind"] == "ConfigMap")


def unwanted_children(situation: Situation) -> Iterator[Delete]:
    """Children that the spec no longer asks for."""
    spec, agent = situation.spec, situation.agent
    unwanted = [
        (spec.agent.replicas <= 1, "PodDisruptionBudget", names.disruption_budget(agent)),
        (spec.curation is None, "CronJob", names.curate_cron_job(agent)),
        (spec.training is None, "CronJob", names.finetune_cron_job(agent)),
    ]
    for is_unwanted, kind, name in unwanted:
        live = situation.observed.children.get((kind, name))
        if is_unwanted and live is not None and not live.deleting:
            yield Delete(ObjectRef(live.api_version, kind, situation.context.namespace, name, live.uid))
