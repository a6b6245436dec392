"""The Jobs of an agent: their pods, their limits, and how often they try again."""

from __future__ import annotations

from evolving_agent.contract import env
from evolving_agent.contract.base import digest
from evolving_agent.contract.learning import BackendType, LoRABackend, Suite, Training
from evolving_operator.api import names
from evolving_operator.core.builders.base import Manifest, object_metadata, with_applied_hash
from evolving_operator.core.builders.context import BuildContext
from evolving_operator.core.builders.pod import (
    Container,
    Mount,
    common_env,
    common_mounts,
    endpoint_key,
    from_field,
    literal,
    pod_template,
    suite_mounts,
)
from evolving_operator.core.builders.tool_files import tool_env, tool_mounts
from evolving_operator.core.builders.training_settings import training_settings

_RUN_ID_PATH = "metadata.labels['batch.kubernetes.io/job-name']"  # set on the pod by the Job controller
_CURATION_SECONDS = 4 * 3600
_EVALUATION_SECONDS = 4 * 3600
_VALIDATION_SECONDS = 3600
_WEEK_SECONDS = 7 * 86_400
_GRACE_SECONDS = 30
_SMALL = {"cpu": "100m", "memory": "256Mi"}
_TRAINING = {"cpu": "500m", "memory": "2Gi"}


def curation_job_spec(context: BuildContext) -> Manifest:
    """Suites are mounted as well: what a candidate is tested with must not be trained on."""
    container = _container(context, names.COMPONENT_CURATE, mounts=suite_mounts(context))
    return _job_spec(context, names.COMPONENT_CURATE, container, _CURATION_SECONDS)


def training_job_spec(context: BuildContext) -> Manifest:
    """Raises ValueError for a spec without `training`."""
    training = context.spec.training
    if training is None:
        raise ValueError(f"{context.name} has no spec.training: there is nothing to train with")
    backend = training.backend
    if backend.type is BackendType.LORA and backend.lora is not None:
        container = _lora_container(context, backend.lora)
    else:
        container = _container(
            context,
            names.COMPONENT_FINETUNE,
            extra_env=[literal(env.AGENT_UID, context.uid), *_training_key(training)],
        )
    return _job_spec(context, names.COMPONENT_FINETUNE, container, training.active_deadline_seconds)


def build_on_demand_job(context: BuildContext, component: str, run: str) -> Manifest:
    """The Job that a run annotation asks for; `component` is `curate` or `finetune`, `run` its value.

    Unlike the Jobs of a CronJob, which keeps a history, it goes by itself a week after it ended.
    Raises ValueError for another component, and for `finetune` without `spec.training`.
    """
    specs = {names.COMPONENT_CURATE: curation_job_spec, names.COMPONENT_FINETUNE: training_job_spec}
    if component not in specs:
        raise ValueError(f"no Job is run on demand for {component!r}: choose one of {sorted(specs)}")
    return _job(
        context,
        names.on_demand_job(context.name, component, run),
        component,
        specs[component](context) | {"ttlSecondsAfterFinished": _WEEK_SECONDS},
        annotations=run_annotations(context, component) | {names.ANNOTATION_RUN: run},
    )


def run_annotations(context: BuildContext, component: str) -> dict[str, str]:
    """On a training Job: what it trains from and how, by which it is known to be superseded."""
    if component != names.COMPONENT_FINETUNE:
        return {}
    return {
        names.ANNOTATION_BASE: context.spec.model.base,
        names.ANNOTATION_TRAINING: training_settings(context),
    }


def build_evaluation_job(
    context: BuildContext,
    *,
    revision: str,
    candidate_hash: str,
    incumbent_hash: str,
    dataset_version: str | None,
    attempt: str,
) -> Manifest:
    """Candidate against incumbent, on the same cases; `attempt` ("" for the first) tells re-runs apart."""
    container = _container(
        context,
        names.COMPONENT_EVALUATE,
        mounts=(*suite_mounts(context), *tool_mounts(context)),  # tools that read are called
        extra_env=[
            literal(env.CANDIDATE_HASH, candidate_hash),
            literal(env.INCUMBENT_HASH, incumbent_hash),
            *tool_env(context),
            *_suites_env(dataset_version),
        ],
    )
    return _job(
        context,
        names.evaluate_job(revision, attempt),
        names.COMPONENT_EVALUATE,
        _job_spec(context, names.COMPONENT_EVALUATE, container, _EVALUATION_SECONDS, revision=revision),
        revision=revision,
        annotations={names.ANNOTATION_SUITES: comparison_digest(context)},
    )


