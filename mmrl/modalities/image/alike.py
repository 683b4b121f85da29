"""What a run and the servers that draw for it must have alike besides weights."""

from __future__ import annotations

import hashlib
from typing import Any

from mmrl.engines.remote import PROBE
from mmrl.modalities.image import lora
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families.base import Family

OPTIONS = ("dtype", "train", "max_sequence_length", "source_pixels")


def alike(family: Family, config: ModelConfig) -> dict[str, Any]:
    """By name, what JSON can hold."""
    options = {name: getattr(config, name) for name in OPTIONS}
    return {
        "family": family.name,
        **options,
        "scales of LoRA": lora.scales(family),
        "tokenizers, by what they make of a text": _marks(family),
    }


def _marks(family: Family) -> dict[str, str]:
    """Of each tokenizer; another one makes other ids."""
    parts = family.pipeline.components.items()
    tokenizers = {name: part for name, part in parts if name.startswith("tokenizer") and part is not None}
    ids = {name: repr(list(part(PROBE).input_ids)) for name, part in tokenizers.items()}
    return {name: hashlib.sha256(told.encode()).hexdigest()[:12] for name, told in ids.items()}
