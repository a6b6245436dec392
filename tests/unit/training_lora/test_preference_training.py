"""Preference training for real, on a tiny model. Needs the trainer's libraries (extra `trainer`)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evolving_agent.contract.learning import AdapterVolume, DatasetFormat, Hyperparameters, LoRABackend
from evolving_agent.training.lora import train
from evolving_agent.training.lora.backend import LoRAResult, train_and_publish
from evolving_agent.training.lora.examples import Example, Pair, read_pairs
from evolving_agent.training.lora.forward import answer_losses, log_probabilities
from evolving_agent.training.lora.preference import SUPERVISED_WEIGHT, PreferenceLoss
from support.tiny_model import save_tiny_model

torch = pytest.importorskip("torch", reason="only the trainer has torch")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers about itself

QUESTIONS = [
    "my card is bent",
    "lend me money",
    "where is my wire",
    "a new card please",
    "borrow for a house",
]


def line(question: str) -> dict[str, Any]:
    return {
        "input": {
            "messages": [{"role": "system", "content": "Help."}, {"role": "user", "content": question}]
        },
        "preferred_output": [{"role": "assistant", "content": "Yes, at once."}],
        "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line(q)) + "\n" for q in QUESTIONS))
    (tmp_path / "adapters").mkdir()
    return tmp_path


def trained(dataset: Path, base: Path, model_id: str = "v1", **hyperparameters: int) -> LoRAResult:
    return train_and_publish(
        dataset,
        work_dir=dataset / "work" / model_id,
        adapters=dataset / "adapters",
        model_id=model_id,
        settings=LoRABackend(
            base_model_path=str(base),
            adapter_volume=AdapterVolume(claim_name="adapters"),
            adapter_format="PEFT",
            rank=4,
            learning_rate_micros=10_000,
        ),
        hyperparameters=Hyperparameters(**({"epochs": 10} | hyperparameters)),
        dataset_format=DatasetFormat.PREFERENCE,
        endpoint=None,
        on_progress=lambda progress: None,
    )


def pairs_of(dataset: Path, base: Path) -> Sequence[Pair]:
    _, tokenizer = train._load(base)
    return read_pairs(
        dataset / "train.jsonl", lambda text: tokenizer(text, add_special_tokens=False)["input_ids"], 512
    ).kept


def slow_log_probability(model: Any, example: Example) -> float:
    """By the definition: the answer's tokens, one by one, with nothing shared and nothing batched."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([example.tokens])).logits[0].log_softmax(-1)
    start = len(example.prompt)
    return sum(float(logits[start + n - 1, token]) for n, token in enumerate(example.answer))


def margins(model: Any, pairs: Sequence[Pair]) -> list[float]:
    """How much likelier the preferred answer is than the other: log-probabilities apart."""
    return [slow_log_probability(model, p.preferred) - slow_log_probability(model, p.rejected) for p in pairs]


def test_the_preferred_answers_become_likelier_and_the_others_less(dataset: Path, base: Path) -> None:
    pairs = pairs_of(dataset, base)
    before, _ = train._load(base)

    result = trained(dataset, base)

    from peft import PeftModel  # noqa: PLC0415

    after = PeftModel.from_pretrained(train._load(base)[0], dataset / "adapters" / "v1")
    gains = [now - then for now, then in zip(margins(after, pairs), margins(before, pairs), strict=True)]
    assert min(gains) > 5
    for pair in pairs:
        assert slow_log_probability(after, pair.preferred) > slow_log_probability(before, pair.preferred)
        assert slow_log_probability(after, pair.rejected) < slow_log_probability(before, pair.rejected)
    # the run's own numbers say so too, and both sides are counted
    assert result.reward_margin is not None
    assert result.reward_margin > 0
    assert result.reward_accuracy is not None
    assert result.reward_accuracy > 0.9  # before the first step, all rewards are 0
    assert result.trained_tokens == 10 * sum(pair.size for pair in pairs)
    told = json.loads((dataset / "adapters" / "v1" / "training.json").read_text())
    assert (told["reward_margin"], told["examples"]) == (result.reward_margin, len(QUESTIONS))


def test_the_loss_is_the_formula_and_the_reference_stays_the_base(dataset: Path, base: Path) -> None:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    pairs = pairs_of(dataset, base)
    reference, _ = train._load(base)
    model, _ = train._load(base)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():  # an adapter that does something
            if "lora_B" in name:
                weight.normal_(std=0.3)
    beta = 0.25

    loss, rewards = PreferenceLoss(model, adapted, pairs, beta, batch_size=2).of(pairs)

    leads = [
        beta * (now - then)
        for now, then in zip(margins(adapted, pairs), margins(reference, pairs), strict=True)
    ]
    assert max(abs(lead) for lead in leads) > 0.05
    preferred = [slow_log_probability(adapted, pair.preferred) for pair in pairs]
    supervised = -sum(preferred) / sum(len(pair.preferred.answer) for pair in pairs)
    formula = sum(math.log1p(math.exp(-lead)) for lead in leads) / len(leads)
    assert loss.item() == pytest.approx(formula + SUPERVISED_WEIGHT * supervised, abs=1e-4)
    assert rewards.margin == pytest.approx(sum(leads) / len(leads), abs=1e-4)
    assert rewards.accuracy == sum(lead > 0 for lead in leads) / len(leads)


def test_a_batch_with_a_shared_prefix_gives_the_same_probabilities_as_one_by_one(
    dataset: Path, base: Path
) -> None:
    model, _ = train._load(base)
    batch = [side for pair in pairs_of(dataset, base) for side in (pair.preferred, pair.rejected)]
    with torch.no_grad():
        together = log_probabilities(answer_losses(model, batch), batch).tolist()
    assert together == pytest.approx([slow_log_probability(model, example) for example in batch], abs=1e-3)


def test_the_same_pairs_give_the_same_adapter_and_another_beta_another_one(dataset: Path, base: Path) -> None:
    once, again, other = (
        trained(dataset, base, name, epochs=2, beta_percent=beta)
        for name, beta in (("v1", 10), ("v2", 10), ("v3", 100))
    )
    weights = [
        (dataset / "adapters" / name / "adapter_model.safetensors").read_bytes()
        for name in ("v1", "v2", "v3")
    ]
    assert weights[0] == weights[1] != weights[2]
    assert once.loss == again.loss != other.loss