def build_validation_job(
    context: BuildContext, *, revision: str, config_hash: str, dataset_version: str | None, promotion: str
) -> Manifest:
    """Asks the suites' cases through the agent's own Service, after `revision` was promoted.

    `promotion` tells that one, and its pods, from another: the Job of each has the same name.
    """
    container = _container(
        context,
        names.COMPONENT_VALIDATE,
        mounts=suite_mounts(context),
        extra_env=[
            literal(env.CONFIG_HASH, config_hash),
            literal(env.SERVICE_URL, f"http://{names.service(context.name)}.{context.namespace}.svc"),
            *_suites_env(dataset_version),
        ],
    )
    return _job(
        context,
        names.validate_job(revision),
        names.COMPONENT_VALIDATE,
        _job_spec(context, names.COMPONENT_VALIDATE, container, _VALIDATION_SECONDS, revision=revision),
        revision=revision,
        annotations={names.ANNOTATION_SUITES: suites_digest(context), names.ANNOTATION_PROMOTION: promotion},
    )


def suites_digest(context: BuildContext) -> str:
    """Of which cases are asked, and nothing of how the answers are judged."""
    asked = [
        [suite.name, suite.config_map_ref.to_wire() if suite.config_map_ref else None]
        for suite in context.spec.evaluation.effective_suites
    ]
    return digest(asked)


def comparison_digest(context: BuildContext) -> str:
    """Of which cases are asked, and how sure of a difference one wants to be: the Job reckons the bound.

    The usual confidence adds nothing, so that a Job which an older operator made is known to ask the same.
    """
    usual = Suite(name="usual").confidence_percent
    suites = context.spec.evaluation.effective_suites
    confidences = {suite.name: suite.confidence_percent for suite in suites}
    if set(confidences.values()) == {usual}:
        return suites_digest(context)
    return digest([suites_digest(context), confidences])


def _suites_env(dataset_version: str | None) -> list[Manifest]:
    variables = [literal(env.SUITES_DIR, env.DEFAULT_SUITES_DIR)]
    return variables + ([literal(env.DATASET_VERSION, dataset_version)] if dataset_version else [])


def _training_key(training: Training) -> list[Manifest]:
    """The key of the training endpoint, where it is not the model endpoint's."""
    block = training.backend.open_ai
    return endpoint_key(env.TRAINING_API_KEY, block.endpoint if block is not None else None)


def _lora_container(context: BuildContext, lora: LoRABackend) -> Container:
    adapters = Mount(
        "adapters",
        env.DEFAULT_ADAPTERS,
        {"persistentVolumeClaim": {"claimName": lora.adapter_volume.claim_name}},
    )
    return _container(
        context,
        names.COMPONENT_FINETUNE,
        image=lora.image or context.images.trainer,
        mounts=(adapters,),
        extra_env=[
            literal(env.ADAPTERS, env.DEFAULT_ADAPTERS),
            # Waiting threads that spin take the cores from those that work: on few cores it matters a lot.
            literal("OMP_WAIT_POLICY", "passive"),
        ],
        requests=_TRAINING,
    )


def _container(
    context: BuildContext,
    component: str,
    *,
    image: str = "",
    mounts: tuple[Mount, ...] = (),
    extra_env: list[Manifest] | None = None,
    requests: dict[str, str] | None = None,
) -> Container:
    return Container(
        name=names.CONTAINER_JOB,
        image=image or context.agent_image,
        args=(component,),
        env=[
            *common_env(context),
            run_id(),
            *(extra_env or []),
        ],
        mounts=(*common_mounts(context), *mounts),
        requests=requests or _SMALL,
    )


def run_id() -> Manifest:
    """The name of the Job, whichever of its pods asks: a retried pod resumes the same run."""
    return from_field(env.RUN_ID, _RUN_ID_PATH)


def pod_failure_policy() -> Manifest:
    """Of Jobs whose one container is the project's own."""
    return {
        "rules": [
            {
                "action": "FailJob",  # no second try makes a permanent failure succeed
                "onExitCodes": {
                    "containerName": names.CONTAINER_JOB,
                    "operator": "In",
                    "values": [env.EXIT_PERMANENT],
                },
            },
            # An evicted pod is no failure of the run.
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
        ]
    }


def _job_spec(
    context: BuildContext,
    component: str,
    container: Container,
    deadline_seconds: int,
    *,
    revision: str | None = None,
) -> Manifest:
    return {
        "backoffLimit": 2,
        "activeDeadlineSeconds": deadline_seconds,
        "podFailurePolicy": pod_failure_policy(),
        "template": pod_template(
            context,
            component,
            container,
            restart_policy="Never",
            grace_seconds=_GRACE_SECONDS,
            labels={names.LABEL_REVISION: revision} if revision else None,
        ),
    }


def _job(
    context: BuildContext,
    name: str,
    component: str,
    spec: Manifest,
    *,
    revision: str | None = None,
    annotations: dict[str, str] | None = None,
) -> Manifest:
    return with_applied_hash(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": object_metadata(
                context,
                name,
                component,
                labels={names.LABEL_REVISION: revision} if revision else None,
                annotations=annotations,
            ),
            "spec": spec,
        }
    )
