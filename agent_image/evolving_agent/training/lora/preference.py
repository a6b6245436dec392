"""Direct preference optimization, the loss for pairs.

The formula is equation 7 of Rafailov, Sharma, Mitchell, Ermon, Manning, Finn: Direct Preference
Optimization: Your Language Model is Secretly a Reward Model (NeurIPS 2023, arXiv:2305.18290):

    loss = -log sigmoid(r(x, preferred) - r(x, rejected)),  r(x, y) = beta * log(p(y|x) / p_reference(y|x))

The reference is the base model, which is the trained one with its adapter switched off: no second model is
held in memory, and its log-probabilities do not change, so that they are computed once per pair.
A supervised term is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evolving_agent.training.lora.examples import Example, Pair
from evolving_agent.training.lora.forward import answer_losses, log_probabilities

if TYPE_CHECKING:
    import torch

# Of the mean cross-entropy of the preferred answers, which is added: DPO alone lets both answers become
# unlikely, as long as the wrong one loses more, and on little data it does (ADR 21).
SUPERVISED_WEIGHT = 1.0


@dataclass(frozen=True)
class Rewards:
    """Of one step, before it is taken: the mean of r(preferred) - r(rejected), and the share above zero."""

    margin: float
    accuracy: float

    def __str__(self) -> str:
        return f"reward margin {self.margin:.3f}, {self.accuracy:.0%} preferred rightly"


class PreferenceLoss:
    """The loss over batches of pairs. `adapted` is peft's model around `model`."""

    def __init__(self, model: Any, adapted: Any, pairs: Sequence[Pair], beta: float, batch_size: int) -> None:
        """Asks the reference about all pairs, a batch at a time."""
        import torch  # noqa: PLC0415 (only the trainer's image has it)

        self._model = model
        self._beta = beta
        self._reference: dict[Pair, float] = {}
        with torch.no_grad(), adapted.disable_adapter():
            for start in range(0, len(pairs), batch_size):
                batch = pairs[start : start + batch_size]
                sides = _sides(batch)
                said = log_probabilities(answer_losses(model, sides), sides)
                leads = said[: len(batch)] - said[len(batch) :]
                self._reference.update(zip(batch, leads.tolist(), strict=True))

    def of(self, batch: Sequence[Pair]) -> tuple[torch.Tensor, Rewards]:
        """The mean loss of a batch, supervised term included, and what the model thinks of its pairs."""
        import torch  # noqa: PLC0415

        sides = _sides(batch)
        losses = answer_losses(self._model, sides)
        said = log_probabilities(losses, sides)
        leads = said[: len(batch)] - said[len(batch) :]
        reference = torch.tensor([self._reference[pair] for pair in batch], device=leads.device)
        margins = self._beta * (leads - reference)
        preferred = losses[: sum(len(pair.preferred.answer) for pair in batch)].mean()
        loss = -torch.nn.functional.logsigmoid(margins).mean() + SUPERVISED_WEIGHT * preferred
        rewards = Rewards(margins.mean().item(), (margins > 0).float().mean().item())
        return loss, rewards


def _sides(pairs: Sequence[Pair]) -> list[Example]:
    """All preferred sides, then all rejected ones: one batch, for one shared prefix."""
    return [pair.preferred for pair in pairs] + [pair.rejected for pair in pairs]
