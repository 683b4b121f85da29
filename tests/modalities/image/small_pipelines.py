"""Tiny untrained pipelines as adapters, and what the tests of several files ask of them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

import mmrl  # noqa: F401  before diffusers: it hooks the import of torchvision
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families.asked import Asked
from mmrl.types import Group, Prompt, Sample

CORPUS = ["a red circle", "two blue squares above a green triangle"]
PROMPTS = [Prompt("p0", "a red circle"), Prompt("p1", "two blue squares")]
SIZE, STEPS, GUIDANCE, LEVEL = 32, 4, 3.0, 0.7
LATENT = (8, 4, 4)  # of the tiny SD3: 8 channels, 8 pixels to a latent

# Small numbers for each builder; FLUX has no small native size, so every config names SIZE.
BUILD = {
    "sd3": {"layers": 2, "heads": 2, "head_dim": 16, "grid": 4},
    "flux": {},
    "sd": {},
    "sdxl": {},
}
LORA = {"train": "lora", "lora": {"rank": 2, "alpha": 4}}


def adapter(family: str = "sd3", build: dict | None = None, sampling: dict | None = None, **model) -> ImageAdapter:
    drawn = {"steps": STEPS, "guidance": GUIDANCE, "size": SIZE, **(sampling or {})}
    if family != "sd" and family != "sdxl":
        drawn.setdefault("noise_level", LEVEL)
    parts = {"corpus": CORPUS, **BUILD[family], **(build or {})}
    return ImageAdapter(ModelConfig(path="built", family=family, build=parts, sampling=drawn, **model))


def asked(texts) -> list[Asked]:
    return [Asked(text) for text in texts]


def encoded(family, texts, size) -> dict:
    """The condition of these texts, as `predict` takes it."""
    return family.collate(family.encode(asked(texts), size))


def blank(family, n, size) -> dict:
    """The condition of n times no prompt at all."""
    return family.collate(family.encode_against([Asked(None, against=True)], size) * n)


def with_levels(family, steps: int, own):
    """Euler steps for a pipeline that asks its scheduler for `steps` alone, at the levels of the family's schedule.

    own: the pipeline's own scheduler, from which the family has those levels.
    """
    family.pipeline.scheduler = own
    scheduler, sigmas = copy.deepcopy(family.scheduler), family.sigmas(steps)
    plain = scheduler.set_timesteps
    scheduler.set_timesteps = lambda steps, device: plain(steps, device=device, sigmas=sigmas)
    return scheduler


def roll(policy: ImageAdapter, n: int = 2, step: int = 0, seed: int = 7, prompts=PROMPTS) -> list[Sample]:
    groups = policy.rollout([Group(p, i) for i, p in enumerate(prompts)], n, step, seed)
    return [s for g in groups for s in g.samples]


def stored(samples: list[Sample], key: str) -> Tensor:
    return torch.stack([s.trajectory.tensors[key] for s in samples])


def old_logp(samples: list[Sample]) -> Tensor:
    return torch.stack([s.trajectory.logp for s in samples])


def all_columns(samples: list[Sample]) -> Tensor:
    return torch.arange(len(samples[0].trajectory.logp))


def nudge(policy: ImageAdapter, size: float = 1e-2) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def gradients(policy: ImageAdapter, loss: Tensor) -> dict[str, Tensor]:
    parameters = policy.trainable_parameters()
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {k: g for k, g in zip(parameters, found) if g is not None}


def transitions(policy: ImageAdapter, samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """Means [B, T, ...] and standard deviations of the replayed steps under the policy's own weights."""
    seen = []
    inner = policy.policy.log_prob

    def log_prob(after, transition):
        seen.append(transition)
        return inner(after, transition)

    policy.policy.log_prob = log_prob
    try:
        policy.logprobs(samples, all_columns(samples))
    finally:
        del policy.policy.log_prob
    shape = (len(samples), -1)
    return seen[0].mean.unflatten(0, shape), seen[0].std.unflatten(0, shape)
