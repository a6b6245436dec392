"""Trains a LoRA adapter on the CPU (or on a GPU, where torch finds one), on examples or on pairs."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolving_agent.contract.cpus import usable_cpus
from evolving_agent.training.lora.examples import (
    Example,
    Examples,
    epochs_of_batches,
    read_examples,
    read_pairs,
)
from evolving_agent.training.lora.forward import answer_losses
from evolving_agent.training.lora.preference import PreferenceLoss, Rewards

if TYPE_CHECKING:
    import torch

WARMUP_SHARE = 0.1  # of all steps; then the learning rate falls to zero along a cosine
MAX_GRADIENT_NORM = 1.0
LOSS_WINDOW = 20  # steps over which the reported numbers are averaged


@dataclass(frozen=True)
class Progress:
    """As text it is a line for the log of the Job. Only preference training has rewards."""

    step: int
    steps: int
    loss: float
    seconds: float
    rewards: Rewards | None = None

    def __str__(self) -> str:
        left = self.seconds / self.step * (self.steps - self.step)
        rewards = f"{self.rewards}, " if self.rewards is not None else ""
        return (
            f"step {self.step}/{self.steps} ({self.step * 100 // self.steps} %), loss {self.loss:.4f}, "
            f"{rewards}{self.seconds:.0f} s elapsed, about {left:.0f} s left"
        )


@dataclass(frozen=True)
class TrainedAdapter:
    """`trained_tokens` counts each pass over an example, of a pair over both sides.

    `loss` is the mean of the last steps, and so are margin and accuracy of the rewards (see `Rewards`), which
    only preference training has.
    """

    examples: int
    dropped_too_long: int
    steps: int
    loss: float
    trained_tokens: int
    seconds: float
    reward_margin: float | None = None
    reward_accuracy: float | None = None


class NoExamplesError(ValueError):
    """Every example was dropped."""


def train_adapter(
    examples_path: Path,
    output_dir: Path,
    *,
    base_model: Path,
    rank: int,
    alpha: int,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    max_sequence_tokens: int,
    seed: int,
    progress: Callable[[Progress], None],
    beta: float | None = None,
) -> TrainedAdapter:
    """Writes a PEFT adapter (adapter_config.json, adapter_model.safetensors) into `output_dir`.

    With `beta`, `examples_path` holds a preference dataset, and a batch is so many pairs. `base_model` is a
    GGUF file or a directory in transformers' format. The same arguments give the same adapter on the
    same machine. Raises NoExamplesError, ValueError for a malformed example, and ImportError where
    this is not the trainer's image.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other on few CPUs
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything lies in files: never ask the network
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars are no use in a log
    import torch  # noqa: PLC0415 (only the trainer's image has it)
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    torch.set_num_threads(usable_cpus())
    torch.manual_seed(seed)
    model, tokenizer = _load(base_model)
    read: Callable[..., Examples[Any]] = read_examples if beta is None else read_pairs
    examples = read(
        examples_path,
        lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
        max_sequence_tokens,
    )
    if not examples.kept:
        raise NoExamplesError(
            f"{examples_path} holds no example of at most {max_sequence_tokens} tokens "
            f"({examples.dropped_too_long} are longer)"
        )
    adapted = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    adapted.train()
    loss_of: Callable[[list[Any]], tuple[torch.Tensor, Rewards | None]]
    if beta is None:
        loss_of = functools.partial(_supervised_loss, model)
    else:
        loss_of = PreferenceLoss(model, adapted, examples.kept, beta, batch_size).of
    weights = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0)
    steps = epochs * math.ceil(len(examples.kept) / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_share(step, steps))

    began = time.monotonic()
    losses: list[float] = []
    rewards: list[Rewards] = []
    for batch in epochs_of_batches(examples.kept, batch_size, epochs, seed):
        loss, rewarded = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if rewarded is not None:
            rewards.append(rewarded)
        seconds = time.monotonic() - began
        progress(Progress(len(losses), steps, _recent(losses), seconds, _recent_rewards(rewards)))
    adapted.save_pretrained(output_dir)
    lately = _recent_rewards(rewards)
    return TrainedAdapter(
        examples=len(examples.kept),
        dropped_too_long=examples.dropped_too_long,
        steps=steps,
        loss=_recent(losses),
        trained_tokens=epochs * sum(example.size for example in examples.kept),
        seconds=time.monotonic() - began,
        reward_margin=lately.margin if lately is not None else None,
        reward_accuracy=lately.accuracy if lately is not None else None,
    )


def _load(base_model: Path) -> tuple[Any, Any]:
    """Model in 32-bit floats (what CPUs are fast with) and tokenizer."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    source: dict[str, Any] = {"pretrained_model_name_or_path": base_model}
    if base_model.is_file():
        source = {"pretrained_model_name_or_path": base_model.parent, "gguf_file": base_model.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(**source, local_files_only=True)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _supervised_loss(model: Any, batch: Sequence[Example]) -> tuple[torch.Tensor, None]:
    """Mean cross-entropy over the answers' tokens."""
    return answer_losses(model, batch).mean(), None


def _learning_rate_share(step: int, steps: int) -> float:
    """The share of the full learning rate at a step: up along a line, down along a cosine."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _recent(losses: Sequence[float]) -> float:
    window = losses[-LOSS_WINDOW:]
    return sum(window) / len(window)


def _recent_rewards(rewards: Sequence[Rewards]) -> Rewards | None:
    if not rewards:
        return None
    return Rewards(_recent([step.margin for step in rewards]), _recent([step.accuracy for step in rewards]))
