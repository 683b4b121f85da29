"""Families of models that hear; one of ours is one small file and a line here, yours is `path/file.py:Class`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmrl.importing import import_file
from mmrl.modalities.audio.config import ModelConfig
from mmrl.modalities.audio.families.base import Family
from mmrl.modalities.audio.families.flamingo import AudioFlamingo3
from mmrl.modalities.audio.families.omni import Qwen3Omni, Qwen25Omni
from mmrl.modalities.audio.families.qwen_audio import Qwen2Audio
from mmrl.modalities.audio.families.voxtral import Voxtral

# By the `model_type` of the config; of an Omni model the thinker is taken.
FAMILIES: dict[str, type[Family]] = {
    "qwen2_audio": Qwen2Audio,
    "qwen2_5_omni": Qwen25Omni,
    "qwen2_5_omni_thinker": Qwen25Omni,
    "qwen3_omni_moe": Qwen3Omni,
    "qwen3_omni_moe_thinker": Qwen3Omni,
    "audioflamingo3": AudioFlamingo3,
    "voxtral": Voxtral,
}

# Why models that people ask for are not among them.
REFUSED = {
    "whisper": "it has an encoder that its decoder looks at, not tokens of the row",
    "voxtral_realtime": "it hears while it speaks; voxtral works",
}


def family_class(kind: str, config: ModelConfig) -> type[Family]:
    """The family of a `model_type`, or the one that `model.family` names.

    Raises ValueError, in one line, for a model_type that no family reads, and for a file without such a class.
    """
    if config.family != "auto":
        return _own(config.family)
    if kind not in FAMILIES:
        why = f": {REFUSED[kind]}" if kind in REFUSED else ""
        raise ValueError(
            f"model_type {kind!r} is no family that hears and is known here{why}; there are {', '.join(FAMILIES)}. "
            "Your own is model.family: path/file.py:Class (docs/audio.md)"
        )
    return FAMILIES[kind]


def _own(named: str) -> type[Family]:
    path, colon, name = named.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise ValueError(f"model.family {named!r:.60}: write auto, or path/file.py:Class")
    found: Any = getattr(import_file(Path(path)), name, None)
    if not (isinstance(found, type) and issubclass(found, Family)):
        raise ValueError(f"model.family {named!r:.60}: {path} has no class {name} that is a Family (docs/audio.md)")
    if not found.model_class:
        raise ValueError(f"model.family {named!r:.60}: {name} says no model_class, its class in transformers")
    return found


__all__ = ["FAMILIES", "REFUSED", "Family", "family_class"]
