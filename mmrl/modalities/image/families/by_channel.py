"""Autoencoders whose latents have a mean and a spread for each channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmrl.modalities.image.families.base import Family


class ByChannel(Family):
    """`latents_mean` and `latents_std` in the VAE's config, one number a channel."""

    latent_axes = 2  # of a latent of the VAE, behind its channels

    def latent_scale(self) -> tuple[Any, Any]:
        config = self.vae.config
        mean, std = (
            torch.tensor(values, device=self.vae.device).view(1, -1, *[1] * self.latent_axes)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, 1 / std

    def standardise(self, latents: Tensor) -> None:
        axes = (0, *range(2, latents.ndim))
        self.vae.register_to_config(latents_mean=latents.mean(axes).tolist(), latents_std=latents.std(axes).tolist())
