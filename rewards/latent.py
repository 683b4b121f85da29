"""Scores of latents: a small head on what a diffusion model made, before any pixel is decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrl.rewarding import RewardError
from mmrl.seeds import seed_of
from mmrl.types import Sample, Score

from .heads import linear_layers

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}


class score:
    """head(mean and spread of each channel of the latent) * scale; the prompt is not looked at.

    head: .safetensors file of linear layers (rewards/heads.py). The first takes C numbers, the means of the latent's
    channels over its places, or 2 C, the means and then the standard deviations; one more number is the level.
    level: the noise level, from 0 (clean, the default) to below 1, at which latents are looked at, as a head that was
    trained on noisy ones wants it: x = (1 - level) clean + level noise, of a noise that is each sample's own.
    activation: between the layers: "none", "relu" or "gelu".
    """

    reads = "latents"

    def __init__(self, head: str, level: float = 0.0, activation: str = "relu", scale: float = 1.0) -> None:
        if activation not in ACTIVATIONS:
            raise RewardError(f"latent: activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
        if not 0 <= level < 1:
            raise RewardError(f"latent: level {level} is a noise level, from 0 to below 1")
        self.layers = linear_layers(head, "latent")
        self.level, self.activation, self.scale = level, ACTIVATIONS[activation], scale

    def __call__(self, samples: list[Sample]) -> Sequence[Score | float]:
        return [self._score(sample) for sample in samples]

    @torch.inference_mode()
    def _score(self, sample: Sample) -> Score | float:
        latent = sample.latents.get("clean")
        if latent is None:
            return Score.invalid("the sample has no latent: the reward is to be named by itself, in a training")
        x = self._noised(latent.float(), sample).flatten(1)
        if not bool(x.isfinite().all()):
            return Score.invalid("the latent is not finite")
        width, channels = self.layers[0][0].shape[1], len(x)
        parts = {1: [x.mean(1)], 2: [x.mean(1), x.std(1, correction=0)]}.get(width // channels)
        if parts is None or width % channels > 1:
            return Score.invalid(
                f"the head takes {width} numbers: a latent of {channels} channels gives {channels} or {2 * channels}, "
                "and one more for the level"
            )
        if width % channels:
            parts = [*parts, x.new_tensor([self.level])]
        found = torch.cat(parts)
        for place, (weight, bias) in enumerate(self.layers):
            found = F.linear(self.activation(found) if place else found, weight, bias)
        return float(found[0]) * self.scale

    def _noised(self, latent: Tensor, sample: Sample) -> Tensor:
        if not self.level:
            return latent
        generator = torch.Generator().manual_seed(seed_of("latent", sample.prompt.id, sample.index))
        return (1 - self.level) * latent + self.level * torch.randn(latent.shape, generator=generator)
