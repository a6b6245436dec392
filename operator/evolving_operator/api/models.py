"""The API: `EvolvingAgent` and `AgentRevision`. The CRDs in `crds/` are generated from these models."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

from pydantic import Field
from pydantic.config import JsonDict

from evolving_agent.contract.base import Document, Rule, rules
from evolving_agent.contract.config import (
    Limits,
    MemoryType,
    Pricing,
    Reflection,
    ServingEndpoint,
    Sessions,
    Specialist,
    ToolUseBehavior,
)
from evolving_agent.contract.learning import MAX_SUITES, Curation, Evaluation, Training
from evolving_agent.contract.refs import HTTP_URL, ConfigMapKeyRef, DataKey, ObjectName, SecretKeyRef
from evolving_agent.contract.tools import Tool
from evolving_operator.api.network_policy import NetworkPolicy
from evolving_operator.api.pod_template import PodTemplate

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]  # RFC 3339, UTC, seconds


MAX_INSTRUCTIONS = 65_536  # characters
MAX_CONDITIONS = 64  # the operator's, and those of others

# --- EvolvingAgent.spec ---------------------------------------------------------------------------


class Model(Document):
    base: str = Field(min_length=1, max_length=256, description="The model before any training.")
    endpoint: ServingEndpoint = Field(default=ServingEndpoint(), description="Where the model is served.")
    max_output_tokens: int | None = Field(
        default=None, ge=1, le=131_072, description="Upper bound of tokens of one answer of the model."
    )
    temperature_percent: int | None = Field(
        default=None,
        ge=0,
        le=200,
        description="Sampling temperature in hundredths; the server's default if absent.",
    )
    pricing: Pricing | None = Field(
        default=None, description="What the model's tokens cost: pods then count what they spend."
    )
    trained_pricing: Pricing | None = Field(
        default=None, description="The same for models trained from it; as the base model if absent."
    )

    def pricing_of(self, model_id: str) -> Pricing | None:
        return self.pricing if model_id == self.base else self.trained_pricing or self.pricing


class ConnectionSecretRef(SecretKeyRef):
    """The Secret that says how a database is reached, and by whom."""

    key: DataKey = Field(
        default="uri",
        description="Key within the Secret: postgresql://user:password@host:5432/database?sslmode=verify-full.",
    )


class AgentMemory(Document):
    model_config = rules(
        Rule(
            "self.type != 'PostgreSQL' || has(self.connectionSecretRef)",
            "connectionSecretRef is required when type is PostgreSQL: it names the Secret with the "
            "database's URI",
            ".connectionSecretRef",
        ),
        Rule(
            "self.type == 'PostgreSQL' || !has(self.connectionSecretRef)",
            "connectionSecretRef is only for type PostgreSQL",
            ".connectionSecretRef",
        ),
    )

    type: MemoryType = Field(
        default=MemoryType.SQLITE,
        description="SQLite keeps it in the agent's volume, which must be ReadWriteOnce; PostgreSQL in a "
        "database, for any storage and pods on any node; Disabled keeps none. What is remembered does not "
        "move with a change of type.",
    )
    connection_secret_ref: ConnectionSecretRef | None = Field(
        default=None,
        description="Where the PostgreSQL database is. Several agents may share it: each has a schema of its "
        "own. What is in it is not deleted with the agent.",
    )


class InstructionsFrom(Document):
    config_map_key_ref: ConfigMapKeyRef = Field(description="A ConfigMap in the agent's namespace.")


class Agent(Document):
    model_config = rules(
        Rule(
            "has(self.instructions) != has(self.instructionsFrom)",
            "set instructions or instructionsFrom, and only one of them",
            ".instructions",
        )
    )

    replicas: int = Field(default=1, ge=0, le=1000, description="Number of serving pods.")
    image: str = Field(default="", max_length=512, description="Agent image; the operator's own if empty.")
    instructions: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_INSTRUCTIONS,
        description="What the agent is and does: its system prompt.",
    )
    instructions_from: InstructionsFrom | None = Field(
        default=None,
        description="Where the instructions are, in place of the text itself. They are read again every 30 "
        "seconds; a change rolls out as one of the spec does.",
    )
    tools: tuple[Tool, ...] = Field(
        default=(),
        max_length=64,
        description="What the agent can call.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    specialists: tuple[Specialist, ...] = Field(
        default=(),
        max_length=16,
        description="Agents to which this one hands a conversation over, or that it asks.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    tool_use_behavior: ToolUseBehavior = Field(
        default=ToolUseBehavior.RUN_LLM_AGAIN,
        description="RunLLMAgain lets the model word the answer after a tool call; StopOnFirstTool answers "
        "with the tool's result.",
    )
    memory: AgentMemory = Field(default=AgentMemory(), description="Long-term memory.")
    sessions: Sessions = Field(
        default=Sessions(),
        description="Conversations that the agent keeps for its clients. They lie beside the memory; without "
        "memory there are none.",
    )
    limits: Limits = Field(default=Limits(), description="What one pod takes on.")
    reflection: Reflection = Field(default=Reflection(), description="How the agent reflects on its runs.")
    pod_template: PodTemplate = Field(
        default=PodTemplate(), description="What users add to the agent's pods."
    )
    network_policy: NetworkPolicy | None = Field(
        default=None,
        description="A NetworkPolicy for the agent's pods and those of its Jobs: nothing but the serving "
        "port can be reached. Absent: none is made.",
    )


class AccessMode(StrEnum):
    READ_WRITE_ONCE = "ReadWriteOnce"
    READ_WRITE_MANY = "ReadWriteMany"


class StorageVolume(Document):
    """What a PersistentVolumeClaim lets nobody change is refused here, by name, instead of failing later."""

    model_config = rules(
        Rule(
            # Sets are equal in any order; that of a claim's modes cannot be changed either.
            "self.accessModes == oldSelf.accessModes && self.accessModes[0] == oldSelf.accessModes[0]",
            "accessModes is immutable: create another agent for another kind of volume",
            ".accessModes",
        ),
        Rule(
            "has(self.storageClassName) == has(oldSelf.storageClassName) "
            "&& (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
            "storageClassName is immutable: create another agent for another storage class",
            ".storageClassName",
        ),
    )

    size: str = Field(
        default="10Gi",
        pattern=r"^[1-9][0-9]*(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$",
        max_length=20,
        description="Requested size. A volume can grow, where its storage class lets it, but not shrink.",
    )
    storage_class_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$",
        description="Storage class; the cluster's default if absent.",
    )
    access_modes: tuple[AccessMode, ...] = Field(
        default=(AccessMode.READ_WRITE_ONCE,),
        min_length=1,
        max_length=2,
        description="Access modes of the volume.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


_DEFAULT_VOLUME = StorageVolume()


class SecretRef(Document):
    name: ObjectName = Field(description="Name of a Secret in the agent's namespace.")


class ObjectStorage(Document):
    """An S3 bucket. Experience is buffered on the pods' own disks and is in the bucket seconds later."""

    model_config = rules(
        Rule(
            "self.bucket == oldSelf.bucket && has(self.prefix) == has(oldSelf.prefix) "
            "&& (!has(self.prefix) || self.prefix == oldSelf.prefix)",
            "bucket and prefix are immutable: create another agent for another place",
            ".bucket",
        ),
    )

    bucket: str = Field(
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", max_length=63, description="Name of the bucket."
    )
    prefix: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9!_.*()-]+(/[A-Za-z0-9!_.*()-]+)*$",
        max_length=512,
        description="Folder within the bucket; the agent's own is <prefix>/<namespace>/<name>.",
    )
    endpoint: str | None = Field(
        default=None,
        pattern=HTTP_URL,
        max_length=2048,
        description="URL of an S3 server; AWS's own if absent.",
    )
    region: str = Field(default="us-east-1", min_length=1, max_length=64, description="Region of the bucket.")
    credentials_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Absent: what the "
        "pods' environment or their node's identity gives.",
    )


