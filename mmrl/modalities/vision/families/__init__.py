"""Families of vision-language models, by the `model_type` of their config; a new one is one small file and a line."""

from __future__ import annotations

from typing import Any

from mmrl.modalities.vision.config import ModelConfig
from mmrl.modalities.vision.families.base import Family
from mmrl.modalities.vision.families.gemma import Gemma3
from mmrl.modalities.vision.families.idefics import Idefics3
from mmrl.modalities.vision.families.internvl import InternVL
from mmrl.modalities.vision.families.llava import LlavaOneVision
from mmrl.modalities.vision.families.paligemma import PaliGemma
from mmrl.modalities.vision.families.qwen import Qwen2VL, Qwen3VL, Qwen25VL, Qwen35

FAMILIES: dict[str, type[Family]] = {
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen25VL,
    "qwen3_vl": Qwen3VL,
    "qwen3_vl_moe": Qwen3VL,
    "qwen3_5": Qwen35,
    "internvl": InternVL,
    "idefics3": Idefics3,
    "smolvlm": Idefics3,
    "paligemma": PaliGemma,
    "gemma3": Gemma3,
    "llava_onevision": LlavaOneVision,
}

# Why models that people ask for are not among them.
REFUSED = {
    "mllama": "its pictures enter by cross-attention, not as tokens of the row",
    "llama4": "its decoder stands inside of a language model with a head of its own, and attends in chunks",
    "qwen3_5_moe": "its experts and its linear attention were not tried together; the dense qwen3_5 works",
    "internvl_chat": "this is OpenGVLab's own format; the same model in transformers' ends in -HF (or -hf)",
}


def check_kind(kind: str, config: ModelConfig) -> None:
    """Raises ValueError, in one line, for a `model_type` that no family reads, and for what its family cannot do."""
    if kind not in FAMILIES:
        why = f": {REFUSED[kind]}" if kind in REFUSED else ""
        raise ValueError(
            f"model_type {kind!r} is no vision-language family that is known here{why}; there are "
            f"{', '.join(FAMILIES)}. A new one is a class in mmrl/modalities/vision/families"
        )
    family = FAMILIES[kind]
    if config.attention == "flash_attention_2" and family.own_masks:
        raise ValueError(f"attention: flash_attention_2 takes no masks, which pictures of {kind} need; leave it out")
    if config.tiles is not None and not family.tiled:
        tiled = ", ".join(name for name, one in FAMILIES.items() if one.tiled)
        raise ValueError(f"tiles: pictures of {kind} are not cut into tiles (those of {tiled} are); leave it out")


def family_of(model: Any, processor: Any, config: ModelConfig) -> Family:
    """The family of a model. Raises ValueError for one that nobody wrote, and for options that it does not have."""
    check_kind(model.config.model_type, config)
    return FAMILIES[model.config.model_type](model, processor, config)


__all__ = ["FAMILIES", "REFUSED", "Family", "check_kind", "family_of"]
