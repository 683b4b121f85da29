"""Flow families whose latents are a sequence of tokens, each a 2 x 2 block of the VAE's grid, rows first."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from mmrl.modalities.image.families.flow import FlowFamily


class PackedFamily(FlowFamily):
    """Latents are [b, tokens, 4 C]."""

    @property
    def patch(self) -> int:
        return 2

    def native_size(self) -> tuple[int, int]:
        side = self.pipeline.default_sample_size * self.pipeline.vae_scale_factor
        return side, side

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return math.prod(self.token_grid(size)), self.denoiser.config.in_channels

    def pack(self, latents: Tensor) -> Tensor:
        return pixel_unshuffle(latents, self.patch).flatten(2).transpose(1, 2)

    def unpack(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        return pixel_shuffle(latents.transpose(1, 2).unflatten(2, self.token_grid(size)), self.patch)
