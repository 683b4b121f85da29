"""FLUX.1 (dev, schnell): rectified flow on packed latents, a CLIP and a T5 encoder, distilled guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrl.modalities.image.families.base import Asked, Condition, Row, rows_of
from mmrl.modalities.image.families.packed import PackedFamily


class Flux(PackedFamily):
    """The denoiser of dev takes the guidance as an input; that of schnell has none."""

    name = "flux"
    long_tokenizer = "tokenizer_2"
    pipeline_classes = ("FluxPipeline",)
    guidances = ("embedded", "passes")
    lora_targets = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    )  # fmt: skip

    def __init__(self, pipeline: Any, max_sequence_length: int | None = None) -> None:
        super().__init__(pipeline, max_sequence_length)
        self.guidance = "embedded" if self.denoiser.config.guidance_embeds else "passes"

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.flux import build_flux

        return build_flux(corpus, **options)

    def encode(self, asked: Sequence[Asked], size: tuple[int, int]) -> list[Row]:
        embeds, pooled, _ = self.pipeline.encode_prompt(
            [a.text for a in asked], device=self.device, max_sequence_length=self.text_length()
        )
        return rows_of({"embeds": embeds, "pooled": pooled})

    def text_length(self) -> int:
        return self.max_sequence_length or min(512, self.pipeline.tokenizer_2.model_max_length)

    def sigmas(self, steps: int) -> Any:
        return np.linspace(1.0, 1 / steps, steps)

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Condition,
        size: tuple[int, int],
        guidance: float | None = None,
    ) -> Tensor:
        embeds = condition["embeds"]
        value = self.guidance_off if guidance is None else guidance
        return self.denoiser(
            hidden_states=latents,
            timestep=time / 1000,
            guidance=torch.full_like(time, value) if self.guidance == "embedded" else None,
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
