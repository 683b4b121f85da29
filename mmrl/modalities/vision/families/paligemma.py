"""PaliGemma: pictures stand before the text, and a prompt's tokens see one another in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.media import Size
from mmrl.modalities.vision.families.base import Family, Features, split_features


class PaliGemma(Family):
    """Positions begin at 1. Coordinates are whatever the policy was taught; by default thousandths."""

    prefix_attention = True
    first_position = 1

    def towers(self, model: Any) -> list[nn.Module]:
        return [model.base_model.vision_tower, model.base_model.multi_modal_projector]

    def process(self, image: Any) -> tuple[dict[str, Tensor], Size]:
        made = self.processor.image_processor(images=[image], return_tensors="pt")
        return {"pixel_values": made["pixel_values"]}, tuple(made["pixel_values"].shape[:1:-1])

    def feature_count(self, inputs: Mapping[str, Tensor]) -> int:
        return len(inputs["pixel_values"]) * self.processor.image_seq_length

    def expansion(self, size: Size) -> Tensor:
        return torch.full((self.processor.image_seq_length,), self.image_id)

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        pixels = torch.cat([i["pixel_values"] for i in inputs]).to(model.device)
        found = model.base_model.get_image_features(pixels, return_dict=True)
        return split_features(found, [self.feature_count(i) for i in inputs])

    def decode(
        self,
        model: Any,
        embeds: Tensor,
        position: Tensor,
        attended: Tensor | None,
        cache: Any,
        slots: Tensor,
        features: Sequence[Features],
        prompt: bool,
        real: Tensor | None,
    ) -> Tensor:
        if embeds.shape[1] > 1:
            attended = _mask(attended, cache, prompt, embeds)
        return super().decode(model, embeds, position, attended, cache, slots, features, prompt, real)


def _mask(attended: Tensor | None, cache: Any, prompt: bool, embeds: Tensor) -> Tensor:
    """[b, 1, q, k] to be added to the scores. Gemma's layers here are not causal by themselves: without a mask of their
    own, or with one of ones, all tokens would see all others."""
    batch, width = embeds.shape[:2]
    seen = 0 if cache is None else cache.get_seq_length()
    real = torch.ones(batch, seen + width, device=embeds.device) if attended is None else attended
    allowed = real.bool()[:, None, :].expand(-1, width, -1)
    if not prompt:
        place = torch.arange(seen + width, device=embeds.device)
        allowed = allowed & (place[None] <= place[seen:, None])
    allowed = allowed | torch.eye(seen + width, device=embeds.device).bool()[seen:]  # padding sees itself: no NaN
    lowest = torch.finfo(embeds.dtype).min
    return torch.zeros(allowed.shape, dtype=embeds.dtype, device=embeds.device).masked_fill(~allowed, lowest)[:, None]
