"""A PEFT adapter as a GGUF adapter, for llama.cpp. Architecture: Llama."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

ARCHITECTURE = "llama"
_PEFT_TENSOR = re.compile(r".*\.layers\.(?P<layer>\d+)\.(?P<module>\w+\.\w+)\.lora_(?P<side>[AB])\.weight")
_GGUF_MODULE = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class UnsupportedModelError(ValueError):
    """A base model or an adapter that has no form as a GGUF adapter of the Llama architecture."""


@dataclass(frozen=True)
class AttentionHeads:
    query: int
    key: int


def attention_heads(base_model: Path) -> AttentionHeads:
    """Head counts of the base model, a GGUF file or a directory with config.json."""
    if base_model.is_dir():
        config = json.loads((base_model / "config.json").read_text(encoding="utf-8"))
        architecture, query = config["model_type"], config["num_attention_heads"]
        key = config.get("num_key_value_heads", query)
    else:
        from gguf import GGUFReader  # noqa: PLC0415 (only the trainer's image has it)

        fields = GGUFReader(base_model).fields
        architecture = fields["general.architecture"].contents()
        query = key = 0
        if architecture == ARCHITECTURE:
            query = fields["llama.attention.head_count"].contents()
            key = fields["llama.attention.head_count_kv"].contents()
    if architecture != ARCHITECTURE:
        raise UnsupportedModelError(
            f"{base_model} is of architecture {architecture!r}; GGUF adapters are made for "
            f"{ARCHITECTURE!r} only. The adapter format PEFT has no such limit."
        )
    return AttentionHeads(query, key)


def peft_to_gguf(adapter_dir: Path, target: Path, heads: AttentionHeads) -> None:
    """Writes `target` from adapter_config.json and adapter_model.safetensors in `adapter_dir`.

    Raises UnsupportedModelError for a tensor that the format has no name for.
    """
    from gguf import GGUFWriter  # noqa: PLC0415 (only the trainer's image has these)
    from safetensors import safe_open  # noqa: PLC0415

    config = json.loads((adapter_dir / "adapter_config.json").read_text(encoding="utf-8"))
    writer = GGUFWriter(target, ARCHITECTURE)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    with safe_open(adapter_dir / "adapter_model.safetensors", "np") as tensors:
        for name in sorted(tensors.keys()):
            gguf_name, matrix = gguf_tensor(name, tensors.get_tensor(name), heads)
            writer.add_tensor(gguf_name, matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_tensor(peft_name: str, matrix: Matrix, heads: AttentionHeads) -> tuple[str, Matrix]:
    """Name and content of one adapter matrix in GGUF.

    llama.cpp rotates neighbouring rows of a query or key head, transformers rows half a head apart, so
    the rows of these two projections change places. Rows are the outputs, hence only B is concerned.
    """
    parts = _PEFT_TENSOR.fullmatch(peft_name)
    module = _GGUF_MODULE.get(parts["module"]) if parts else None
    if parts is None or module is None:
        raise UnsupportedModelError(f"the adapter's tensor {peft_name} has no name in GGUF")
    if parts["side"] == "B" and module in ("attn_q", "attn_k"):
        matrix = interleave_halves(matrix, heads.query if module == "attn_q" else heads.key)
    return f"blk.{parts['layer']}.{module}.weight.lora_{parts['side'].lower()}", matrix


def interleave_halves(matrix: Any, heads: int) -> Any:
    """Within each head, the rows 0, 1, …, n-1 as 0, n/2, 1, n/2+1, …"""
    rows, *rest = matrix.shape
    halves = matrix.reshape(heads, 2, rows // heads // 2, *rest)
    return halves.swapaxes(1, 2).reshape(matrix.shape).copy()
