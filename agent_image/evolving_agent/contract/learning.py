"""How an agent learns: curation, training and evaluation. Part of the spec, and read by the Jobs.

The ConfigMap's key `learning.json` holds a `LearningConfig`; the same models make up `spec` of an
EvolvingAgent, so that a field has one definition, one default and one description.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import Field

from evolving_agent.contract.base import Document, Rule, rules
from evolving_agent.contract.config import Endpoint, HTTPEndpoint
from evolving_agent.contract.refs import ConfigMapKeyRef, ObjectName

LEARNING_VERSION: Final = 1
LEARNING_KEY = "learning.json"
DEFAULT_BETA_PERCENT = 10
MAX_SUITES: Final = 16

# Five fields, names of months and days included. What a pattern cannot see (30 February) is found
# by the operator and shown as Degraded/InvalidSpec.
CRON_PATTERN = r"^(@(hourly|daily|midnight|weekly|monthly|yearly|annually)|(\S+\s+){4}\S+)$"


class CurationThresholds(Document):
    model_config = rules(
        Rule(
            "self.minExamples <= self.maxExamples",
            "minExamples must not be greater than maxExamples",
            ".minExamples",
        )
    )

    min_score_percent: int = Field(
        default=70, ge=0, le=100, description="An uncorrected answer below this score is not an example."
    )
    min_examples: int = Field(
        default=10, ge=10, le=1_000_000, description="No dataset is written with fewer examples."
    )
    max_examples: int = Field(
        default=50_000, ge=10, le=1_000_000, description="The newest examples are kept above this number."
    )
    near_duplicate_percent: int = Field(
        default=80, ge=50, le=100, description="Two inputs this similar (Jaccard, exact) count as one."
    )
    max_task_type_percent: int = Field(
        default=50,
        ge=1,
        le=100,
        description="Largest share of the dataset that one task type makes up; where there are too few types "
        "for that, an equal share for each. Examples without a task type count, but are not limited.",
    )


class Redaction(StrEnum):
    REQUIRED = "Required"
    BEST_EFFORT = "BestEffort"
    DISABLED = "Disabled"


class DatasetFormat(StrEnum):
    """What a line of a dataset is, and so by which method it is trained."""

    SUPERVISED = "Supervised"  # a prompt and its right answer
    PREFERENCE = "Preference"  # a prompt, its right answer, and a wrong one that the agent gave: DPO

    @property
    def examples(self) -> str:
        """What people call the lines of such a dataset."""
        return "pairs" if self is DatasetFormat.PREFERENCE else "examples"


class Curation(Document):
    schedule: str = Field(
        min_length=1, max_length=100, pattern=CRON_PATTERN, description="Cron expression of the curation run."
    )
    time_zone: str | None = Field(
        default=None, min_length=1, max_length=64, description="IANA time zone; the cluster's own if absent."
    )
    thresholds: CurationThresholds = Field(
        default=CurationThresholds(), description="What is good enough to learn from."
    )
    redaction: Redaction = Field(
        default=Redaction.REQUIRED,
        description="Required drops an example whose personal data or secrets could not be scrubbed; "
        "BestEffort keeps it; Disabled does not scrub.",
    )
    holdout_percent: int = Field(
        default=10, ge=0, le=50, description="Share of examples kept out of training, for the evaluation."
    )
    format: DatasetFormat = Field(
        default=DatasetFormat.SUPERVISED,
        description="Supervised teaches right answers. Preference teaches to prefer them to the wrong ones "
        "that the agent gave to the same prompts (DPO); the thresholds then count such pairs.",
    )


class BackendType(StrEnum):
    OPENAI = "OpenAI"
    LORA = "LoRA"


class OpenAIBackend(Document):
    """Any fine-tuning API in OpenAI's shape."""

    endpoint: HTTPEndpoint | None = Field(
        default=None, description="Where to train. Defaults to the agent's own model endpoint."
    )
    learning_rate_multiplier_percent: int | None = Field(
        default=None, ge=1, le=10_000, description="The provider's learning-rate multiplier, in percent."
    )


class AdapterVolume(Document):
    claim_name: ObjectName = Field(description="PersistentVolumeClaim that the model server reads too.")


class LoRABackend(Document):
    """A LoRA adapter, trained in the Job's own pod and loaded into the model server."""

    image: str = Field(default="", max_length=512, description="Trainer image; the operator's own if empty.")
    base_model_path: str = Field(
        default="",
        max_length=512,
        description="Directory or GGUF file of the base model inside the trainer image or a mounted volume; "
        "empty means the small model that the image brings along.",
    )
    adapter_volume: AdapterVolume = Field(description="Where finished adapters are written.")
    adapter_format: Literal["GGUF", "PEFT"] = Field(
        default="GGUF", description="GGUF for llama.cpp, PEFT for vLLM."
    )
    rank: int = Field(default=16, ge=1, le=256, description="Rank of the adapter.")
    alpha: int = Field(default=32, ge=1, le=1024, description="Scale of the adapter (alpha / rank).")
    learning_rate_micros: int = Field(
        default=1000, ge=1, le=1_000_000, description="Learning rate in millionths (1000 is 1e-3)."
    )
    max_sequence_tokens: int = Field(
        default=512, ge=32, le=131_072, description="Examples longer than this are dropped, and counted."
    )


