"""Tiny untrained language models that hear, with processors of their own, made without any file.

Only sizes differ from released models: the special tokens and what their chat templates write are as those have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from mmrl.modalities.audio.tiny import omni, whisper
from mmrl.modalities.audio.tiny.sizes import Sizes, Tokens
from mmrl.modalities.tokens.tokenizer import build_tokenizer

KINDS: dict[str, Callable[[Sizes, Tokens], tuple[Any, Any]]] = {
    "qwen2_audio": whisper.qwen2_audio,
    "audioflamingo3": whisper.audioflamingo3,
    "voxtral": whisper.voxtral,
    "qwen2_5_omni": omni.qwen2_5_omni,
    "qwen3_omni_moe": omni.qwen3_omni_moe,
}


def build(
    kind: str = "qwen2_audio",
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    audio_hidden: int = 64,
    audio_layers: int = 2,
    audio_heads: int = 4,
    mels: int = 16,
    seconds: int = 2,
    context: int = 2048,
    initializer_range: float = 0.02,
    seed: int = 0,
    corpus: str | Sequence[str] = (),
    vocab: int = 0,
) -> tuple[Any, Any]:
    """(model, processor) of one of KINDS, the same for the same arguments.

    hidden, layers, heads, kv_heads: the decoder; audio_hidden, audio_layers, audio_heads: the tower that hears (and, of
    an Omni thinker, that sees). mels: bands of the spectrogram. seconds: of the window that a sound is padded to, and
    all that the model hears at once, where it does not take several.
    initializer_range: standard deviation of the weights; the default is meant for widths above a thousand, and at a
    width of 128 leaves attention so even that it hardly learns: hidden**-0.5 suits it.
    corpus, vocab: see `build_tokenizer`.

    Raises ValueError for an unknown kind and for sizes that do not divide.
    """
    if kind not in KINDS:
        raise ValueError(f"model.build.kind={kind!r}: known are {', '.join(KINDS)}")
    for name, whole, part in (
        ("hidden, heads", hidden, 2 * heads),
        ("heads, kv_heads", heads, kv_heads),
        ("audio_hidden, audio_heads", audio_hidden, 4 * audio_heads),
    ):
        if whole % part:
            raise ValueError(f"model.build: {name}: {whole} is no multiple of {part}")
    if seconds < 1:
        raise ValueError(f"model.build.seconds={seconds}: a whole number, from 1")
    text = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
        "initializer_range": initializer_range,
        "bos_token_id": None,
    }
    sizes = Sizes(text, audio_hidden, audio_layers, audio_heads, mels, seconds)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = KINDS[kind](sizes, partial(build_tokenizer, corpus, vocab, chat=False))
    _agree(model, processor.tokenizer)
    return model, processor


def _agree(model: Any, tokenizer: Any) -> None:
    """The model names the tokenizer's special ids, and prompts are padded before their words."""
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # the latter is what is saved
    for holder in (model.generation_config, model.config.get_text_config()):
        holder.bos_token_id = tokenizer.bos_token_id
        holder.eos_token_id = tokenizer.eos_token_id
        holder.pad_token_id = tokenizer.pad_token_id
