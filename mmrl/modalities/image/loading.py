"""From a `model:` section to a Family: load a pipeline, or build a tiny one."""

from __future__ import annotations

from typing import Any

import torch

from mmrl.modalities import hollow
from mmrl.modalities.files import cached, check_weights, is_local
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families import family_class, family_of
from mmrl.modalities.image.families.base import Family
from mmrl.modalities.image.skeleton import INDEX, skeleton_pipeline, weighty_parts
from mmrl.modalities.quiet import quiet
from mmrl.share import resolve


def load_family(config: ModelConfig) -> Family:
    """The Family of config.path (hub id, folder or share://), its weights in config.dtype.

    Raises FileNotFoundError where a local folder holds no pipeline.
    """
    quiet("diffusers", "transformers")
    if config.build is not None:
        return family_class(config.family)(_build(config), config.max_sequence_length)
    from diffusers import DiffusionPipeline

    local, dtype = resolve(config.path), getattr(torch, config.dtype)
    here = is_local(config.path)
    if here and not (local / "model_index.json").is_file():
        raise FileNotFoundError(
            f"model.path {config.path!r}: no model_index.json in {local}; give a folder written by "
            "save_pretrained, or a hub id such as stabilityai/stable-diffusion-3.5-medium"
        )
    if here:
        for part in weighty_parts(local):
            check_weights(local / part)
    if hollow.is_wanted():
        pipeline = skeleton_pipeline(local if here else cached(config.path, config.revision, INDEX), dtype)
    else:
        pipeline = DiffusionPipeline.from_pretrained(
            str(local) if here else config.path, revision=config.revision, dtype=dtype, use_safetensors=True
        )
    name = config.family if config.family != "auto" else family_of(type(pipeline).__name__)
    return family_class(name)(pipeline, config.max_sequence_length)


def _build(config: ModelConfig) -> Any:
    from mmrl.modalities.image.tiny import BUILDERS

    if config.family not in BUILDERS:
        raise ValueError(f"model.build needs model.family, one of {', '.join(BUILDERS)}; got {config.family!r}")
    options = dict(config.build or {})
    seed = options.pop("seed", 0)
    corpus = options.pop("corpus", ["a picture of a thing"])
    if isinstance(corpus, str):
        corpus = resolve(corpus).read_text(encoding="utf-8").splitlines()
    with torch.random.fork_rng(devices=[]), hollow.skeleton():
        torch.manual_seed(seed)
        return BUILDERS[config.family](corpus, **options)