class TrainingBackend(Document):
    model_config = rules(
        Rule("self.type != 'LoRA' || has(self.lora)", "lora is required when type is LoRA", ".lora"),
        Rule("self.type == 'LoRA' || !has(self.lora)", "lora is only for type LoRA", ".lora"),
        Rule("self.type == 'OpenAI' || !has(self.openAI)", "openAI is only for type OpenAI", ".openAI"),
    )

    type: BackendType = Field(description="Which backend trains; its own block holds its settings.")
    open_ai: OpenAIBackend | None = Field(
        default=None,
        alias="openAI",
        description="Settings of the OpenAI backend.",
        json_schema_extra={"nullable": True},  # what server-side apply leaves of a block emptied to {}
    )
    lora: LoRABackend | None = Field(default=None, description="Settings of the LoRA backend.")


class Hyperparameters(Document):
    epochs: int = Field(default=3, ge=1, le=50, description="Passes over the dataset.")
    batch_size: int | None = Field(
        default=None, ge=1, le=1024, description="Examples per step; the backend's own choice if absent."
    )
    seed: int = Field(default=0, ge=0, le=2_147_483_647, description="Seed of the training run.")
    beta_percent: int | None = Field(
        default=None,
        ge=1,
        le=200,
        description="Only with curation.format Preference: how strictly the model stays near its base, in "
        f"percent ({DEFAULT_BETA_PERCENT}, which is beta = 0.1, if absent).",
    )

    @property
    def effective_beta_percent(self) -> int:
        return DEFAULT_BETA_PERCENT if self.beta_percent is None else self.beta_percent


class TrainingThresholds(Document):
    min_new_examples: int = Field(
        default=50, ge=1, le=1_000_000, description="Train only when the dataset grew by this many examples."
    )
    max_tokens: int = Field(
        default=5_000_000,
        ge=1,
        le=1_000_000_000_000,
        description="Never train on more tokens than this (those of the dataset, times epochs).",
    )


class Training(Document):
    schedule: str = Field(
        min_length=1, max_length=100, pattern=CRON_PATTERN, description="Cron expression of the training run."
    )
    time_zone: str | None = Field(
        default=None, min_length=1, max_length=64, description="IANA time zone; the cluster's own if absent."
    )
    backend: TrainingBackend = Field(description="Who trains.")
    hyperparameters: Hyperparameters = Field(
        default=Hyperparameters(), description="Settings that every backend understands."
    )
    suffix: str = Field(
        default="",
        max_length=64,
        pattern=r"^[a-zA-Z0-9._-]*$",
        description="Part of the trained model's name; the agent's name if empty.",
    )
    thresholds: TrainingThresholds = Field(
        default=TrainingThresholds(), description="When a training run is worth its price."
    )
    active_deadline_seconds: int = Field(
        default=86_400, ge=60, le=2_592_000, description="A training run is stopped after this time."
    )

    def hyperparameter_values(self, dataset_format: DatasetFormat) -> dict[str, Any]:
        """All settings that make two training runs on one dataset differ, for the revision's name.

        What only preference training knows is left out for other datasets, so that their names stay.
        """
        block = self.backend.lora if self.backend.type is BackendType.LORA else self.backend.open_ai
        values = block.to_wire() if block is not None else {}
        for placement in ("endpoint", "image", "adapterVolume"):
            values.pop(placement, None)  # where it runs does not change what is learned
        values = self.hyperparameters.to_wire() | values
        values.pop("betaPercent", None)
        if dataset_format is DatasetFormat.PREFERENCE:
            values |= {
                "format": dataset_format.value,
                "betaPercent": self.hyperparameters.effective_beta_percent,
            }
        return values


class SuiteObjective(StrEnum):
    IMPROVE = "Improve"
    NO_REGRESS = "NoRegress"


class Suite(Document):
    name: str = Field(
        min_length=1, max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", description="Unique name."
    )
    config_map_ref: ConfigMapKeyRef | None = Field(
        default=None, description="Validation queries, as JSON Lines. Absent: the dataset's held-out split."
    )
    objective: SuiteObjective = Field(
        default=SuiteObjective.IMPROVE,
        description="Improve: the candidate must be better. NoRegress: it must not be worse.",
    )
    min_delta_bps: int = Field(
        default=0,
        ge=-10_000,
        le=10_000,
        description="Least lead of the candidate over the incumbent, in basis points.",
    )
    confidence_percent: int = Field(
        default=95, ge=50, le=99, description="One-sided confidence of the comparison."
    )
    min_samples: int = Field(
        default=30, ge=1, le=100_000, description="With fewer cases the verdict is Inconclusive."
    )


class OnInconclusive(StrEnum):
    HOLD = "Hold"
    REJECT = "Reject"


class Evaluation(Document):
    suites: tuple[Suite, ...] = Field(
        default=(),
        max_length=MAX_SUITES,
        description="What a candidate must pass. With no suite, the dataset's held-out split is the suite.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    on_inconclusive: OnInconclusive = Field(
        default=OnInconclusive.HOLD,
        description="Hold waits for more evidence; Reject gives the candidate up.",
    )

    @property
    def effective_suites(self) -> tuple[Suite, ...]:
        """The suites that are run: those named, or the held-out split alone."""
        return self.suites or (Suite(name="holdout"),)


class LearningConfig(Document):
    """The document under the key `learning.json` of the agent's ConfigMap."""

    version: Literal[1] = LEARNING_VERSION
    agent: str
    base_model: str
    endpoint: Endpoint
    curation: Curation | None = None
    training: Training | None = None
    evaluation: Evaluation = Evaluation()
