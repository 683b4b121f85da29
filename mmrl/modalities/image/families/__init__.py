"""The families of image models; one of ours is one small file and a line here, yours is `path/file.py:Class`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from mmrl.importing import import_file
from mmrl.near import near

if TYPE_CHECKING:
    from mmrl.modalities.image.families.base import Family

# Name -> its file here, its class.
FAMILIES = {
    "sd3": ("sd3", "SD3"),
    "flux": ("flux", "Flux"),
    "sd": ("stable_diffusion", "StableDiffusion"),
    "sdxl": ("stable_diffusion", "StableDiffusionXL"),
    "z_image": ("z_image", "ZImage"),
    "qwen_image": ("qwen_image", "QwenImage"),
    "flux2": ("flux2", "Flux2"),
    "flux2_klein": ("flux2", "Flux2Klein"),
    "sana": ("sana", "Sana"),
    "wan": ("wan", "Wan"),
    "flux_kontext": ("flux", "FluxKontext"),
    "qwen_image_edit_plus": ("qwen_image_edit", "QwenImageEditPlus"),
    "qwen_image_21": ("qwen_image_21", "QwenImage21"),
}


def is_named(family: str) -> bool:
    """Whether a family is one of ours by name, or given as path/file.py:Class. No file is read."""
    path, colon, name = family.rpartition(":")
    return family in FAMILIES or bool(colon and path.endswith(".py") and name.isidentifier())


def unknown(family: str) -> str:
    """Why `is_named` says no, and what to write."""
    return f"unknown family {family!r:.60}: {near(family, FAMILIES)}; your own is given as path/file.py:Class"


def family_class(family: str) -> type[Family]:
    """The class behind `model.family`.

    Raises ValueError for an unknown name, a missing file, or a class that is no Family or lacks a method.
    """
    if family in FAMILIES:
        file, name = FAMILIES[family]
        return getattr(importlib.import_module(f"{__name__}.{file}"), name)
    if not is_named(family):
        raise ValueError(unknown(family))
    path, _, name = family.rpartition(":")
    found = getattr(import_file(Path(path)), name, None)
    from mmrl.modalities.image.families.base import REQUIRED, Family

    if not (isinstance(found, type) and issubclass(found, Family)):
        raise ValueError(f"model.family {family!r}: {path} has no class {name} that is a Family (docs/image.md)")
    missing = [method for method in REQUIRED if getattr(found, method, None) is getattr(Family, method, None)]
    if missing:
        raise ValueError(f"model.family {family!r}: class {name} lacks {', '.join(missing)} (docs/image.md)")
    return found


def family_of(pipeline_class: str) -> str:
    """The family that a diffusers pipeline class belongs to."""
    for name in FAMILIES:
        if pipeline_class in family_class(name).pipeline_classes:
            return name
    raise ValueError(
        f"no image family for pipeline class {pipeline_class!r}; known families: {', '.join(FAMILIES)}. "
        "Your own is model.family: path/file.py:Class, a subclass of mmrl.modalities.image.families.base.Family"
    )
