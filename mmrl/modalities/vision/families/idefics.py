"""Idefics3 and SmolVLM: a picture is rows of tiles with their names, and a small one of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.media import Size
from mmrl.modalities.media.features import Features, split_features
from mmrl.modalities.vision.config import ModelConfig
from mmrl.modalities.vision.families.base import Family


class Idefics3(Family):
    """Coordinates are whatever the policy was taught; by default thousandths.

    Pictures are enlarged until their long side is as many tiles as the processor's files say, or `model.tiles`.
    """

    tiled = True

    def __init__(self, model: Any, processor: Any, config: ModelConfig) -> None:
        super().__init__(model, processor, config)
        pictures = processor.image_processor
        if config.tiles is not None:
            pictures.size = {"longest_edge": config.tiles * pictures.max_image_size["longest_edge"]}
            pictures.do_image_splitting = config.tiles > 1

    def towers(self, model: Any) -> list[nn.Module]:
        return [model.base_model.vision_model, model.base_model.connector]

    def language(self, model: Any) -> Any:
        return model.base_model.text_model

    def never_sampled(self, model: Any) -> set[int]:
        marks = {"<fake_token_around_image>", "<global-img>"}
        added = self.processor.tokenizer.get_added_vocab()
        return super().never_sampled(model) | {i for t, i in added.items() if t in marks or t.startswith("<row_")}

    def written(self, size: Size) -> str:
        width, height = size
        _, rows, columns = self.processor.image_processor.get_number_of_image_patches(height, width, {})
        return self.processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0)

    def process(self, image: Any) -> tuple[dict[str, Tensor], Size]:
        made = self.processor.image_processor(images=[[image]], return_tensors="pt")
        inputs = {"pixel_values": made["pixel_values"]}
        if "pixel_attention_mask" in made:
            inputs["pixel_attention_mask"] = made["pixel_attention_mask"]
        return inputs, image.size

    def processor_options(self) -> dict[str, Any]:
        pictures = self.processor.image_processor
        return {"size": dict(pictures.size), "do_image_splitting": pictures.do_image_splitting}

    def feature_count(self, inputs: Mapping[str, Tensor]) -> int:
        return inputs["pixel_values"].shape[1] * self.processor.image_seq_len

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        joined = {name: torch.cat([i[name] for i in inputs], 1).to(model.device) for name in inputs[0]}
        found = model.base_model.get_image_features(**joined, return_dict=True)
        return split_features(found, [self.feature_count(i) for i in inputs])