class Storage(Document):
    """Where experience, datasets and the state of runs are kept: a volume, or an object store."""

    model_config = rules(
        Rule(
            "!has(self.volume) || !has(self.objectStore)",
            "choose volume or objectStore, not both",
            ".objectStore",
        ),
        Rule(
            "has(self.objectStore) == has(oldSelf.objectStore)",
            "an agent's experience does not move between a volume and an object store: create another agent",
            ".objectStore",
        ),
        Rule(
            "has(self.volume) == has(oldSelf.volume) || [self, oldSelf].all(storage, !has(storage.volume) "
            "|| (storage.volume.accessModes == ['ReadWriteOnce'] && !has(storage.volume.storageClassName)))",
            "of a volume that was made by default, only the size can be changed",
            ".volume",
        ),
    )

    volume: StorageVolume | None = Field(
        default=None, description="A PersistentVolumeClaim: the default, where there is no objectStore."
    )
    object_store: ObjectStorage | None = Field(
        default=None,
        description="A bucket of an S3-compatible object store. SQLite memory is not kept there.",
    )

    @property
    def claim(self) -> StorageVolume | None:
        """The volume as it is asked for; None where there is an object store instead."""
        return None if self.object_store is not None else self.volume or _DEFAULT_VOLUME


class AgentTraining(Training):
    model_config = rules(
        Rule(  # no pattern: what is stored stays readable
            "!has(self.suffix) || self.suffix == '' || self.suffix.matches('^[a-zA-Z0-9]')",
            "suffix begins with a letter or a digit, as the name of an adapter does",
            ".suffix",
        ),
        Rule(
            "!has(self.podTemplate) || !has(self.podTemplate.spec.containers) "
            "|| self.podTemplate.spec.containers.all(container, container.name == 'job')",
            "podTemplate.spec.containers: the one container of a training Job is named job, and no other "
            "runs beside it",
            ".podTemplate.spec.containers",
        ),
    )

    pod_template: PodTemplate | None = Field(
        default=None,
        description="What users add to the pods of training Jobs (accelerators, tolerations, memory); "
        "agent.podTemplate if absent. The container's name is job.",
    )

    @property
    def for_jobs(self) -> Training:
        """Without what the Job itself has no use for."""
        return Training.part_of(self)


