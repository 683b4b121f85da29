"""LLaVA-OneVision: a picture that stands alone is shown whole and in tiles, several are shown whole."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.media import Size
from mmrl.modalities.media.features import Features
from mmrl.modalities.vision.config import ModelConfig
from mmrl.modalities.vision.families.base import Family


class LlavaOneVision(Family):
    """Boxes are in shares of the picture, as in the data that LLaVA's models were trained on.

    Whether a picture stands alone is told by its record: one that is shown later in a conversation, or a part of it, is
    shown as the record's pictures are.
    """

    space = "norm1"
    boxes = "plain"
    alone = True

    def __init__(self, model: Any, processor: Any, config: ModelConfig) -> None:
        super().__init__(model, processor, config)
        square = processor.image_processor.size
        self.places = self.slots = torch.tensor([self.image_id, model.config.video_token_id])
        self.side: int = square.get("height") or square["shortest_edge"]
        self._beside = copy.copy(self)
        self._beside.alone = False

    def among(self, pictures: int) -> Family:
        return self if pictures < 2 else self._beside

    def film_inputs(self, made: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"frames": made["pixel_values_videos"]} if made else {}

    def towers(self, model: Any) -> list[nn.Module]:
        return [model.base_model.vision_tower, model.base_model.multi_modal_projector]

    def written(self, size: Size) -> str:
        pixels = torch.empty(1, 1, 3, self.side, self.side, device="meta")
        told = {"batch_num_images": [1 if self.alone else 2], "image_sizes": [size[::-1]], "pixel_values": pixels}
        return self.processor.replace_image_token(told, 0)

    def process(self, image: Any) -> tuple[dict[str, Tensor], Size]:
        pictures = [[image]] if self.alone else [[image, image]]
        made = self.processor.image_processor(images=pictures, return_tensors="pt")
        inputs = {name: made[name][:1] for name in ("pixel_values", "image_sizes")}
        return inputs | {"alone": torch.tensor([self.alone])}, image.size

    def feature_count(self, inputs: Mapping[str, Tensor]) -> int:
        if "frames" in inputs:  # each of its features pooled to a half along both sides, and the end of a line
            return inputs["frames"].shape[1] * math.ceil(math.sqrt(self.processor.num_image_tokens) / 2) ** 2 + 1
        height, width = inputs["image_sizes"][0].tolist()
        family: Any = self if bool(inputs["alone"]) == self.alone else self._beside
        return int((family.expansion((width, height)) == self.image_id).sum())

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        """Pictures of either kind, and each video, in a forward of their own."""
        made: dict[int, Features] = {}
        for place, given in enumerate(inputs):
            if "frames" in given:
                found = model.base_model.get_video_features(given["frames"].to(model.device), return_dict=True)
                made[place] = Features(found.pooler_output[0])
        for alone in (True, False):
            chosen = [i for i, given in enumerate(inputs) if "alone" in given and bool(given["alone"]) == alone]
            for place, rows in zip(chosen, self._seen(model, [inputs[i] for i in chosen], alone)):
                made[place] = Features(rows)
        return [made[i] for i in range(len(inputs))]

    def _seen(self, model: Any, inputs: Sequence[Mapping[str, Tensor]], alone: bool) -> Sequence[Tensor]:
        if not inputs:
            return []
        # The model takes a picture to stand alone where it is the only one: of several there must be two.
        given = list(inputs) if alone or len(inputs) > 1 else [inputs[0], inputs[0]]
        pixels = torch.cat([p for i in given for p in i["pixel_values"]]).to(model.device)
        found = model.base_model.get_image_features(
            pixels,
            torch.cat([i["image_sizes"] for i in given]).to(model.device),
            batch_num_images=torch.tensor([1] * len(given) if alone else [len(given)]),
            return_dict=True,
        )
        return found.pooler_output[: len(inputs)]
