"""Families of vision-language models, by the `model_type` of their config; a new one is one small file and a line."""

from __future__ import annotations

from typing import Any

from mmrl.modalities.vision.config import ModelConfig
from mmrl.modalities.vision.families.base import Family, Features
from mmrl.modalities.vision.families.idefics import Idefics3
from mmrl.modalities.vision.families.internvl import InternVL
from mmrl.modalities.vision.families.paligemma import PaliGemma
from mmrl.modalities.vision.families.qwen import Qwen2VL, Qwen3VL, Qwen25VL

FAMILIES: dict[str, type[Family]] = {
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen25VL,
    "qwen3_vl": Qwen3VL,
    "internvl": InternVL,
    "idefics3": Idefics3,
    "smolvlm": Idefics3,
    "paligemma": PaliGemma,
}


def family_of(model: Any, processor: Any, config: ModelConfig) -> Family:
    """The family of a model. Raises ValueError for one that nobody wrote."""
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise ValueError(
            f"{type(model).__name__} ({kind}): no such family; there are {', '.join(FAMILIES)}. A new one is a class "
            "in mmrl/modalities/vision/families"
        )
    return FAMILIES[kind](model, processor, config)


__all__ = ["FAMILIES", "Family", "Features", "family_of"]
