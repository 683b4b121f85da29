"""A diffusers pipeline without its weights, for `mmrl plan`: what has weights is made from its config."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmrl.modalities import hollow

INDEX = "model_index.json"
SAFETY = "safety_checker"


def weighty_parts(folder: Path) -> list[str]:
    """Names of a pipeline's parts that are models, which have weights in a folder of that name."""
    return list(models_of(folder))


def skeleton_pipeline(folder: Path, dtype: Mapping[str, torch.dtype]) -> Any:
    """The pipeline in a folder; its models have shapes alone (see hollow), tokenizers and scheduler are whole.

    dtype: of each part, or "default".
    """
    made = {
        name: _skeleton(source, folder / name, dtype.get(name, dtype["default"]))
        for name, source in models_of(folder).items()
    }
    return pipeline_class(str(folder)).from_pretrained(str(folder), **made, **left_out(str(folder)))


def pipeline_class(source: str, revision: str | None = None) -> Any:
    """The class that a folder or the hub names. DiffusionPipeline itself does not know which of its parts are optional,
    and would read those that are given to it (Wan's denoisers)."""
    import diffusers

    name = diffusers.DiffusionPipeline.load_config(source, revision=revision).get("_class_name")
    return getattr(diffusers, str(name), diffusers.DiffusionPipeline)


def left_out(source: str, revision: str | None = None) -> dict[str, Any]:
    """Arguments by which a pipeline is loaded without its safety checker, {} for one that has none.

    Nothing here shows a picture to it, and it takes 1.2 GB beside a Stable Diffusion of 4.
    """
    from diffusers import DiffusionPipeline

    index = DiffusionPipeline.load_config(source, revision=revision)
    return {SAFETY: None, "requires_safety_checker": False} if SAFETY in index else {}


def models_of(folder: Path) -> dict[str, type]:
    """Part of the pipeline in a folder -> its class, of diffusers or transformers, for those that are modules."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    parts = {n: part for n, part in index.items() if isinstance(part, list) and None not in part and n != SAFETY}
    found = {}
    for name, (library, of) in parts.items():
        if library in ("diffusers", "transformers"):
            made = getattr(importlib.import_module(library), of, None)
            if isinstance(made, type) and issubclass(made, torch.nn.Module):
                found[name] = made
    return found


def _skeleton(of: Any, folder: Path, dtype: torch.dtype) -> Any:
    with hollow.skeleton():
        if hasattr(of, "config_class"):  # transformers
            model = of(of.config_class.from_pretrained(str(folder)))
        else:
            model = of.from_config(of.load_config(str(folder)))
    return torch.nn.Module.to(model, dtype).eval()  # that of diffusers warns of casts that change numbers
