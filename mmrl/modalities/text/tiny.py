"""Tiny untrained language models with a tokenizer of their own, made without any file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mmrl.share import resolve

KINDS = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
BYTES = 256

# Cuts text as transformers' Qwen2 tokenizer does: AutoTokenizer rebuilds that class for Qwen folders and would ignore
# any other pre-tokenizer that is saved there.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


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


def build_tokenizer(corpus: str | Sequence[str] = (), vocab: int = 0, chat: bool = True) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer that any text survives: 3 special tokens, the 256 bytes, and merges.

    corpus: texts, or a file of them by line, that merges are learned from. vocab: size of the vocabulary; 259 or
    less has no merges, so that every character of ASCII is a token. chat: with a ChatML template.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    texts = resolve(corpus).read_text(encoding="utf-8").splitlines() if isinstance(corpus, str) else list(corpus)
    special = [PAD, START, END]
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=max(vocab, len(special) + BYTES),
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=PAD)
    if chat:
        tokenizer.chat_template = CHATML
    return tokenizer
