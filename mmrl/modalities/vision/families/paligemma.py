"""PaliGemma and PaliGemma 2: pictures stand before the text, and a prompt's tokens see one another both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.media import Size
from mmrl.modalities.media.features import Features
from mmrl.modalities.vision.families.masks import masks
from mmrl.modalities.vision.families.square import SquarePictures


class PaliGemma(SquarePictures):
    """Positions begin at 1. A box is four tokens <loc0000> to <loc1023>."""

    space = "loc1024"
    boxes = "paligemma"
    prefix_attention = True
    first_position = 1
    not_served = "has its pictures where vLLM wants them, not where the prompt does"

    def written(self, size: Size) -> str:
        return self.processor.replace_image_token({}, 0)

    def seen(self, size: Size) -> Size:
        square = self.processor.image_processor.size
        return (square["width"], square["height"])

    def process(self, image: Any) -> tuple[dict[str, Tensor], Size]:
        made = self.processor.image_processor(images=[image], return_tensors="pt")
        return {"pixel_values": made["pixel_values"]}, tuple(made["pixel_values"].shape[:1:-1])

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
        # Gemma's layers here are not causal by themselves: without a mask of their own all would see all.
        batch, width = embeds.shape[:2]
        every = torch.ones(batch, width, width, dtype=torch.bool, device=embeds.device) if prompt else None
        allowed: Any = masks(self.language(model), embeds, attended, cache, every, within=False)
        return super().decode(model, embeds, position, allowed, cache, slots, features, prompt, real)
