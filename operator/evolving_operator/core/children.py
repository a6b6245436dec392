"""The objects that an agent consists of: which ones there should be, and which differ from that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from evolving_agent.contract.config import AgentConfig, AgentConfigFile, Traffic, TrafficShare
from evolving_operator.api import names
from evolving_operator.api.models import RolloutStep
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.config_map import build_config_map
from evolving_operator.core.builders.cron_job import build_curation_cron_job, build_training_cron_job
from evolving_operator.core.builders.debt import build_provider_debt, owes_provider
from evolving_operator.core.builders.disruption_budget import build_disruption_budget
from evolving_operator.core.builders.network_policy import build_network_policy, limits_network
from evolving_operator.core.builders.service import build_service
from evolving_operator.core.builders.service_account import build_service_account
from evolving_operator.core.builders.store_claim import build_store_claim
from evolving_operator.core.observed import Child, Correction, Observed, Refusal
from evolving_operator.core.ownership import lost_fields, owns
from evolving_operator.core.plan import Action, Apply, Delete, ObjectRef
from evolving_operator.core.render import render_learning_config
from evolving_operator.core.schedule import schedule_fault
from evolving_operator.core.serving import wanted_pods
from evolving_operator.core.situation import Situation, applied_hash

_CLAIM = "PersistentVolumeClaim"
_SIZE = ("spec", "resources", "requests", "storage")  # of the claim
_HASH = ("metadata", "annotations", names.ANNOTATION_APPLIED_HASH)
_OWNERS = ("metadata", "ownerReferences")
_CREATED_ONCE = frozenset({"Job", names.REVISION_KIND})  # by a step: not among what is wanted all the time


def config_file(situation: Situation) -> AgentConfigFile | None:
    """`agent_config.json`: active, previous and candidate, and what pods that still run are stamped with."""
    status, active, stamp = situation.status, situation.active_config, situation.active_hash
    if status.active is None or active is None or stamp is None:
        return None
    others = [ref for ref in (status.previous, status.candidate) if ref is not None]
    configs = _configs_in_use(situation) | {stamp: active}
    configs |= {config.hash: config for config in map(situation.config_of, others)}
    return AgentConfigFile(
        agent=situation.agent,
        model=status.active.model_id,
        previous_model=status.previous.model_id if status.previous else None,
        active=stamp,
        previous=situation.config_of(status.previous).hash if status.previous else None,
        rolled_out=_rolled_out(situation),
        configs=dict(sorted(configs.items())),  # equal values are equal texts
        traffic=traffic(situation),
    )


def _rolled_out(situation: Situation) -> str | None:
    """The active entry, once no pod has to prove it any more; None where there is nothing to fall back to."""
    status = situation.status
    is_on_its_way = status.rollout is not None and status.rollout.step is RolloutStep.RESTART
    return None if status.previous is None or is_on_its_way else situation.active_hash


def _configs_in_use(situation: Situation) -> dict[str, AgentConfig]:
    """Entries that a serving pod may still look up, should it start again in the middle of a restart."""
    live, deployment = situation.observed.config_map, situation.observed.deployment
    stamps = {pod.stamp for pod in situation.observed.pods if not pod.over}
    stamps |= {deployment.stamp if deployment else None}
    stamps -= {None, situation.active_hash}  # the active entry is rendered anew
    if live is None or not stamps or live.file is None:
        return {}
    return {stamp: config for stamp, config in live.file.configs.items() if stamp in stamps}


def traffic(situation: Situation) -> Traffic:
    """The candidate's share of the requests, while it is on trial."""
    rollout, candidate = situation.status.rollout, situation.status.candidate
    if rollout is None or candidate is None or rollout.revision != candidate.revision:
        return Traffic()
    tried = situation.config_of(candidate).hash
    if rollout.percent is None:
        return Traffic()
    share = TrafficShare(config=tried, percent=rollout.percent)
    if rollout.step is RolloutStep.SHADOW:
        return Traffic(shadow=share, trial=situation.trial_name)
    if rollout.step is RolloutStep.CANARY:
        return Traffic(canary=share, trial=situation.trial_name)
    return Traffic()


def wanted_children(situation: Situation) -> Iterator[Manifest]:
    """Whole objects, each before those that need it."""
    context, file, deployment = situation.context, config_file(situation), situation.wanted_deployment
    if file is None or deployment is None:
        return
    if owes_provider(context):
        yield build_provider_debt(context)
    yield build_service_account(context)
    if (claim := _store_claim(situation)) is not None:
        yield claim
    yield build_config_map(context, file, render_learning_config(context))
    if limits_network(context):
        yield build_network_policy(context)
    yield deployment
    yield build_service(context)
    if wanted_pods(situation) > 1:
        yield build_disruption_budget(context)
    yield from _cron_jobs(situation)


