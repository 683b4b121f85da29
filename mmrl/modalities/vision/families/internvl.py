"""InternVL, transformers' own classes: a picture is tiles of one size, and a small one of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.media import Size
from mmrl.modalities.media.features import Features, split_features
from mmrl.modalities.vision.config import ModelConfig
from mmrl.modalities.vision.families.base import Family


class InternVL(Family):
    """Boxes are in thousandths of the picture.

    The files of released models say that pictures are not to be cut, and the processor, which their models were trained
    with, cuts them: into up to 12 tiles, or `model.tiles`.
    """

    boxes = "internvl"
    tiled = True

    def __init__(self, model: Any, processor: Any, config: ModelConfig) -> None:
        super().__init__(model, processor, config)
        pictures = processor.image_processor
        most = pictures.max_patches if config.tiles is None else config.tiles
        least = min(pictures.min_patches, most)
        film = processor.tokenizer.convert_tokens_to_ids(processor.video_token)
        self.places = torch.tensor([self.image_id, film])
        self.tiles = {"crop_to_patches": True, "min_patches": least, "max_patches": most}

    def film_inputs(self, made: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"pixel_values": made["pixel_values_videos"].flatten(0, 1)} if made else {}

    def towers(self, model: Any) -> list[nn.Module]:
        return [model.base_model.vision_tower, model.base_model.multi_modal_projector]

    def never_sampled(self, model: Any) -> set[int]:
        tokenizer = self.processor.tokenizer
        marks = {tokenizer.convert_tokens_to_ids(t) for t in ("<img>", "</img>")} - {None, tokenizer.unk_token_id}
        video = getattr(self.processor, "video_token", None)
        return super().never_sampled(model) | marks | ({tokenizer.convert_tokens_to_ids(video)} if video else set())

    def written(self, size: Size) -> str:
        width, height = size
        count = self.processor.image_processor.get_number_of_image_patches(height, width, self.tiles)
        return self.processor.replace_image_token({"num_patches": [count]}, 0)

    def process(self, image: Any) -> tuple[dict[str, Tensor], Size]:
        made = self.processor.image_processor(images=[image], return_tensors="pt", **self.tiles)
        return {"pixel_values": made["pixel_values"]}, image.size

    def processor_options(self) -> dict[str, Any]:
        return dict(self.tiles)

    def feature_count(self, inputs: Mapping[str, Tensor]) -> int:
        return len(inputs["pixel_values"]) * self.processor.image_seq_length

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        pixels = torch.cat([i["pixel_values"] for i in inputs]).to(model.device)
        config = model.config
        found = model.base_model.get_image_features(
            pixels,
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            return_dict=True,
        )
        return split_features(found, [self.feature_count(i) for i in inputs])
