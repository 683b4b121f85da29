"""PaliGemma and PaliGemma 2: pictures stand before the text, and a prompt's tokens see one another both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.media import Size
from mmrl.modalities.vision.families.base import Family, Features, split_features
from mmrl.modalities.vision.families.masks import masks


class PaliGemma(Family):
    """Positions begin at 1. A box is four tokens <loc0000> to <loc1023>."""

    space = "loc1024"
    boxes = "paligemma"
    prefix_attention = True
    first_position = 1
    own_masks = True
    not_served = "has its pictures where vLLM wants them, not where the prompt does"

    def towers(self, model: Any) -> list[nn.Module]:
        return [model.base_model.vision_tower, model.base_model.multi_modal_projector]

    def written(self, size: Size) -> str:
        return self.processor.replace_image_token({}, 0)

    def seen(self, size: Size) -> Size:
        square = self.processor.image_processor.size
        return (square["width"], square["height"])

    def process(self, image: Any) -> tuple[dict[str, Tensor], Size]:
        made = self.processor.image_processor(images=[image], return_tensors="pt")
        return {"pixel_values": made["pixel_values"]}, tuple(made["pixel_values"].shape[:1:-1])

    def feature_count(self, inputs: Mapping[str, Tensor]) -> int:
        return len(inputs["pixel_values"]) * self.processor.image_seq_length

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        pixels = torch.cat([i["pixel_values"] for i in inputs]).to(model.device)
        found = model.base_model.get_image_features(pixels, return_dict=True)
        return split_features(found, [self.feature_count(i) for i in inputs])

    def new_cache(self, decoder: Any) -> Any:
        from transformers import DynamicCache

        return DynamicCache()  # whole in every layer: `masks` cuts the windows

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