def _store_claim(situation: Situation) -> Manifest | None:
    volume = situation.spec.storage.claim
    if volume is None:
        return None
    return build_store_claim(situation.context, sets_size=not _is_grown(situation, volume.size))


def kept_claim(situation: Situation) -> Iterator[Apply]:
    """The claim alone, as large as it was asked for: whether it goes with the agent counts in any case."""
    claim = _claim_as_asked(situation)
    if claim is not None:
        yield from needed_applies(situation, (claim,), {})


def missing_debt(situation: Situation) -> Iterator[Apply]:
    """What the agent owes its provider, where that was not written down by a spec without fault."""
    if owes_provider(situation.context):
        debt = build_provider_debt(situation.context)
        if ("ConfigMap", debt["metadata"]["name"]) not in situation.observed.children:
            yield from needed_applies(situation, (debt,), {})


def _is_grown(situation: Situation, size: str) -> bool:
    """Whether somebody else has set the volume's size since the user last spoke about it: it only grows."""
    live = situation.observed.children.get((_CLAIM, names.store_claim(situation.agent)))
    return live is not None and live.asked in (None, size) and not owns(live.owned, *_SIZE)


def _claim_as_asked(situation: Situation) -> Manifest | None:
    """The volume claim, as large as was last asked for; None where there is none, or that is not known."""
    live = situation.observed.children.get((_CLAIM, names.store_claim(situation.agent)))
    if situation.spec.storage.claim is None or live is None or live.asked is None:
        return None
    return build_store_claim(situation.context, asked=live.asked, sets_size=owns(live.owned, *_SIZE))


def _cron_jobs(situation: Situation) -> Iterator[Manifest]:
    """Where a schedule is at fault, no run begins by the last one either; one that is under way goes on."""
    context, spec, now = situation.context, situation.spec, situation.now
    for field, part, build, name in (
        ("spec.curation", spec.curation, build_curation_cron_job, names.curate_cron_job(context.name)),
        ("spec.training", spec.training, build_training_cron_job, names.finetune_cron_job(context.name)),
    ):
        if part is None:
            continue
        is_held = schedule_fault(field, part.schedule, part.time_zone, now) is not None
        if not is_held or ("CronJob", name) in situation.observed.children:
            yield build(context, is_held=is_held)


Drift = Mapping[tuple[str, str], tuple[str, ...]]  # (kind, name) of a child → paths of its changed fields


def drift_of(situation: Situation, wanted: Sequence[Manifest]) -> Drift:
    """What somebody else set, or took away, on children that are otherwise as they were last applied.

    The hash that tells of this may be what was taken away: by a program that replaces whole objects.

    Nothing where to apply a child once more has been shown to change nothing: an API server that drops
    a field which it does not know would be told of it for ever.
    """
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for manifest in wanted:
        key = manifest["kind"], manifest["metadata"]["name"]
        live, last = situation.observed.children.get(key), correction(situation, *key)
        if live is None or (last is not None and live.owned == last.owned):
            continue
        if not is_current(live, manifest) and owns(live.owned, *_HASH):
            continue  # it is to become another, and nobody else has said so
        lost = lost_fields(manifest, live.owned)
        if lost:
            found[key] = tuple(lost)
    return found


def correction(situation: Situation, kind: str, name: str) -> Correction | None:
    """The last time that drift of this child was set right, where that is not long ago."""
    for item in situation.observed.corrections:
        if (item.kind, item.name) == (kind, name):
            return item
    return None


def needed_applies(situation: Situation, wanted: Sequence[Manifest], drift: Drift) -> Iterator[Apply]:
    """Those of the wanted children that are missing, were last applied in another form, or have drifted.

    Drift waits where somebody sets the same fields again and again: two programs would fight for ever.
    """
    unreadable: set[str] = set()
    for manifest in wanted:
        key = manifest["kind"], manifest["metadata"]["name"]
        if key[0] in unreadable:
            continue
        lost, last = drift.get(key, ()), correction(situation, *key)
        live = situation.observed.children.get(key)
        is_left = is_current(live, manifest) and not lost
        waits = last is not None and not last.is_due and not set(lost).isdisjoint(last.fields)
        is_config = key == ("ConfigMap", names.config_map(situation.agent))
        if is_config and is_refused(situation, manifest):
            unreadable = {"Deployment"}  # its pods would look for a configuration that is not there
        if is_left or waits or is_refused(situation, manifest):
            continue
        # Of a claim whose size is refused, all else counts: whether it goes with the agent, above all.
        otherwise = _claim_as_asked(situation) if key[0] == _CLAIM else None
        otherwise = None if otherwise == manifest else otherwise
        yield Apply(manifest, corrects=lost, is_required=is_config, is_new=live is None, otherwise=otherwise)


