"""One pass of a model over a batch of answers: all that the trainer's losses are made of.

What all prompts of a batch begin with, mostly instructions and tools, is computed once per batch instead
of once per example, and the vocabulary's logits only where an answer is learned. Both leave the
gradients as they are, and on short requests they save more than half of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evolving_agent.training.lora.examples import Example, shared_prefix

if TYPE_CHECKING:
    import torch


def answer_losses(model: Any, batch: Sequence[Example]) -> torch.Tensor:
    """Cross-entropy of every token of every answer, one answer after the other: shape (tokens,)."""
    import torch  # noqa: PLC0415 (only the trainer's image has it)

    device = model.device
    prefix = shared_prefix(batch)
    rests = [example.tokens[prefix:-1] for example in batch]  # the last token predicts nothing
    width = max(len(rest) for rest in rests)
    inputs = torch.tensor([[*rest, *[0] * (width - len(rest))] for rest in rests], device=device)
    attended = torch.tensor(
        [[1] * (prefix + len(rest)) + [0] * (width - len(rest)) for rest in rests], device=device
    )
    cache = None
    if prefix > 0:
        shared = torch.tensor([batch[0].tokens[:prefix]], device=device)
        cache = model.model(input_ids=shared, use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(batch))
    hidden = model.model(
        input_ids=inputs, attention_mask=attended, past_key_values=cache, use_cache=cache is not None
    ).last_hidden_state
    rows, columns, targets = [], [], []
    for row, example in enumerate(batch):
        for position, token in enumerate(example.answer, start=len(example.prompt) - prefix - 1):
            rows.append(row)
            columns.append(position)
            targets.append(token)
    logits = model.lm_head(hidden[rows, columns])
    right = torch.tensor(targets, device=device)
    return torch.nn.functional.cross_entropy(logits, right, reduction="none")


def log_probabilities(losses: torch.Tensor, batch: Sequence[Example]) -> torch.Tensor:
    """log p(answer | prompt) of each example, of what `answer_losses` gave: shape (examples,)."""
    import torch  # noqa: PLC0415

    return torch.stack([-of_one.sum() for of_one in losses.split([len(e.answer) for e in batch])])
