"""A language model of some 20,000 random weights, in the files that trainers read. Trained in seconds."""

from __future__ import annotations

import string
from pathlib import Path

SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>"]


def save_tiny_model(directory: Path) -> Path:
    """Writes model and tokenizer (a token is a character). Needs the trainer's libraries."""
    import torch  # noqa: PLC0415 - only where a test has seen that it is there
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: PLC0415

    vocabulary = {text: number for number, text in enumerate([*SPECIAL, "<unk>", *string.printable])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.add_special_tokens(SPECIAL)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(directory)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(shape).save_pretrained(directory)
    return directory
