"""Tiny untrained language models, made without any file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mmrl.modalities.tokens.tokenizer import build_tokenizer

KINDS = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


def build(
    kind: str = "qwen3",
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    context: int = 2048,
    tied: bool = True,
    seed: int = 0,
    corpus: str | Sequence[str] = (),
    vocab: int = 0,
    chat: bool = True,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """(model, tokenizer), the same for the same arguments. See `build_tokenizer` for corpus, vocab and chat.

    Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"model.build.kind={kind!r}: known are {', '.join(KINDS)}")
    tokenizer = build_tokenizer(corpus, vocab, chat)
    numbers = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    config, model = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model(config(**numbers)), tokenizer
