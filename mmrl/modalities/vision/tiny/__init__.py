"""Tiny untrained vision-language models with processors of their own, made without any file.

Only sizes differ from released models: what their processor files say, the special tokens and what their chat templates
write are as those have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from mmrl.modalities.tokens.tokenizer import build_tokenizer
from mmrl.modalities.vision.tiny import gemma, qwen, tiled
from mmrl.modalities.vision.tiny.sizes import Sizes, Tokens

KINDS: dict[str, Callable[[Sizes, Tokens], tuple[Any, Any]]] = {
    "qwen2_vl": qwen.qwen2_vl,
    "qwen2_5_vl": qwen.qwen2_5_vl,
    "qwen3_vl": qwen.qwen3_vl,
    "qwen3_vl_moe": qwen.qwen3_vl_moe,
    "qwen3_5": qwen.qwen3_5,
    "internvl": tiled.internvl,
    "idefics3": tiled.idefics3,
    "smolvlm": tiled.smolvlm,
    "llava_onevision": tiled.llava_onevision,
    "paligemma": gemma.paligemma,
    "paligemma2": gemma.paligemma2,
    "gemma3": gemma.gemma3,
}
UNMERGED = ("paligemma", "paligemma2", "llava_onevision")  # a visual token is one patch


def build(
    kind: str = "qwen2_5_vl",
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    vision_hidden: int = 64,
    vision_layers: int = 2,
    vision_heads: int = 4,
    patch: int = 14,
    merge: int = 2,
    min_pixels: int = 0,
    max_pixels: int = 0,
    image_size: int = 0,
    tiles: int = 1,
    context: int = 2048,
    tied: bool = True,
    initializer_range: float = 0.02,
    seed: int = 0,
    corpus: str | Sequence[str] = (),
    vocab: int = 0,
) -> tuple[Any, Any]:
    """(model, processor) of one of KINDS, the same for the same arguments.

    hidden, layers, heads, kv_heads: the decoder; vision_hidden, vision_layers, vision_heads: the vision tower.
    patch: side of a patch in pixels. merge: merge x merge patches become one visual token (UNMERGED: one each).
    min_pixels, max_pixels: area to which a qwen*-vl processor resizes a picture, kept in shape and rounded to cells of
    patch * merge pixels; 0 is 4 and 64 cells. The other families cut or resize to squares of image_size pixels (0 is
    4 cells), and internvl, idefics3, smolvlm and llava_onevision show up to tiles x tiles of them and the whole picture
    as one more; with tiles=1 just the whole (llava_onevision: both).
    initializer_range: standard deviation of the weights; the default is meant for widths above a thousand, and at a
    width of 128 leaves attention so even that it hardly learns: hidden**-0.5 suits it.
    corpus, vocab: see `build_tokenizer`; paligemma's processor adds its 1152 places and codes.

    Raises ValueError for an unknown kind and for sizes that do not divide.
    """
    if kind not in KINDS:
        raise ValueError(f"model.build.kind={kind!r}: known are {', '.join(KINDS)}")
    cell = patch if kind in UNMERGED else patch * merge
    tile = image_size or 4 * cell
    _refuse_parts(
        ("hidden, heads", hidden, 2 * heads),
        ("heads, kv_heads", heads, kv_heads),
        ("vision_hidden, vision_heads", vision_hidden, 4 * vision_heads),
        ("image_size", tile, cell),
    )
    if not 1 <= tiles <= tiled.MOST_TILES:
        raise ValueError(f"model.build.tiles={tiles}: from 1 to {tiled.MOST_TILES}")
    decoder = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
        "initializer_range": initializer_range,
        "bos_token_id": None,
    }
    tower = {
        "hidden_size": vision_hidden,
        "layers": vision_layers,
        "heads": vision_heads,
        "initializer_range": initializer_range,
    }
    pixels = (min_pixels or 4 * cell**2, max_pixels or 64 * cell**2)
    sizes = Sizes(decoder, tower, patch, merge, tile, tiles, pixels, tied)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = KINDS[kind](sizes, partial(build_tokenizer, corpus, vocab, chat=False))
    _agree(model, processor.tokenizer)
    return model, processor


def _refuse_parts(*named: tuple[str, int, int]) -> None:
    """Raise ValueError for (names, whole, part) where the whole is no multiple of the part."""
    for name, whole, part in named:
        if whole % part:
            raise ValueError(f"model.build: {name}: {whole} is no multiple of {part}")


def _agree(model: Any, tokenizer: Any) -> None:
    """The model names the tokenizer's special ids, and prompts are padded before their words."""
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # the latter is what is saved
    for holder in (model.generation_config, model.config.get_text_config()):
        holder.bos_token_id = tokenizer.bos_token_id
        holder.eos_token_id = tokenizer.eos_token_id
        holder.pad_token_id = tokenizer.pad_token_id
