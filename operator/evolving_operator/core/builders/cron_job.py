"""The two schedules of an agent: when it curates what it experienced, and when it trains."""

from __future__ import annotations

from evolving_agent.contract.learning import Curation, Training
from evolving_operator.api import names
from evolving_operator.core.builders.base import Manifest, object_metadata, with_applied_hash
from evolving_operator.core.builders.context import BuildContext
from evolving_operator.core.builders.job import curation_job_spec, run_annotations, training_job_spec

_STARTING_DEADLINE_SECONDS = 3600  # a run that was missed by more waits for its next time
_ANY_SCHEDULE = "0 0 1 1 *"  # of what is suspended
_HISTORY_LIMIT = 3  # Jobs kept, of each outcome: the operator reads their reports from the pods


def build_curation_cron_job(context: BuildContext, *, is_held: bool = False) -> Manifest:
    """`is_held`: it starts nothing, by no schedule of the spec. Raises ValueError without `spec.curation`."""
    curation = context.spec.curation
    if curation is None:
        raise ValueError(f"{context.name} has no spec.curation: there is no schedule to build from")
    name = names.curate_cron_job(context.name)
    job_spec = curation_job_spec(context)
    return _cron_job(context, name, names.COMPONENT_CURATE, None if is_held else curation, job_spec)


def build_training_cron_job(context: BuildContext, *, is_held: bool = False) -> Manifest:
    """`is_held`: it starts nothing, by no schedule of the spec. Raises ValueError without `spec.training`."""
    training = context.spec.training
    if training is None:
        raise ValueError(f"{context.name} has no spec.training: there is no schedule to build from")
    name = names.finetune_cron_job(context.name)
    job_spec = training_job_spec(context)
    return _cron_job(context, name, names.COMPONENT_FINETUNE, None if is_held else training, job_spec)


def _cron_job(
    context: BuildContext,
    name: str,
    component: str,
    scheduled: Curation | Training | None,
    job_spec: Manifest,
) -> Manifest:
    job_metadata: Manifest = {"labels": names.labels(context.name, component)}
    if annotations := run_annotations(context, component):
        job_metadata["annotations"] = annotations
    spec: Manifest = {
        "schedule": scheduled.schedule if scheduled is not None else _ANY_SCHEDULE,
        "suspend": context.spec.suspend or scheduled is None,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": _STARTING_DEADLINE_SECONDS,
        "successfulJobsHistoryLimit": _HISTORY_LIMIT,
        "failedJobsHistoryLimit": _HISTORY_LIMIT,
        # Said, so that Jobs that somebody lets start suspended are an edit like any other.
        "jobTemplate": {"metadata": job_metadata, "spec": {"suspend": False, **job_spec}},
    }
    if scheduled is not None and scheduled.time_zone is not None:
        spec["timeZone"] = scheduled.time_zone
    return with_applied_hash(
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": object_metadata(context, name, component),
            "spec": spec,
        }
    )
