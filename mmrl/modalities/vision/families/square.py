"""What Gemma 3 and PaliGemma share: square pictures of a fixed number of features, and masks of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.modalities.media.features import Features, split_features
from mmrl.modalities.vision.families.base import Family


class SquarePictures(Family):
    """Each picture of `pixel_values` has `image_seq_length` features."""

    own_masks = True

    def towers(self, model: Any) -> list[nn.Module]:
        return [model.base_model.vision_tower, model.base_model.multi_modal_projector]

    def feature_count(self, inputs: Mapping[str, Tensor]) -> int:
        return len(inputs["pixel_values"]) * self.processor.image_seq_length

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        pixels = torch.cat([i["pixel_values"] for i in inputs]).to(model.device)
        found = model.base_model.get_image_features(pixels, return_dict=True)
        return split_features(found, [self.feature_count(i) for i in inputs])

    def new_cache(self, decoder: Any) -> Any:
        from transformers import DynamicCache

        return DynamicCache()  # whole in every layer: `masks` cuts the windows
