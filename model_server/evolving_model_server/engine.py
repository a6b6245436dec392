"""llama.cpp: the only importer of llama_cpp.

One model, one context, and any number of LoRA adapters of which one is switched on at a time. The context
keeps what it last read, so that the next prompt pays only for where it differs: instructions and tools
are read once, not once per request. What it read belongs to the adapter it was read with, and is put aside
when another is switched on: while a candidate is evaluated beside live traffic, requests alternate.
"""

from __future__ import annotations

import codecs
import ctypes
import json
import random
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp.llama_grammar import LlamaGrammar

from evolving_model_server.inference import (
    Finish,
    Generation,
    Piece,
    PromptTooLongError,
    Start,
    Text,
    UnusableAdapterError,
    UnusableSchemaError,
)

MAX_PARKED = 2  # what was read with the two adapters before the active one; 23 KB a token of SmolLM2-135M
SEQUENCE = 0  # the only one that llama_cpp.Llama uses


@dataclass(frozen=True)
class _Read:
    """What the context had read: token IDs, and llama.cpp's copy of their keys and values."""

    tokens: np.ndarray[tuple[int], np.dtype[np.intc]]
    state: ctypes.Array[ctypes.c_uint8]


class LlamaEngine:
    """Holds at most `max_adapters` adapters in memory; the one unused for longest makes room."""

    def __init__(self, model: Path, *, context_tokens: int, threads: int, max_adapters: int) -> None:
        self._llama = llama_cpp.Llama(
            str(model), n_ctx=context_tokens, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        self._max_adapters = max_adapters
        self._adapters: OrderedDict[Path, ctypes.c_void_p] = OrderedDict()  # least recently used first
        self._active: Path | None = None
        self._parked: OrderedDict[Path | None, _Read] = OrderedDict()  # least recently used first
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._llama.model)

    def generate(self, generation: Generation) -> Iterator[Piece]:
        prompt = self._llama.tokenize(generation.prompt.encode(), add_bos=False, special=True)
        room = self._llama.n_ctx() - len(prompt)
        if room < 1:
            raise PromptTooLongError(len(prompt), self._llama.n_ctx())
        grammar = _grammar(generation)
        self._activate(generation.adapter)
        self._llama.set_seed(random.getrandbits(32) if generation.seed is None else generation.seed % 2**32)
        tokens = self._llama.generate(
            prompt,
            temp=generation.temperature,
            top_p=generation.top_p,
            top_k=0,
            min_p=0.0,
            repeat_penalty=1.0,
            grammar=grammar,
        )
        decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        limit = min(generation.max_tokens, room)
        for count, token in enumerate(tokens):
            if count == 0:
                yield Start(len(prompt))
            if llama_cpp.llama_vocab_is_eog(self._vocabulary, token):
                yield Finish("stop")
                return
            yield Text(decode(self._llama.detokenize([token])))
            if count + 1 == limit:
                break
        yield Finish("length")

    def load(self, adapter: Path) -> None:
        if adapter in self._adapters:
            self._adapters.move_to_end(adapter)
            return
        handle = llama_cpp.llama_adapter_lora_init(self._llama.model, str(adapter).encode())
        if not handle:
            raise UnusableAdapterError(
                f"llama.cpp cannot load {adapter}: broken, or made for another base model"
            )
        self._adapters[adapter] = handle
        while len(self._adapters) > self._max_adapters:
            self.unload(next(iter(self._adapters)))

    def unload(self, adapter: Path) -> bool:
        if adapter not in self._adapters:
            return False
        if self._active == adapter:
            self._switch(None)
        self._parked.pop(adapter, None)
        llama_cpp.llama_adapter_lora_free(self._adapters.pop(adapter))
        return True

    def _activate(self, adapter: Path | None) -> None:
        if adapter is not None:
            self.load(adapter)
        if adapter != self._active:
            self._switch(adapter)

    def _switch(self, adapter: Path | None) -> None:
        handles = [] if adapter is None else [self._adapters[adapter]]
        array = (llama_cpp.llama_adapter_lora_p_ctypes * len(handles))(*handles)
        scales = (ctypes.c_float * len(handles))(*[1.0 for _ in handles])
        if llama_cpp.llama_set_adapters_lora(self._llama.ctx, array, len(handles), scales) != 0:
            raise UnusableAdapterError(f"llama.cpp refuses to switch to {adapter}")
        self._park(self._active)
        self._active = adapter
        self._unpark(adapter)

    def _park(self, adapter: Path | None) -> None:
        size = llama_cpp.llama_state_seq_get_size(self._llama.ctx, SEQUENCE)
        state = (ctypes.c_uint8 * size)()
        if llama_cpp.llama_state_seq_get_data(self._llama.ctx, state, size, SEQUENCE) == size:
            self._parked[adapter] = _Read(self._llama.input_ids[: self._llama.n_tokens].copy(), state)
        while len(self._parked) > MAX_PARKED:
            self._parked.popitem(last=False)

    def _unpark(self, adapter: Path | None) -> None:
        self._llama.reset()  # what the context read with other weights is worth nothing
        read = self._parked.pop(adapter, None)
        if read is None:
            return
        size = len(read.state)
        if llama_cpp.llama_state_seq_set_data(self._llama.ctx, read.state, size, SEQUENCE) == size:
            self._llama.input_ids[: len(read.tokens)] = read.tokens
            self._llama.n_tokens = len(read.tokens)


def _grammar(generation: Generation) -> LlamaGrammar | None:
    """What binds a generation, as llama.cpp's grammar. Raises UnusableSchemaError."""
    if generation.choices:
        alternatives = " | ".join(json.dumps(choice) for choice in generation.choices)
        return LlamaGrammar.from_string(f"root ::= {alternatives}", verbose=False)
    if generation.schema is None:
        return None
    try:
        return LlamaGrammar.from_json_schema(json.dumps(generation.schema), verbose=False)
    except Exception as error:  # the converter raises whatever it stumbles on
        message = f"a JSON schema, in tools or response_format, cannot be turned into a grammar: {error}"
        raise UnusableSchemaError(message) from error
