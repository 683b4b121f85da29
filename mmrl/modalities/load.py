"""Find the adapter class of a modality: a built-in name, or `path/file.py:Class`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from mmrl.importing import import_file
from mmrl.near import near

if TYPE_CHECKING:
    from mmrl.modalities.adapter import Adapter

BUILT_IN = {
    "audio": ("mmrl.modalities.audio.adapter", "AudioAdapter"),
    "cad": ("mmrl.modalities.text.adapter", "TextAdapter"),  # programs are texts
    "image": ("mmrl.modalities.image.adapter", "ImageAdapter"),
    "text": ("mmrl.modalities.text.adapter", "TextAdapter"),
    "vision": ("mmrl.modalities.vision.adapter", "VisionAdapter"),
}
CONFIGS = {name: f"{module.rpartition('.')[0]}.config" for name, (module, _) in BUILT_IN.items()}
DEFAULTS = {name: f"{name}/tiny" for name in BUILT_IN}


def adapter_class(modality: str) -> type[Adapter]:
    """The class behind `modality`; a user's own is a subclass of mmrl.Adapter.

    Raises ValueError for an unknown name, a missing file, or a class that is none, or lacks a method.
    """
    if modality in BUILT_IN:
        module, name = BUILT_IN[modality]
        return getattr(importlib.import_module(module), name)
    path, colon, name = modality.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise ValueError(f"modality {modality!r}: {near(modality, BUILT_IN)}; your own is given as path/file.py:Class")
    found = getattr(import_file(Path(path)), name, None)
    if found is None:
        raise ValueError(f"modality {modality!r}: {path} has no class {name}")
    from mmrl.modalities.adapter import REQUIRED, Adapter

    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise ValueError(f"modality {modality!r}: {name} is no adapter; write `class {name}(mmrl.Adapter)`")
    missing = [m for m in REQUIRED if getattr(found, m) is getattr(Adapter, m)]
    missing += [] if hasattr(found, "Config") else ["Config"]
    if missing:
        raise ValueError(f"modality {modality!r}: class {name} lacks {', '.join(missing)} (see docs/own_modality.md)")
    return found


def modality_of(folder: Path) -> str:
    """The built-in modality that reads the language model in a folder: one with a processor of pictures sees, one
    with a processor of sounds hears.

    Raises ValueError for a folder without a model of transformers.
    """
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ValueError(f"{folder} holds no model of transformers: it has neither config.json nor adapter_config.json")
    found = [folder / name for name in ("processor_config.json", "preprocessor_config.json")]
    processors = [path.read_text(encoding="utf-8") for path in found if path.is_file()]
    if any('"feature_extractor' in text for text in processors):
        return "audio"
    return "vision" if processors else "text"


def config_class(modality: str) -> type:
    """The class of the `model:` section; for built-in modalities no model library is imported."""
    if modality in CONFIGS:
        return importlib.import_module(CONFIGS[modality]).ModelConfig
    return adapter_class(modality).Config