def gives_owner(observed: Observed, actions: Sequence[Action]) -> bool:
    """Whether something that is there, and goes with no agent by now, is to go with this one.

    It may be without an owner because the agent is being deleted by `--cascade=orphan`, of which its
    children's watches tell before its own does: then it would go all the same.
    """
    return any(_gives_owner(observed, action.manifest) for action in actions if isinstance(action, Apply))


def _gives_owner(observed: Observed, manifest: Manifest) -> bool:
    kind, metadata = manifest["kind"], manifest["metadata"]
    if "ownerReferences" not in metadata:
        return False
    live = observed.children.get((kind, metadata["name"]))
    return kind == names.REVISION_KIND if live is None else not owns(live.owned, *_OWNERS)


def standing_refusals(situation: Situation) -> Iterator[Refusal]:
    """Refusals of what is still wanted as it was refused; then of what is yet to be tried in another form.

    Who takes a bad field back hears no more of it: what is wanted then is there.
    """
    if not situation.observed.refusals:
        return
    wanted = {
        (manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in wanted_children(situation)
    }
    untried = []
    for refusal in situation.observed.refusals:
        key = refusal.kind, refusal.name
        manifest = wanted.get(key)
        wanted_hash = None if manifest is None else applied_hash(manifest)
        if refusal.kind in _CREATED_ONCE or refusal.applied_hash == wanted_hash:
            yield refusal
            continue
        live = situation.observed.children.get(key)
        if manifest is not None and refusal.applied_hash is not None and not is_current(live, manifest):
            untried.append(refusal)
    yield from untried


def is_refused(situation: Situation, manifest: Manifest) -> bool:
    """Whether the API server refused this very object, and it is not yet time to try again."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    return any(
        (refusal.kind, refusal.name, refusal.applied_hash) == (kind, name, applied_hash(manifest))
        and not refusal.is_due
        for refusal in situation.observed.refusals
    )


def undeletable(situation: Situation) -> set[tuple[str, str]]:
    """Kinds and names of what the API server has just refused to delete."""
    refusals = situation.observed.refusals
    return {(item.kind, item.name) for item in refusals if item.applied_hash is None and not item.is_due}


def is_current(live: Child | None, wanted: Manifest) -> bool:
    """Whether the live object is the wanted one, as far as its last apply tells.

    One that is being deleted too: to apply it once more would not keep it. It is made anew when it is gone.
    """
    return live is not None and live.applied_hash == applied_hash(wanted)


def lingering_children(situation: Situation) -> Iterator[Child]:
    """Wanted children that somebody has deleted, and that something still holds."""
    children = situation.observed.children
    if not any(child.deleting for child in children.values()):
        return
    for manifest in wanted_children(situation):
        live = children.get((manifest["kind"], manifest["metadata"]["name"]))
        if live is not None and live.deleting:
            yield live


def config_map_is_current(situation: Situation, wanted: Sequence[Manifest], drift: Drift) -> bool:
    """Whether the live ConfigMap holds what a Job that starts now would look up."""
    key = "ConfigMap", names.config_map(situation.agent)
    live = situation.observed.children.get(key)
    own = (manifest for manifest in wanted if (manifest["kind"], manifest["metadata"]["name"]) == key)
    is_there_to_stay = live is not None and not live.deleting
    return is_there_to_stay and key not in drift and any(is_current(live, manifest) for manifest in own)


def jobs_find_what_is_asked(situation: Situation) -> bool:
    """The same, of a step that creates a Job: steps are taken before the children are brought to the spec.

    What keeps the ConfigMap from it for long is Degraded.
    """
    wanted = tuple(wanted_children(situation))
    return config_map_is_current(situation, wanted, drift_of(situation, wanted))


def config_map_is_due(situation: Situation) -> bool:
    """Whether it is about to be brought to the spec, by a decision that takes no step."""
    wanted = tuple(wanted_children(situation))
    key = "ConfigMap", names.config_map(situation.agent)
    applied = (apply.manifest for apply in needed_applies(situation, wanted, drift_of(situation, wanted)))
    return key in {(manifest["kind"], manifest["metadata"]["name"]) for manifest in applied}


def unwanted_children(situation: Situation) -> Iterator[Delete]:
    """Children that the spec no longer asks for."""
    spec, agent = situation.spec, situation.agent
    unwanted = [
        (wanted_pods(situation) <= 1, "PodDisruptionBudget", names.disruption_budget(agent)),
        (not limits_network(situation.context), "NetworkPolicy", names.network_policy(agent)),
        (spec.curation is None, "CronJob", names.curate_cron_job(agent)),
        (spec.training is None, "CronJob", names.finetune_cron_job(agent)),
    ]
    for is_unwanted, kind, name in unwanted:
        live = situation.observed.children.get((kind, name))
        if is_unwanted and live is not None and not live.deleting:
            yield Delete(ObjectRef(live.api_version, kind, situation.context.namespace, name, live.uid))
