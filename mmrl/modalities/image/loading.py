"""From a `model:` section to a Family: load a pipeline, or build a tiny one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmrl.modalities import hollow, unread
from mmrl.modalities.files import NotDownloaded, cached, check_weights, is_local
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families import FAMILIES, family_class, family_of
from mmrl.modalities.image.families.base import Family
from mmrl.modalities.image.families.published import MODELS as PUBLISHED
from mmrl.modalities.image.families.published import published_skeleton
from mmrl.modalities.image.skeleton import INDEX, left_out, pipeline_class, skeleton_pipeline, weighty_parts
from mmrl.modalities.image.unread_denoiser import unread_denoiser
from mmrl.modalities.quiet import quiet
from mmrl.share import resolve

# Beside a saved pipeline: its parts that are float32, as what was trained is, and are read again so.
FLOAT32 = "float32_parts.json"
# A file of weights; 1: its variant, None without.
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?(?:\.([^.-]+))?(?:-\d+-of-\d+)?\.safetensors$")
# What components are in pipelines.
PARTS = {
    "denoiser": ("transformer", "transformer_2", "unet"),
    "text_encoders": ("text_encoder", "text_encoder_2", "text_encoder_3"),
    "vae": ("vae",),
}


def load_family(config: ModelConfig) -> Family:
    """The Family of config.path (hub id, folder or share://), its weights in config.dtype but for what is trained, or
    was: float32, as rounding would undo small updates. A safety checker is not loaded, and so not saved either.

    Raises FileNotFoundError where a local folder holds no pipeline.
    """
    quiet("diffusers", "transformers")
    if config.build is not None:
        return _made(config.family, _build(config), config)
    from diffusers import DiffusionPipeline

    local = resolve(config.path)
    here = is_local(config.path)
    if here and not (local / "model_index.json").is_file():
        raise FileNotFoundError(
            f"model.path {config.path!r}: no model_index.json in {local}; give a folder written by "
            "save_pretrained, or a hub id such as stabilityai/stable-diffusion-3.5-medium"
        )
    parts = weighty_parts(local) if here else []
    for part in parts:
        check_weights(local / part)
    dtype = _dtypes(config, local)
    if hollow.is_wanted():
        pipeline = _skeleton(config, local if here else None, dtype)
    else:
        source = str(local) if here else config.path
        made = _unread(source, config, dtype, _variant(local, parts)) if unread.is_wanted() else {}
        of = pipeline_class(source, config.revision) if made else DiffusionPipeline
        pipeline = of.from_pretrained(
            source,
            revision=config.revision,
            variant=_variant(local, parts),
            dtype={part: kind for part, kind in dtype.items() if part not in made},
            use_safetensors=True,
            **left_out(source, config.revision),
            **made,
        )
    name = config.family if config.family != "auto" else family_of(type(pipeline).__name__)
    return _made(name, pipeline, config)


def _unread(source: str, config: ModelConfig, dtype: Mapping[str, torch.dtype], variant: str | None) -> dict[str, Any]:
    """The denoiser with its weights left in their files, by its name in the pipeline; {} where it has to be read."""
    from diffusers import DiffusionPipeline

    folder = Path(source)
    if not is_local(config.path):
        folder = Path(DiffusionPipeline.download(source, revision=config.revision, use_safetensors=True))
    try:
        return unread_denoiser(folder, PARTS["denoiser"], dtype, variant)
    except unread.NotAsStored as why:
        unread.tell(config.path, why)
        return {}


def _skeleton(config: ModelConfig, folder: Path | None, dtype: Mapping[str, torch.dtype]) -> Any:
    """From the folder, the hub's cache, or what is known of a published model's sizes. Raises NotDownloaded."""
    try:
        folder = folder or cached(config.path, config.revision, INDEX)
    except NotDownloaded:
        if config.path not in PUBLISHED:
            raise
        return published_skeleton(config.path, dtype)
    return skeleton_pipeline(folder, dtype)


def _made(name: str, pipeline: Any, config: ModelConfig) -> Family:
    family = family_class(name)(pipeline, config.max_sequence_length)
    family.source_pixels = config.source_pixels
    return family


def note_float32(folder: Path, pipeline: Any) -> None:
    """Note which parts of a pipeline in this folder are float32."""
    wide = [n for n, part in pipeline.components.items() if getattr(part, "dtype", None) == torch.float32]
    (folder / FLOAT32).write_text(json.dumps(wide), encoding="utf-8")


def _dtypes(config: ModelConfig, folder: Path) -> dict[str, torch.dtype]:
    """Part -> the type that its weights are read in."""
    found = {"default": getattr(torch, config.dtype)}
    if config.train == "full":
        parts = [part for component in config.components for part in PARTS[component]]
        note = folder / FLOAT32
        parts += json.loads(note.read_text(encoding="utf-8")) if note.is_file() else []
        found |= dict.fromkeys(parts, torch.float32)
    return found


def _variant(folder: Path, parts: Sequence[str]) -> str | None:
    """What stands in the names of a pipeline's weights (diffusion_pytorch_model.fp16.safetensors), where a part has no
    others; diffusers reads the other parts by their plain names."""
    for part in parts:
        found = [match[1] for p in sorted((folder / part).iterdir()) if (match := _WEIGHTS.match(p.name))]
        if found and None not in found:
            return str(found[0])
    return None


def _build(config: ModelConfig) -> Any:
    if config.family == "auto":
        raise ValueError(f"model.build needs model.family, one of {', '.join(FAMILIES)}, or your own")
    options = dict(config.build or {})
    seed = options.pop("seed", 0)
    corpus = options.pop("corpus", ["a picture of a thing"])
    if isinstance(corpus, str):
        corpus = resolve(corpus).read_text(encoding="utf-8").splitlines()
    with torch.random.fork_rng(devices=[]), hollow.skeleton():
        torch.manual_seed(seed)
        return family_class(config.family).build(corpus, **options)
