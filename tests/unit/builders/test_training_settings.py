"""What is written on a training Job tells another training from the same one, as the agent image does."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from evolving_agent.contract.learning import BackendType, DatasetFormat, Hyperparameters, OpenAIBackend
from evolving_agent.contract.report import DatasetRef
from evolving_agent.training.run_state import Identity
from evolving_operator.api import names
from evolving_operator.api.models import EvolvingAgentSpec
from evolving_operator.core.builders.context import BuildContext
from evolving_operator.core.builders.cron_job import build_training_cron_job
from evolving_operator.core.builders.job import build_on_demand_job
from evolving_operator.core.builders.training_settings import changed_settings, training_settings
from evolving_operator.core.render import render_learning_config
from support.golden import IMAGES

Spec = dict[str, Any]
LORA: Spec = {
    "model": {"base": "smollm2", "endpoint": {"baseURL": "https://models.example/v1"}},
    "agent": {"instructions": "Help."},
    "curation": {"schedule": "@daily"},
    "training": {
        "schedule": "@daily",
        "backend": {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}},
    },
}
OPENAI: Spec = copy.deepcopy(LORA)
OPENAI["training"]["backend"] = {"type": "OpenAI"}
PREFERENCE: Spec = copy.deepcopy(LORA)
PREFERENCE["curation"]["format"] = "Preference"

BACKEND = "spec.training.backend.type"
ENDPOINT = "the endpoint that trains"
FORMAT = "spec.curation.format"
BETA = "spec.training.hyperparameters.betaPercent"
SETTINGS = "the settings of spec.training.hyperparameters and backend"

Case = tuple[Spec, str, Any, tuple[str, ...]]  # where, which field, its value there → what is told
CASES: dict[str, Case] = {
    "another backend": (OPENAI, "training.backend", LORA["training"]["backend"], (BACKEND,)),
    "an endpoint of its own": (
        OPENAI,
        "training.backend.openAI",
        {"endpoint": {"baseURL": "https://train.example/v1"}},
        (ENDPOINT,),
    ),
    "another model endpoint, where that trains": (
        OPENAI,
        "model.endpoint.baseURL",
        "https://other.example/v1",
        (ENDPOINT,),
    ),
    "another learning rate": (
        OPENAI,
        "training.backend.openAI",
        {"learningRateMultiplierPercent": 50},
        (SETTINGS,),
    ),
    "more epochs": (LORA, "training.hyperparameters", {"epochs": 5}, (SETTINGS,)),
    "another seed": (LORA, "training.hyperparameters", {"seed": 1}, (SETTINGS,)),
    "a batch size": (LORA, "training.hyperparameters", {"batchSize": 4}, (SETTINGS,)),
    "another rank": (LORA, "training.backend.lora.rank", 8, (SETTINGS,)),
    "another file of the base": (LORA, "training.backend.lora.baseModelPath", "/m.gguf", (SETTINGS,)),
    "another adapter format": (LORA, "training.backend.lora.adapterFormat", "PEFT", (SETTINGS,)),
    "pairs": (LORA, "curation.format", "Preference", (FORMAT,)),
    "another beta": (PREFERENCE, "training.hyperparameters", {"betaPercent": 20}, (BETA,)),
    # Not another training: defaults that are spelt out, and what only says when, where and how long.
    "epochs as usual": (LORA, "training.hyperparameters", {"epochs": 3, "seed": 0}, ()),
    "rank as usual": (LORA, "training.backend.lora.rank", 16, ()),
    "format as usual": (LORA, "curation.format", "Supervised", ()),
    "beta as usual": (PREFERENCE, "training.hyperparameters", {"betaPercent": 10}, ()),
    "an empty block": (OPENAI, "training.backend.openAI", {}, ()),
    "the model endpoint, spelt out": (
        OPENAI,
        "training.backend.openAI",
        {"endpoint": {"baseURL": "https://models.example/v1"}},
        (),
    ),
    "another model endpoint, where a pod trains": (
        LORA,
        "model.endpoint.baseURL",
        "https://other.example/v1",
        (),
    ),
    "another key": (OPENAI, "model.endpoint.apiKeySecretRef", {"name": "llm", "key": "token"}, ()),
    "another schedule": (LORA, "training.schedule", "@hourly", ()),
    "a time zone": (LORA, "training.timeZone", "Europe/Berlin", ()),
    "another suffix": (LORA, "training.suffix", "nightly", ()),
    "thresholds": (LORA, "training.thresholds", {"minNewExamples": 1, "maxTokens": 1000}, ()),
    "a deadline": (LORA, "training.activeDeadlineSeconds", 600, ()),
    "a trainer image": (LORA, "training.backend.lora.image", "example/trainer:2", ()),
    "another volume": (LORA, "training.backend.lora.adapterVolume.claimName", "other", ()),
    "resources": (
        LORA,
        "training.podTemplate",
        {"spec": {"containers": [{"name": "job", "resources": {"limits": {"memory": "4Gi"}}}]}},
        (),
    ),
    "suspended": (LORA, "suspend", True, ()),
    "other thresholds of curation": (LORA, "curation.thresholds", {"minExamples": 20}, ()),
    "no curation: any dataset will do": (PREFERENCE, "curation", None, ()),
}


def context_of(spec: Spec) -> BuildContext:
    return BuildContext("support", "default", "uid-1", EvolvingAgentSpec.model_validate(spec), IMAGES)


def changed(spec: Spec, path: str, value: Any) -> Spec:
    spec = copy.deepcopy(spec)
    *parents, leaf = path.split(".")
    part = spec
    for parent in parents:
        part = part.setdefault(parent, {})
    part[leaf] = value
    return spec


def goes_on(before: BuildContext, after: BuildContext) -> bool:
    """Whether the agent image goes on with what it began before (`evolving_agent.training.job`)."""
    assert before.spec.curation is not None
    dataset = DatasetRef(version="d1", digest="d", examples=100, format=before.spec.curation.format)

    def identity(context: BuildContext) -> Identity:
        assert context.spec.training is not None
        return Identity.of(render_learning_config(context), context.spec.training, dataset)

    curated = after.spec.curation.format if after.spec.curation is not None else None
    return (
        identity(before) == identity(after)
        and curated in (None, dataset.format)
        and endpoint_of(before) == endpoint_of(after)
    )


def endpoint_of(context: BuildContext) -> str:
    assert context.spec.training is not None
    backend = context.spec.training.backend
    if backend.type is BackendType.LORA:
        return "/adapters"
    settings = backend.open_ai or OpenAIBackend()
    return (settings.endpoint or context.spec.model.endpoint).base_url


@pytest.mark.parametrize("case", CASES)
def test_another_training_is_what_the_agent_image_takes_for_one(case: str) -> None:
    spec, path, value, told = CASES[case]
    before, after = context_of(spec), context_of(changed(spec, path, value))

    assert changed_settings(training_settings(before), training_settings(after)) == told
    assert changed_settings(training_settings(after), training_settings(before)) == told
    assert goes_on(before, after) is (told == ())


def test_several_changes_are_all_told() -> None:
    after = context_of(changed(PREFERENCE, "training.hyperparameters", {"epochs": 1, "betaPercent": 30}))

    assert changed_settings(training_settings(context_of(PREFERENCE)), training_settings(after)) == (
        BETA,
        SETTINGS,
    )


class NextHyperparameters(Hyperparameters):
    """As the next version may have them."""

    warmup_percent: int = 5


def test_a_setting_that_is_new_and_has_its_default_makes_no_other_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = context_of(changed(LORA, "training.hyperparameters", {"epochs": 5}))
    training = context.spec.training
    assert training is not None
    before = training_settings(context)

    monkeypatch.setattr(
        "evolving_operator.core.builders.training_settings.Hyperparameters", NextHyperparameters
    )
    later = NextHyperparameters(epochs=5)
    assert "warmupPercent" in later.to_wire()
    spec = context.spec.model_copy(
        update={"training": training.model_copy(update={"hyperparameters": later})}
    )

    assert training_settings(BuildContext("support", "default", "uid-1", spec, IMAGES)) == before


@pytest.mark.parametrize("known", ["", "nonsense", "precision=Half", "backend=LoRA,precision=Half"])
def test_what_another_version_wrote_is_compared_as_far_as_it_is_known(known: str) -> None:
    assert changed_settings(known, training_settings(context_of(LORA))) == ()


def test_training_jobs_carry_it_whoever_starts_them() -> None:
    context = context_of(LORA)
    told = training_settings(context)

    on_demand = build_on_demand_job(context, names.COMPONENT_FINETUNE, "finetune:1")
    scheduled = build_training_cron_job(context)["spec"]["jobTemplate"]
    curation = build_on_demand_job(context, names.COMPONENT_CURATE, "curate:1")

    assert told == f"backend=LoRA,format={DatasetFormat.SUPERVISED},settings=44136fa3"
    assert on_demand["metadata"]["annotations"][names.ANNOTATION_TRAINING] == told
    assert scheduled["metadata"]["annotations"][names.ANNOTATION_TRAINING] == told
    assert names.ANNOTATION_TRAINING not in curation["metadata"]["annotations"]
