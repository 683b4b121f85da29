"""How Qwen's models see, from Qwen2-VL to the Omni thinkers, and where the three positions of a token are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.engines.decoder import Row
from mmrl.media import Media, Size
from mmrl.modalities.media.eyes import Eyes
from mmrl.modalities.media.family import Family
from mmrl.modalities.media.features import Features


class QwenEyes(Eyes):
    """Pictures keep their shape; a token has three positions (time, height, width)."""

    def fit(self, video_id: int, least: int | None = None, most: int | None = None) -> None:
        """Take the processor's numbers. least, most: areas that it makes of a picture, where not its own."""
        pictures = self.processor.image_processor
        self.patch, self.merge = pictures.patch_size, pictures.merge_size
        size = dict(pictures.size)
        size["shortest_edge"] = least or size["shortest_edge"]
        size["longest_edge"] = most or size["longest_edge"]
        if size["shortest_edge"] > size["longest_edge"]:
            raise ValueError(
                f"the processor's pixels are {size['shortest_edge']} to {size['longest_edge']}; set both of "
                "model.min_pixels and model.max_pixels"
            )
        pictures.size = size
        self.places = self.slots = torch.tensor([self.image_id, video_id])

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


class DeepEyes(QwenEyes):
    """The tower gives its inner features to inner layers of the decoder."""

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        found = self._seen(model, inputs)
        counts = [self.feature_count(i) for i in inputs]
        rows = _joined(found.pooler_output).split(counts)
        deep = [_joined(layer).split(counts) for layer in found.deepstack_features]
        return [Features(row, tuple(layer[i] for layer in deep)) for i, row in enumerate(rows)]


def axes(row: Row, slots: Tensor, cell: int, interval: int, runs: Callable[[int], list[int]]) -> Tensor:
    """[3, t] positions. Text and sounds go on by one; a picture's tokens have (start, start + row, start + column) and
    what follows begins behind the largest of rows and columns. A video's layers go on in time, or have text between.

    slots: ids of placeholders. cell: pixels of a token's side. interval: positions in time of a layer. runs: layers of
    each run of tokens that a picture or video of this depth has.
    """
    if not any(isinstance(shown.media, Media) for shown in row.media):
        return torch.arange(len(row))[None].expand(3, -1)
    places = torch.nonzero(torch.isin(row.ids, slots)).flatten()
    pieces: list[Tensor] = []
    last, following, used = 0, 0, 0
    for shown in row.media:
        if not isinstance(shown.media, Media):
            used += shown.tokens
            continue
        for layers in runs(shown.depth):
            start = int(places[used])
            text = torch.arange(start - last) + following
            following += start - last
            width, height = (side // cell for side in shown.media.seen)
            grid = torch.stack(
                [
                    (torch.arange(layers) * interval).repeat_interleave(height * width),
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


class DeepDecoder(Family):
    """Inner layers of the decoder get the tower's inner features."""

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
        return decode_deep(self.language(model), embeds, position, attended, cache, slots, features)


def decode_deep(
    decoder: Any,
    embeds: Tensor,
    position: Tensor,
    attended: Tensor | None,
    cache: Any,
    slots: Tensor,
    features: Sequence[Features],
) -> Tensor:
    """Hidden states where pictures enter inner layers, too, and sounds do not; see Family.decode."""
    deep = {}
    seen = [f for f in features if f.deep]
    if seen:
        marks = torch.cat([torch.full((len(f.embeds),), bool(f.deep)) for f in features])
        where = slots.masked_scatter(slots, marks.to(slots.device))
        layers = [torch.cat(layer) for layer in zip(*(f.deep for f in seen))]
        deep = {"visual_pos_masks": where, "deepstack_visual_embeds": layers}
    return decoder(
        inputs_embeds=embeds,
        position_ids=position,
        attention_mask=attended,
        past_key_values=cache,
        use_cache=cache is not None,
        **deep,
    ).last_hidden_state


def _joined(rows: Any) -> Tensor:
    """[n, D]: some versions of transformers return one tensor, some a list by picture."""
    return rows if isinstance(rows, Tensor) else torch.cat(list(rows))
