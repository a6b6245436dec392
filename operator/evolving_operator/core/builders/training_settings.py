"""By what the agent image tells one training from another, as an annotation of the Jobs that train.

It goes by `evolving_agent.training.run_state.Identity`, and by endpoint and format beside that: who trains,
where, by which method, and by what settings. The base has an annotation of its own; which dataset is trained
is the Job's to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from evolving_agent.contract.base import digest
from evolving_agent.contract.config import HTTPEndpoint
from evolving_agent.contract.learning import (
    BackendType,
    DatasetFormat,
    Hyperparameters,
    LoRABackend,
    Training,
    TrainingBackend,
)
from evolving_operator.core.builders.context import BuildContext

# Part of the annotation → what a user would have to change for it to be another.
_FIELDS: Final = {
    "backend": "spec.training.backend.type",
    "endpoint": "the endpoint that trains",
    "format": "spec.curation.format",
    "beta": "spec.training.hyperparameters.betaPercent",
    "settings": "the settings of spec.training.hyperparameters and backend",
}


def provider_endpoint(context: BuildContext) -> HTTPEndpoint | None:
    """The provider that trains for the agent, and keeps what came of it; None where none does."""
    training = context.spec.training
    if training is None or training.backend.type is not BackendType.OPENAI:
        return None
    block = training.backend.open_ai
    return (block.endpoint if block is not None else None) or context.spec.model.endpoint


def training_settings(context: BuildContext) -> str:
    """`backend=LoRA,format=Supervised,settings=44136fa3`: in words what is one, else a digest.

    Raises ValueError for a spec without `training`.
    """
    return ",".join(f"{part}={value}" for part, value in _parts(context).items())


def changed_settings(known: str, asked: str) -> tuple[str, ...]:
    """What is asked for now otherwise than it was when the annotation was written, in words for the user.

    A part that only one of both has is no difference: it makes none where nothing is curated, for one, and
    another version of the operator may know others.
    """
    before, now = _read(known), _read(asked)
    return tuple(told for part, told in _FIELDS.items() if _differs(before, now, part))


def _read(settings: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in settings.split(",") if "=" in part)


def _differs(before: Mapping[str, str], now: Mapping[str, str], part: str) -> bool:
    return part in before and part in now and before[part] != now[part]


def _parts(context: BuildContext) -> dict[str, str]:
    training, curation = context.spec.training, context.spec.curation
    if training is None:
        raise ValueError(f"{context.name} has no spec.training: there are no settings to train by")
    parts = {"backend": training.backend.type.value}
    if (endpoint := provider_endpoint(context)) is not None:
        parts["endpoint"] = digest(endpoint.base_url)
    if curation is not None:  # else any dataset that is there will do
        parts["format"] = curation.format.value
        if curation.format is DatasetFormat.PREFERENCE:
            parts["beta"] = str(training.hyperparameters.effective_beta_percent)
    return parts | {"settings": digest(_chosen(training))}


def _chosen(training: Training) -> dict[str, object]:
    """The settings that are not as usual, so that neither a default that is spelt out nor a setting that only
    a newer operator knows makes another training. Hence a default never changes.
    """
    lora = training.backend.lora
    plain = TrainingBackend(
        type=training.backend.type,
        lora=LoRABackend(adapter_volume=lora.adapter_volume) if lora is not None else None,
    )
    usual = _values(training.model_copy(update={"backend": plain, "hyperparameters": Hyperparameters()}))
    return {name: value for name, value in _values(training).items() if usual.get(name) != value}


def _values(training: Training) -> dict[str, object]:
    """What only preference training knows is a part of its own."""
    return training.hyperparameter_values(DatasetFormat.SUPERVISED)
