"""The families of text-to-image models; a new one is one small file and a line here."""

from __future__ import annotations

import importlib

from mmrl.modalities.image.families.base import Family

MODULES = {"sd3": "SD3", "flux": "Flux", "sd": "StableDiffusion", "sdxl": "StableDiffusionXL"}
_FILES = {"sd3": "sd3", "flux": "flux", "sd": "stable_diffusion", "sdxl": "stable_diffusion"}


def family_class(name: str) -> type[Family]:
    """The Family subclass called `name`."""
    return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), MODULES[name])


def family_of(pipeline_class: str) -> str:
    """The family that a diffusers pipeline class belongs to."""
    for name in MODULES:
        if pipeline_class in family_class(name).pipeline_classes:
            return name
    raise ValueError(
        f"no image family for pipeline class {pipeline_class!r}; known families: {', '.join(MODULES)}. "
        "A new one is a subclass of mmrl.modalities.image.families.base.Family"
    )