class Shadow(Document):
    percent: int = Field(
        default=10, ge=1, le=100, description="Share of live requests the candidate sees too."
    )
    min_requests: int = Field(
        default=50, ge=1, le=1_000_000, description="It goes on once it has answered so many unseen."
    )
    timeout_seconds: int = Field(
        default=3600,
        ge=1,
        le=604_800,
        description="After this time it goes on with what it has seen, however little.",
    )


class CanaryStep(Document):
    percent: int = Field(
        ge=1, le=99, description="Share of the conversations that the candidate answers in this step."
    )
    pause_seconds: int = Field(
        default=300, ge=1, le=604_800, description="How long the step lasts before the next one."
    )


class Canary(Document):
    model_config = rules(
        Rule(
            "self.steps.map(step, step.percent).isSorted() "
            "&& self.steps.all(step, self.steps.exists_one(other, other.percent == step.percent))",
            "steps: each percent must be larger than the one before",
            ".steps",
        )
    )

    steps: tuple[CanaryStep, ...] = Field(
        min_length=1,
        max_length=10,
        description="One after the other; after the last one all pods are replaced.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class Rollback(Document):
    max_score_drop_bps: int = Field(
        default=500,
        ge=0,
        le=10_000,
        description="Largest drop of a suite's score below the verdict's, in basis points, that the served "
        "revision's validation may show.",
    )
    max_error_percent: int = Field(
        default=5,
        ge=0,
        le=100,
        description="Largest share of live requests that may fail. A candidate on trial that fails more "
        "often, and more often than what is served beside it, is given up; a promoted revision goes back. "
        "100 turns it off.",
    )
    min_requests: int = Field(
        default=30,
        ge=1,
        le=1_000_000,
        description="With fewer live requests than this, their errors decide nothing.",
    )
    window_seconds: int = Field(
        default=86_400,
        ge=0,
        le=2_592_000,
        description="How long after its promotion a revision goes back because of failing requests.",
    )


class Approval(StrEnum):
    AUTO = "Auto"
    MANUAL = "Manual"


class Rollout(Document):
    approval: Approval = Field(
        default=Approval.AUTO, description="Manual waits for the revision's decision: Approved."
    )
    shadow: Shadow | None = Field(
        default=None, description="Let the candidate answer live requests unseen before it is promoted."
    )
    canary: Canary | None = Field(
        default=None,
        description="Let the candidate answer a growing share of the conversations before it is promoted.",
    )
    bake_seconds: int = Field(
        default=600, ge=0, le=604_800, description="Time between promotion and its validation's last word."
    )
    progress_deadline_seconds: int = Field(
        default=600, ge=10, le=86_400, description="A rolling restart that takes longer goes back."
    )
    rollback: Rollback = Field(default=Rollback(), description="When a promoted revision goes back.")
    pin: str = Field(
        default="",
        max_length=253,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$",
        description="Name of a kept revision: serve that one, whatever was learned since.",
    )


class DeletionPolicy(StrEnum):
    RETAIN = "Retain"
    DELETE = "Delete"


class EvolvingAgentSpec(Document):
    model_config = rules(
        Rule(
            "self.agent.memory.type != 'SQLite' "
            "|| !has(self.storage.volume) "
            "|| !self.storage.volume.accessModes.exists(mode, mode == 'ReadWriteMany')",
            "agent.memory.type: SQLite needs a volume that is ReadWriteOnce (set storage.volume.accessModes "
            "to [ReadWriteOnce], or agent.memory.type to PostgreSQL or Disabled)",
            ".agent.memory.type",
        ),
        Rule(
            "self.agent.memory.type != 'SQLite' || !has(self.storage.objectStore)",
            "agent.memory.type: SQLite needs a volume, and storage is an object store (set agent.memory.type "
            "to PostgreSQL or Disabled)",
            ".agent.memory.type",
        ),
        Rule(
            "!has(self.training) || !has(self.training.hyperparameters.betaPercent) "
            "|| (has(self.curation) && self.curation.format == 'Preference')",
            "training.hyperparameters.betaPercent is only for curation.format Preference",
            ".training.hyperparameters.betaPercent",
        ),
    )

    suspend: bool = Field(default=False, description="Stops learning; the agent keeps serving.")
    model: Model = Field(description="The model that the agent starts from.")
    agent: Agent = Field(description="What the agent is and how it runs.")
    storage: Storage = Field(default=Storage(), description="Where experience is kept.")
    curation: Curation | None = Field(
        default=None, description="Turns experience into a dataset. Absent: nothing is curated."
    )
    training: AgentTraining | None = Field(
        default=None, description="Turns a dataset into a candidate. Absent: nothing is trained."
    )
    evaluation: Evaluation = Field(default=Evaluation(), description="How a candidate is proven.")
    rollout: Rollout = Field(default=Rollout(), description="How a proven candidate goes live, and back.")
    revision_history_limit: int = Field(
        default=10, ge=0, le=1000, description="Revisions kept beside active, previous and candidate."
    )
    deletion_policy: DeletionPolicy = Field(
        default=DeletionPolicy.RETAIN,
        description="What becomes of the volume, and of the jobs, models and files at a training provider, "
        "when the agent is deleted.",
    )


# --- EvolvingAgent.status -------------------------------------------------------------------------


def _status_list(key: str, longest: int) -> JsonDict:
    """The bound is the API server's: the operator reads what is longer all the same."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key], "maxItems": longest}


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Document):
    """metav1.Condition."""

    type: str = Field(max_length=316, description="What the condition is about.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: str = Field(max_length=1024, description="Why, in CamelCase, for programs.")
    message: str = Field(default="", max_length=32_768, description="Why, in words, for people.")
    last_transition_time: Timestamp = Field(description="When status last changed.")
    observed_generation: int | None = Field(
        default=None, description="Generation of the spec that the condition speaks about."
    )


class RevisionRef(Document):
    revision: str = Field(description="Name of the AgentRevision.")
    model_id: str = Field(alias="modelID", description="The model that it serves.")
    since: Timestamp = Field(description="When it came into this place.")


class DatasetStatus(Document):
    version: str = Field(description="Name of the dataset in the store.")
    examples: int = Field(description="Number of training examples.")
    digest: str = Field(description="Digest of its content.")


class RunState(StrEnum):
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    SKIPPED = "Skipped"
    FAILED = "Failed"


class RunStatus(Document):
    """The latest run of a Job that was taken note of; an older one is never taken in again."""

    job: str = Field(description="Name of the Kubernetes Job.")
    state: RunState = Field(description="Running, Succeeded, Skipped or Failed.")
    reason: str = Field(default="", description="Why it ended so, in CamelCase.")
    message: str = Field(default="", description="Why it ended so, in words.")
    since: Timestamp = Field(description="When it came into this state.")
    finished: Timestamp | None = Field(
        default=None, description="When the latest run that ended did so: what ended before is not taken in."
    )


class TrainingStatus(RunStatus):
    job_id: str | None = Field(default=None, alias="jobID", description="The backend's own job.")
    revision: str | None = Field(
        default=None, description="Revision of the model that was trained last: kept, whatever became of it."
    )


class EvaluationStatus(Document):
    """Which evaluation of the candidate counts. A repeated one has a new attempt, hence a new Job."""

    revision: str = Field(description="The candidate.")
    attempt: int = Field(default=0, ge=0, description="0 for the first evaluation.")
    errors: int = Field(default=0, ge=0, description="Attempts in a row that measured nothing.")
    dataset_version: str | None = Field(default=None, description="Whose held-out split is the suite.")
    retry_at: Timestamp | None = Field(default=None, description="Not started again before this time.")


class VerdictResult(StrEnum):
    PASSED = "Passed"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"


class SuiteNumbers(Document):
    """What a comparison measured; numbers in basis points."""

    result: VerdictResult = Field(description="Passed, Failed, Inconclusive or Error.")
    baseline: int | None = Field(default=None, description="Mean score of the incumbent, in basis points.")
    candidate: int | None = Field(default=None, description="Mean score of the candidate, in basis points.")
    delta_bps: int | None = Field(default=None, description="Candidate minus baseline.")
    lower_bps: int | None = Field(
        default=None, description="One-sided lower bound of the delta, at the suite's confidence."
    )
    samples: int = Field(default=0, description="Number of cases that both were asked.")


class SuiteVerdict(SuiteNumbers):
    """One suite's part of a verdict."""

    suite: str = Field(max_length=63, description="Name of the suite.")
    cases: str | None = Field(
        default=None, description="ConfigMap and key of its cases; empty for the dataset's held-out part."
    )
    reason: str = Field(description="Why, in CamelCase, for programs.")
    message: str = Field(default="", description="Why, in words, for people.")


class VerdictStatus(SuiteNumbers):
    """The verdict on the latest candidate: its weakest suite's numbers."""

    revision: str = Field(default="", description="The candidate.")


class RolloutStep(StrEnum):
    SHADOW = "Shadow"
    CANARY = "Canary"
    RESTART = "Restart"
    BAKE = "Bake"
    DONE = "Done"
    ROLLED_BACK = "RolledBack"


class RolloutStatus(Document):
    """Where a revision's way to the users stands; written by the operator only."""

    revision: str = Field(description="The revision that is on its way.")
    step: RolloutStep = Field(
        description="Shadow (answers unseen), Canary (answers a share), Restart (pods are replaced), Bake "
        "(validated and watched), Done, or RolledBack."
    )
    percent: int | None = Field(default=None, description="The candidate's share in a shadow or a canary.")
    since: Timestamp = Field(description="When this step began.")
    paused_at: Timestamp | None = Field(
        default=None,
        description="Since when no pod serves, in a shadow, a canary or a bake: its time stands still.",
    )
    paused_seconds: int | None = Field(
        default=None, description="How long its time has stood still before, since the step began."
    )
    template: str | None = Field(
        default=None,
        description="Hash of the pod template that the step is about: when the spec changes it, the step's "
        "time counts anew.",
    )
    reason: str = Field(default="", description="Why it is in this step, in CamelCase.")
    message: str = Field(default="", description="Why it is in this step, in words.")
    decided_generation: int | None = Field(
        default=None,
        description="Generation of the revision's spec when it was given up or taken back: an approval until "
        "then counts no more.",
    )


class EvolvingAgentStatus(Document):
    observed_generation: int | None = Field(
        default=None, description="Generation of the spec that this status speaks about."
    )
    base: str | None = Field(
        default=None, description="Revision of the base model that was last taken up from the spec."
    )
    active: RevisionRef | None = Field(default=None, description="What is served.")
    previous: RevisionRef | None = Field(default=None, description="What a rollback returns to.")
    candidate: RevisionRef | None = Field(default=None, description="What is being proven.")
    evaluation: EvaluationStatus | None = Field(default=None, description="The candidate's evaluation.")
    rollout: RolloutStatus | None = Field(default=None, description="The latest rollout of a revision.")
    promotion: RolloutStatus | None = Field(
        default=None,
        description="How what is served came to its users, while rollout tells of a candidate.",
    )
    dataset: DatasetStatus | None = Field(default=None, description="The newest dataset.")
    curation: RunStatus | None = Field(default=None, description="The latest curation run.")
    training: TrainingStatus | None = Field(default=None, description="The latest training run.")
    last_verdict: VerdictStatus | None = Field(default=None, description="The newest verdict.")
    last_run: str | None = Field(default=None, description="The run annotation that was last acted upon.")
    replicas: int | None = Field(default=None, description="Serving pods.")
    ready_replicas: int | None = Field(default=None, description="Serving pods that are ready.")
    selector: str | None = Field(default=None, description="Label selector of the serving pods, for /scale.")
    next_curation_time: Timestamp | None = Field(default=None, description="When the next curation starts.")
    next_training_time: Timestamp | None = Field(default=None, description="When the next training starts.")
    conditions: tuple[Condition, ...] = Field(
        default=(),
        description="Ready, Progressing, Degraded, DatasetReady, Trained, Evaluated and Promoted.",
        json_schema_extra=_status_list("type", MAX_CONDITIONS),
    )


# --- AgentRevision --------------------------------------------------------------------------------


class Decision(StrEnum):
    AUTO = "Auto"
    APPROVED = "Approved"
    REJECTED = "Rejected"


class AgentRef(Document):
    name: ObjectName = Field(description="Name of the EvolvingAgent.")


class RevisionDataset(Document):
    version: str = Field(max_length=253, description="Name of the dataset in the store.")
    digest: str = Field(max_length=128, description="Digest of its content.")
    examples: int = Field(ge=0, description="Number of training examples.")


class RevisionTraining(Document):
    backend: str = Field(max_length=64, description="OpenAI or LoRA.")
    job_id: str | None = Field(
        default=None, alias="jobID", max_length=256, description="The backend's own name of the training job."
    )


def _immutable(*fields: str) -> Iterator[Rule]:
    for field in fields:
        yield Rule(
            f"has(self.{field}) == has(oldSelf.{field}) "
            f"&& (!has(self.{field}) || self.{field} == oldSelf.{field})",
            f"{field} is immutable: only decision can be changed",
            f".{field}",
        )


class AgentRevisionSpec(Document):
    model_config = rules(*_immutable("agentRef", "modelID", "base", "dataset", "training"))

    agent_ref: AgentRef = Field(description="The agent whose revision this is.")
    model_id: str = Field(alias="modelID", min_length=1, max_length=256, description="The model it serves.")
    base: str = Field(min_length=1, max_length=256, description="The model it was trained from.")
    dataset: RevisionDataset | None = Field(default=None, description="What it learned from.")
    training: RevisionTraining | None = Field(default=None, description="Who trained it.")
    decision: Decision = Field(
        default=Decision.AUTO, description="A person's word on this revision: the one mutable field."
    )


class RevisionState(StrEnum):
    ACTIVE = "Active"
    PREVIOUS = "Previous"
    CANDIDATE = "Candidate"
    WAITING = "Waiting"
    REJECTED = "Rejected"
    ROLLED_BACK = "RolledBack"
    RETIRED = "Retired"


class AgentRevisionStatus(Document):
    state: RevisionState | None = Field(
        default=None,
        description="Active, Previous, Candidate, Waiting (to be the candidate), Rejected, RolledBack or "
        "Retired.",
    )
    result: VerdictResult | None = Field(default=None, description="The verdict over all suites.")
    delta_bps: int | None = Field(default=None, description="Gain over the incumbent, of the weakest suite.")
    attempt: int | None = Field(default=None, description="Which evaluation the verdict is of.")
    dataset_version: str | None = Field(
        default=None, description="Whose held-out split the verdict is about, where a suite is that."
    )
    incumbent: str | None = Field(
        default=None,
        description="The revision that the verdict compares it with: where another one is served, it is "
        "evaluated anew.",
    )
    asked: str | None = Field(
        default=None,
        description="Digest of the suites that the verdict is about: with others, it is evaluated anew.",
    )
    verdicts: tuple[SuiteVerdict, ...] = Field(
        default=(),
        description="The verdict of each suite.",
        json_schema_extra=_status_list("suite", MAX_SUITES),
    )
    promoted_at: Timestamp | None = Field(default=None, description="When it first served all users.")
    proven_at: Timestamp | None = Field(
        default=None,
        description="When it had held its own: the rollout that brought it to all users had ended.",
    )
    rolled_back_at: Timestamp | None = Field(default=None, description="When it was taken back.")
    rollback_reason: str | None = Field(default=None, description="Why it was taken back.")
    decided_generation: int | None = Field(
        default=None,
        description="Generation of the spec whose decision was acted upon: only a newer approval counts.",
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        description="Evaluated, Approved and Active.",
        json_schema_extra=_status_list("type", MAX_CONDITIONS),
    )


Agent.model_rebuild()
EvolvingAgentSpec.model_rebuild()
