"""PEFT adapters in GGUF: names, alpha, and the order of rows that llama.cpp needs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from safetensors.numpy import save_file

from evolving_agent.training.lora.convert import (
    AttentionHeads,
    UnsupportedModelError,
    attention_heads,
    gguf_tensor,
    interleave_halves,
    peft_to_gguf,
)

HEADS, KEY_HEADS, HEAD_SIZE, RANK = 4, 2, 6, 3
PEFT = "base_model.model.model.layers.7.self_attn.{}_proj.lora_{}.weight"


def rotated_as_transformers_does(vector: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotary position embedding of one head: element i turns together with element i + half."""
    first, second = np.split(vector, 2)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin])


def rotated_as_llama_cpp_does(vector: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """The same for the architecture llama: element 2i turns together with element 2i + 1."""
    even, odd = vector[0::2], vector[1::2]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([even * cos - odd * sin, odd * cos + even * sin], axis=1).reshape(-1)


def test_attention_is_the_same_after_the_rows_changed_places() -> None:
    # Given query and key projections with an adapter's update, and a token at each of two positions
    random = np.random.default_rng(0)
    query_weight = random.normal(size=(HEAD_SIZE, 5))
    key_weight = random.normal(size=(HEAD_SIZE, 5))
    here, there = random.normal(size=5), random.normal(size=5)
    angle = np.array([1.0, 0.1, 0.01])
    # When both are converted
    score = rotated_as_transformers_does(query_weight @ here, 5 * angle) @ rotated_as_transformers_does(
        key_weight @ there, 2 * angle
    )
    converted = rotated_as_llama_cpp_does(
        interleave_halves(query_weight, 1) @ here, 5 * angle
    ) @ rotated_as_llama_cpp_does(interleave_halves(key_weight, 1) @ there, 2 * angle)
    # Then they attend as before
    assert converted == pytest.approx(score)


def test_rows_change_places_within_their_head_only() -> None:
    rows = np.arange(HEADS * HEAD_SIZE).reshape(-1, 1)

    moved = interleave_halves(rows, HEADS).reshape(HEADS, HEAD_SIZE)

    assert moved[0].tolist() == [0, 3, 1, 4, 2, 5]
    assert moved[1].tolist() == [6, 9, 7, 10, 8, 11]


@pytest.mark.parametrize(("module", "heads"), [("q", HEADS), ("k", KEY_HEADS)])
def test_only_the_outputs_of_query_and_key_are_reordered(module: str, heads: int) -> None:
    b = np.random.default_rng(1).normal(size=(heads * HEAD_SIZE, RANK)).astype(np.float32)
    a = np.random.default_rng(2).normal(size=(RANK, 5)).astype(np.float32)
    counts = AttentionHeads(HEADS, KEY_HEADS)

    name_b, moved = gguf_tensor(PEFT.format(module, "B"), b, counts)
    name_a, kept = gguf_tensor(PEFT.format(module, "A"), a, counts)
    _, value = gguf_tensor(PEFT.format("v", "B"), b, counts)

    assert (name_a, name_b) == (f"blk.7.attn_{module}.weight.lora_a", f"blk.7.attn_{module}.weight.lora_b")
    assert np.array_equal(moved, interleave_halves(b, heads))
    assert not np.array_equal(moved, b)
    assert np.array_equal(kept, a)
    assert np.array_equal(value, b)


def test_a_whole_adapter_can_be_read_back(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    shapes = {"q": (HEADS * HEAD_SIZE, 5), "k": (KEY_HEADS * HEAD_SIZE, 5), "v": (KEY_HEADS * HEAD_SIZE, 5)}
    tensors = {
        PEFT.format(module, side): random.normal(
            size=(RANK, inputs) if side == "A" else (outputs, RANK)
        ).astype(np.float32)
        for module, (outputs, inputs) in shapes.items()
        for side in "AB"
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 32}))

    peft_to_gguf(tmp_path, tmp_path / "adapter.gguf", AttentionHeads(HEADS, KEY_HEADS))

    reader = GGUFReader(tmp_path / "adapter.gguf")
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["adapter.type"].contents() == "lora"
    assert reader.fields["adapter.lora.alpha"].contents() == 32
    read = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(read) == 6
    assert np.array_equal(
        read["blk.7.attn_q.weight.lora_b"], interleave_halves(tensors[PEFT.format("q", "B")], HEADS)
    )


def test_a_tensor_without_a_name_in_gguf_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="lm_head"):
        gguf_tensor(
            "base_model.model.lm_head.lora_A.weight", np.zeros((1, 1), np.float32), AttentionHeads(1, 1)
        )


def test_head_counts_come_from_the_base_model(tmp_path: Path) -> None:
    config = {"model_type": "llama", "num_attention_heads": 9, "num_key_value_heads": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert attention_heads(tmp_path) == AttentionHeads(9, 3)

    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(UnsupportedModelError, match=r"'gpt2'.*PEFT"):
        attention_heads(tmp_path)
