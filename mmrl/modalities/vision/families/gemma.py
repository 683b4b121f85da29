"""Gemma 3: a picture is a square of 256 tokens, that see one another both ways, and with pan and scan its crops too."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.media import Size
from mmrl.modalities.media.features import Features
from mmrl.modalities.vision.config import ModelConfig
from mmrl.modalities.vision.families.masks import masks
from mmrl.modalities.vision.families.square import SquarePictures

# What the processor's class takes where its files say null.
SCAN = {
    "pan_and_scan_min_crop_size": 256,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}


class Gemma3(SquarePictures):
    """Coordinates are whatever the policy was taught; by default thousandths.

    Line ends around a picture may become one token with those of the text, so that its frame is read with the text.
    Pan and scan is off unless `model.tiles` is above 1: the most crops of a picture that is not near to a square.
    """

    tiled = True
    not_served = "has pictures whose tokens see one another both ways, which was not tried with vLLM"

    def __init__(self, model: Any, processor: Any, config: ModelConfig) -> None:
        super().__init__(model, processor, config)
        pictures = processor.image_processor
        scan = {name: getattr(pictures, name, None) or value for name, value in SCAN.items()}
        if config.tiles is not None:
            scan["pan_and_scan_max_num_crops"] = config.tiles
        wanted = bool(pictures.do_pan_and_scan) if config.tiles is None else config.tiles > 1
        self.scan: dict[str, Any] = {"do_pan_and_scan": wanted, **scan}
        self._end = {model.config.boi_token_id, model.config.eoi_token_id}

    def never_sampled(self, model: Any) -> set[int]:
        return super().never_sampled(model) | self._end

    # ---------------------------------------------------------------- places

    def written(self, size: Size) -> str:
        return self.processor.tokenizer.image_token * self.processor.image_seq_length

    def parts(self, size: Size) -> int:
        return 1 + self._crops(size)

    def framed(self, text: str, parts: Sequence[int]) -> str:
        """The processor's own frame of each picture, with one token where it has image_seq_length."""
        image = self.processor.tokenizer.image_token
        pieces = text.split(self.processor.image_token)
        whole = [self.processor.replace_image_token({"num_crops": [n - 1]}, 0) for n in parts]
        frames = [frame.replace(image * self.processor.image_seq_length, image) for frame in whole]
        return "".join(itertools.chain(*itertools.zip_longest(pieces, frames, fillvalue="")))

    def seen(self, size: Size) -> Size:
        return size  # boxes are in shares of the picture, whatever its crops are

    def _crops(self, size: Size) -> int:
        """Crops that the processor adds to a picture."""
        if not self.scan["do_pan_and_scan"]:
            return 0
        long, short = max(size), min(size)
        smallest = self.scan["pan_and_scan_min_crop_size"]
        if long / short < self.scan["pan_and_scan_min_ratio_to_activate"]:
            return 0
        count = max(2, min(long // smallest, math.floor(long / short + 0.5)))
        count = min(self.scan["pan_and_scan_max_num_crops"], count)
        return 0 if min(math.ceil(long / count), short) < smallest else count

    # ---------------------------------------------------------------- pictures

    def process(self, image: Any) -> tuple[dict[str, Tensor], Size]:
        made = self.processor.image_processor(images=[image], return_tensors="pt", **self.scan)
        return {"pixel_values": made["pixel_values"]}, image.size

    def processor_options(self) -> dict[str, Any]:
        return self.scan

    # ---------------------------------------------------------------- the decoder

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
        together = None
        if bool(slots.any()):
            first = slots & ~torch.nn.functional.pad(slots, (1, 0))[:, :-1]
            number = first.cumsum(1) * slots  # 0 outside of pictures
            together = (number[:, :, None] == number[:, None, :]) & slots[:, :, None]
        allowed: Any = masks(self.language(model), embeds, attended, cache, together, within=True)
        return super().decode(model, embeds, position, allowed, cache, slots, features, prompt, real)
