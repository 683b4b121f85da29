"""A small model that draws pictures, and what is compared of it here and on servers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.types import Group, Prompt, Sample

CORPUS = ["a red circle", "two blue squares above a green triangle"]
PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(["a red circle", "two blue squares", "a circle", "squares"])]
BUILD = {"sd3": {"layers": 1, "heads": 2, "head_dim": 16, "grid": 4}}
LORA = {"train": "lora", "lora": {"rank": 2, "alpha": 4}}


def made(family: str = "sd3", sampling: dict[str, Any] | None = None, **model: Any) -> ImageAdapter:
    """The same weights each time."""
    torch.manual_seed(0)
    drawn = {"steps": 3, "guidance": 3.5 if family == "flux_kontext" else 3.0, "size": 32, **(sampling or {})}
    build = {"corpus": CORPUS, **BUILD.get(family, {})}
    return ImageAdapter(ModelConfig(path="built", family=family, build=build, sampling=drawn, **model))


def to(servers: list[Any], **extra: Any) -> dict[str, Any]:
    """The part of a model's config that has them draw."""
    return {"engine": {"name": "servers", "options": {"url": [s.url for s in servers], "timeout": 30, **extra}}}


def moved(adapter: ImageAdapter, seed: int) -> None:
    """Its trained weights, a little elsewhere; seed: where."""
    generator = torch.Generator().manual_seed(seed)
    for weight in adapter.trainable_parameters().values():
        weight.data.add_(0.02 * torch.randn(weight.shape, generator=generator))


def groups(n: int = 4) -> list[Group]:
    return [Group(prompt, index) for index, prompt in enumerate(PROMPTS[:n])]


def numbers(sample: Sample) -> dict[str, torch.Tensor]:
    """Everything that is kept of a sample."""
    picture = torch.from_numpy(np.array(sample.artifact))
    return {"logp": sample.actions.logp, "mask": sample.actions.mask, "picture": picture, **sample.actions.tensors}


def largest(mine: list[Group], theirs: list[Group]) -> float:
    """How far two rollouts are apart; a picture's numbers count as those of its latents."""
    assert [(g.prompt.id, g.index, len(g.samples)) for g in mine] == [
        (g.prompt.id, g.index, len(g.samples)) for g in theirs
    ]
    apart = [0.0]
    for one, other in zip((s for g in mine for s in g.samples), (s for g in theirs for s in g.samples)):
        first, second = numbers(one), numbers(other)
        assert first.keys() == second.keys() and one.index == other.index
        apart += [
            float((first[name].float() - second[name].float()).abs().max())
            for name in first
            if name != "picture" and len(first[name])
        ]
        assert int((first["picture"].int() - second["picture"].int()).abs().max()) <= 1
    return max(apart)
