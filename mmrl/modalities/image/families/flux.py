"""FLUX.1 (dev, schnell): rectified flow on packed latents, a CLIP and a T5 encoder, distilled guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from mmrl.modalities.image.families.base import Condition, Schedule
from mmrl.modalities.image.families.flow import FlowFamily


class Flux(FlowFamily):
    """Latents are [b, seq, 4 C]: each token is a 2 x 2 block of the VAE's grid, rows first.

    Where the denoiser has an embedded guidance value (dev), the caller puts it in the condition as "guidance"
    [b]; left out, it is 1, the plain conditional model. A denoiser without one (schnell) ignores it.
    """

    name = "flux"
    long_tokenizer = "tokenizer_2"
    pipeline_classes = ("FluxPipeline",)
    lora_targets = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    )  # fmt: skip

    def __init__(self, pipeline: Any, max_sequence_length: int | None = None) -> None:
        super().__init__(pipeline, max_sequence_length)
        self.guidance_embeds = bool(self.denoiser.config.guidance_embeds)

    @property
    def patch(self) -> int:
        return 2

    def native_size(self) -> tuple[int, int]:
        side = self.pipeline.default_sample_size * self.pipeline.vae_scale_factor
        return side, side

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return math.prod(self.token_grid(size)), self.denoiser.config.in_channels

    def encode(self, texts: Sequence[str], size: tuple[int, int]) -> Condition:
        embeds, pooled, _ = self.pipeline.encode_prompt(
            list(texts), device=self.device, max_sequence_length=self.text_length()
        )
        return {"embeds": embeds, "pooled": pooled}

    def text_length(self) -> int:
        return self.max_sequence_length or min(512, self.pipeline.tokenizer_2.model_max_length)

    def schedule(self, steps: int, size: tuple[int, int]) -> Schedule:
        """Evenly spaced sigmas 1 ... 1/steps, shifted as the scheduler's config says."""
        return self.flow_schedule(steps, size, sigmas=np.linspace(1.0, 1 / steps, steps))

    def predict(self, latents: Tensor, time: Tensor, condition: Condition, size: tuple[int, int]) -> Tensor:
        embeds = condition["embeds"]
        guidance = condition.get("guidance", torch.ones_like(time)) if self.guidance_embeds else None
        return self.denoiser(
            hidden_states=latents,
            timestep=time / 1000,
            guidance=guidance,
            encoder_hidden_states=embeds,
            pooled_projections=condition["pooled"],
            txt_ids=latents.new_zeros(embeds.shape[1], 3),
            img_ids=self._positions(size).to(latents),
            return_dict=False,
        )[0]

    def _positions(self, size: tuple[int, int]) -> Tensor:
        """[seq, 3]: 0, row and column of each token, for the rotary embedding."""
        rows, columns = self.token_grid(size)
        token = torch.arange(rows * columns)
        return torch.stack([torch.zeros_like(token), token // columns, token % columns], dim=-1)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        blocks = pixel_unshuffle(super().encode_pixels(pixels), self.patch)
        return blocks.flatten(2).transpose(1, 2)

    def decode(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        blocks = latents.transpose(1, 2).unflatten(2, self.token_grid(size))
        return super().decode(pixel_shuffle(blocks, self.patch), size)
