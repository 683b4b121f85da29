"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.engines.decoder import Row
from mmrl.media import Size
from mmrl.modalities.vision.config import ModelConfig
from mmrl.modalities.vision.families.base import Family, Features


class Qwen2VL(Family):
    """Pictures keep their shape; a token has three positions (time, height, width)."""

    boxes = "qwen2_vl"

    def __init__(self, model: Any, processor: Any, config: ModelConfig) -> None:
        super().__init__(model, processor, config)
        pictures = processor.image_processor
        self.patch, self.merge = pictures.patch_size, pictures.merge_size
        size = dict(pictures.size)
        size["shortest_edge"] = config.min_pixels or size["shortest_edge"]
        size["longest_edge"] = config.max_pixels or size["longest_edge"]
        if size["shortest_edge"] > size["longest_edge"]:
            raise ValueError(
                f"the processor's pixels are {size['shortest_edge']} to {size['longest_edge']}; set both of "
                "model.min_pixels and model.max_pixels"
            )
        pictures.size = size
        self.places = self.slots = torch.tensor([self.image_id, model.config.video_token_id])
        # Qwen2.5-VL's positions of time go on by so many a layer; its processor says no seconds, which are then 1.
        self.interval = int(getattr(model.config.vision_config, "tokens_per_second", 1))

    def film_inputs(self, made: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"pixel_values": made["pixel_values_videos"], "image_grid_thw": made["video_grid_thw"]} if made else {}

    def towers(self, model: Any) -> list[nn.Module]:
        return [model.base_model.visual]

    def written(self, size: Size) -> str:
        width, height = self.seen(size)
        return self.processor.image_token * ((width // self.patch // self.merge) * (height // self.patch // self.merge))

    def seen(self, size: Size) -> Size:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        bounds = self.processor.image_processor.size
        height, width = smart_resize(
            size[1], size[0], self.patch * self.merge, bounds["shortest_edge"], bounds["longest_edge"]
        )
        return width, height

    def process(self, image: Any) -> tuple[dict[str, Tensor], Size]:
        made = self.processor.image_processor(images=[image], return_tensors="pt")
        _, height, width = made["image_grid_thw"][0].tolist()
        inputs = {"pixel_values": made["pixel_values"], "image_grid_thw": made["image_grid_thw"]}
        return inputs, (width * self.patch, height * self.patch)

    def processor_options(self) -> dict[str, Any]:
        return {"size": dict(self.processor.image_processor.size)}

    def feature_count(self, inputs: Mapping[str, Tensor]) -> int:
        return int(inputs["image_grid_thw"].prod()) // self.merge**2

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        found = self._seen(model, inputs)
        counts = [self.feature_count(i) for i in inputs]
        rows = _joined(getattr(found, "pooler_output", found)).split(counts)
        return [Features(row) for row in rows]

    def _seen(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> Any:
        device = model.device
        pixels = torch.cat([i["pixel_values"] for i in inputs]).to(device)
        grid = torch.cat([i["image_grid_thw"] for i in inputs]).to(device)
        return model.base_model.get_image_features(pixels, grid, return_dict=True)

    def positions(self, row: Row) -> Tensor:
        """[3, t]. Text goes on by one; a picture's tokens have (start, start + row, start + column) and what follows
        begins behind the largest of rows and columns. A video's layers go on in time, or have text between them."""
        if not row.media:
            return torch.arange(len(row))[None].expand(3, -1)
        places = torch.nonzero(torch.isin(row.ids, self.slots)).flatten()
        pieces: list[Tensor] = []
        last, following, used = 0, 0, 0
        for picture, layers in ((p, n) for p in row.media for n in self._runs(p.depth)):
            start = int(places[used])
            text = torch.arange(start - last) + following
            following += start - last
            width, height = (side // (self.patch * self.merge) for side in picture.media.seen)
            grid = torch.stack(
                [
                    (torch.arange(layers) * self.interval).repeat_interleave(height * width),
                    torch.arange(height).repeat_interleave(width).repeat(layers),
                    torch.arange(width).repeat(layers * height),
                ]
            )
            pieces += [text.expand(3, -1), grid + following]
            following += max(height, width)
            used += grid.shape[1]
            last = start + grid.shape[1]
        pieces.append((torch.arange(len(row) - last) + following).expand(3, -1))
        return torch.cat(pieces, 1)

    def _runs(self, depth: int) -> list[int]:
        """Layers in time of each run of tokens that a picture or video of this depth has."""
        return [depth]


class Qwen25VL(Qwen2VL):
    """Writes boxes in pixels of what its processor made of the picture."""

    space = "seen"
    boxes = "json"


class Qwen3VL(Qwen2VL):
    """Gives the tower's inner features to inner layers of the decoder. Between a video's layers stands their time."""

    boxes = "json"

    def _runs(self, depth: int) -> list[int]:
        return [1] * depth

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        found = self._seen(model, inputs)
        counts = [self.feature_count(i) for i in inputs]
        rows = _joined(found.pooler_output).split(counts)
        deep = [_joined(layer).split(counts) for layer in found.deepstack_features]
        return [Features(row, tuple(layer[i] for layer in deep)) for i, row in enumerate(rows)]

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
        deep = {}
        if features:
            layers = [torch.cat(layer) for layer in zip(*(f.deep for f in features))]
            deep = {"visual_pos_masks": slots, "deepstack_visual_embeds": layers}
        return self.language(model)(
            inputs_embeds=embeds,
            position_ids=position,
            attention_mask=attended,
            past_key_values=cache,
            use_cache=cache is not None,
            **deep,
        ).last_hidden_state


class Qwen35(Qwen2VL):
    """Most layers are of linear attention, whose state a cache cannot take up again for more than one token."""

    boxes = "json"
    shares_prompts = False

    def _runs(self, depth: int) -> list[int]:
        return [1] * depth


def _joined(rows: Any) -> Tensor:
    """[n, D]: some versions of transformers return one tensor, some a list by picture."""
    return rows if isinstance(rows, Tensor) else torch.cat(list(rows))
