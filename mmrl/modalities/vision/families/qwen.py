"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmrl.engines.decoder import Row
from mmrl.modalities.media.qwen import DeepDecoder, DeepEyes, QwenEyes, axes
from mmrl.modalities.vision.config import ModelConfig
from mmrl.modalities.vision.families.base import Family


class Qwen2VL(QwenEyes, Family):
    boxes = "qwen2_vl"

    def __init__(self, model: Any, processor: Any, config: ModelConfig) -> None:
        super().__init__(model, processor, config)
        self.fit(model.config.video_token_id, config.min_pixels, config.max_pixels)
        # Qwen2.5-VL's positions of time go on by so many a layer; its processor says no seconds, which are then 1.
        self.interval = int(getattr(model.config.vision_config, "tokens_per_second", 1))

    def film_inputs(self, made: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"pixel_values": made["pixel_values_videos"], "image_grid_thw": made["video_grid_thw"]} if made else {}

    def towers(self, model: Any) -> list[nn.Module]:
        return [model.base_model.visual]

    def positions(self, row: Row) -> Tensor:
        return axes(row, self.slots, self.patch * self.merge, self.interval, self._runs)

    def _runs(self, depth: int) -> list[int]:
        """Layers in time of each run of tokens that a picture or video of this depth has."""
        return [depth]


class Qwen25VL(Qwen2VL):
    """Writes boxes in pixels of what its processor made of the picture."""

    space = "seen"
    boxes = "json"


class Qwen3VL(DeepEyes, DeepDecoder, Qwen2VL):
    """Gives the tower's inner features to inner layers of the decoder. Between a video's layers stands their time."""

    boxes = "json"

    def _runs(self, depth: int) -> list[int]:
        return [1] * depth


class Qwen35(Qwen2VL):
    """Most layers are of linear attention, whose state a cache cannot take up again for more than one token."""

    boxes = "json"
    shares_prompts = False

    def _runs(self, depth: int) -> list[int]:
        return [1] * depth
