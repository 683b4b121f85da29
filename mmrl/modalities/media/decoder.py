"""Rows of ids and media in, hidden states out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.engines.decoder import Decoder, Row
from mmrl.modalities.media.family import Family
from mmrl.modalities.media.features import Features, Room, Tower
from mmrl.modalities.media.shown import Shown, cut


class MediaDecoder(Decoder):
    """The decoder of a model that sees or hears, its media computed once however many rows show them.

    rooms: where the features of each tower are kept.
    """

    def __init__(self, model: Any, family: Family, rooms: Mapping[Tower, Room]) -> None:
        super().__init__(family.language(model))
        self.model, self.family, self.rooms = model, family, rooms
        self.prefix_attention, self.first_position = family.prefix_attention, family.first_position

    def new_cache(self) -> Any:
        return self.family.new_cache(self.module)

    def cut(self, row: Row, length: int) -> Row:
        return cut(row, length, self.family.slots, self.family.shows)

    def positions(self, row: Row) -> Tensor:
        return self.family.positions(row)

    def forward(
        self,
        ids: Tensor,
        position: Tensor,
        attended: Tensor | None,
        cache: Any,
        media: Sequence[Shown],
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
            shows = self.family.shows
            raise ValueError(f"{int(slots.sum())} placeholders for {count} features of {len(media)} {shows}")
        if features:
            rows = torch.cat([f.embeds for f in features]).to(embeds)
            embeds = embeds.masked_scatter(slots[..., None], rows)
        return self.family.decode(self.model, embeds, position, attended, cache, slots, features, prompt, real)

    def features(self, media: Sequence[Shown]) -> list[Features]:
        """Features of each medium, in order; those that are not known yet in one call of their tower."""
        found: dict[Any, Features] = {}
        for tower in dict.fromkeys(shown.tower for shown in media):
            found |= self._of(tower, [shown for shown in media if shown.tower is tower])
        return [found[shown.tower, shown.key] for shown in media]

    def _of(self, tower: Tower, media: Sequence[Shown]) -> dict[Any, Features]:
        room = self.rooms[tower]
        graph = torch.is_grad_enabled() and not room.frozen  # what was made without a gradient has none
        unique = {(shown.key, graph): shown for shown in media}
        found = {key: known for key in unique if (known := room.kept.get(key)) is not None}
        new = {key: shown for key, shown in unique.items() if key not in found}
        if new:
            with torch.set_grad_enabled(graph):
                made = tower.features(self.model, [shown.inputs for shown in new.values()])
            for key, features in zip(new, made):
                found[key] = features
                room.kept.put(key, features)
        return {(tower, key): features for (key, _), features in found.items()}
