"""Rows of ids and pictures in, hidden states out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.engines.decoder import Decoder, Row
from mmrl.modalities.kept import Kept
from mmrl.modalities.vision.families.base import Family, Features
from mmrl.modalities.vision.pictures import Picture, cut


class VisionDecoder(Decoder):
    """The decoder of a vision-language model, its pictures computed once however many rows show them.

    kept: features by picture; those of a trained tower are good for as long as its weights stay, which is a rollout or
    a micro-batch. frozen: whether the tower has no gradient.
    """

    def __init__(self, model: Any, family: Family, kept: Kept[Features], frozen: bool) -> None:
        super().__init__(family.language(model))
        self.model, self.family, self.kept, self.frozen = model, family, kept, frozen
        self.prefix_attention, self.first_position = family.prefix_attention, family.first_position

    def new_cache(self) -> Any:
        return self.family.new_cache(self.module)

    def cut(self, row: Row, length: int) -> Row:
        return cut(row, length, self.family.slots)

    def positions(self, row: Row) -> Tensor:
        return self.family.positions(row)

    def forward(
        self,
        ids: Tensor,
        position: Tensor,
        attended: Tensor | None,
        cache: Any,
        media: Sequence[Picture],
        real: Tensor | None,
        prompt: bool = False,
    ) -> Tensor:
        slots = torch.isin(ids, self.family.slots.to(ids.device))
        if real is not None:
            slots = slots & real
        embeds = self.module.get_input_embeddings()(ids.masked_fill(slots, 0))
        features = self.features(media)
        count = sum(len(f.embeds) for f in features)
        if real is not None and count != int(slots.sum()):
            raise ValueError(f"{int(slots.sum())} placeholders for {count} features of {len(media)} pictures")
        if features:
            rows = torch.cat([f.embeds for f in features]).to(embeds)
            embeds = embeds.masked_scatter(slots[..., None], rows)
        return self.family.decode(self.model, embeds, position, attended, cache, slots, features, prompt, real)

    def features(self, pictures: Sequence[Picture]) -> list[Features]:
        """Features of each picture, in order; those that are not known yet in one forward of the tower."""
        if not pictures:
            return []
        graph = torch.is_grad_enabled() and not self.frozen  # what was made without a gradient has none
        unique = {(p.key, graph): p for p in pictures}
        found = {key: known for key in unique if (known := self.kept.get(key)) is not None}
        new = {key: picture for key, picture in unique.items() if key not in found}
        if new:
            with torch.set_grad_enabled(graph):
                made = self.family.features(self.model, [p.inputs for p in new.values()])
            for key, features in zip(new, made):
                found[key] = features
                self.kept.put(key, features)
        return [found[p.key, graph] for p in pictures]
