"""What the arguments of `build` come to, and the parts of configs that families share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

Tokens = Callable[..., Any]  # build_tokenizer that has its corpus and wants the special tokens


@dataclass(frozen=True)
class Sizes:
    """What the arguments of `build` come to, for the functions that make one family each."""

    text: dict[str, Any]  # of the decoder's config, but for what the tokenizer decides
    vision: dict[str, Any]  # hidden_size and depth of the tower; the names differ by family
    patch: int
    merge: int
    tile: int
    tiles: int
    pixels: tuple[int, int]
    tied: bool


def text_numbers(sizes: Sizes, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Of a decoder's config."""
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return sizes.text | ids | {"vocab_size": len(tokenizer), "tie_word_embeddings": sizes.tied}


def vision_numbers(sizes: Sizes) -> dict[str, Any]:
    """Of a tower's config, by the names that most have."""
    hidden, layers, heads = (sizes.vision[name] for name in ("hidden_size", "layers", "heads"))
    return {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "initializer_range": sizes.vision["initializer_range"],
    }


def siglip_numbers(sizes: Sizes) -> dict[str, Any]:
    """Of a SigLIP tower without its head."""
    square = {"image_size": sizes.tile, "patch_size": sizes.patch}
    return vision_numbers(sizes) | square | {"model_type": "siglip_vision_model", "vision_use_head": False}


def head_dim(sizes: Sizes) -> int:
    """Numbers of a head of the decoder."""
    return sizes.text["hidden_size"] // sizes.text["num_attention_heads"]
