"""Flow families whose latents are a sequence of tokens, each a 2 x 2 block of the VAE's grid, rows first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from mmrl.modalities.image.families.asked import Condition, Extent, Row, grouped
from mmrl.modalities.image.families.flow import FlowFamily

# Rows of a batch: some, or all without a copy.
Rows = list[int] | slice
SHOWN = ("source", "places")


class PackedFamily(FlowFamily):
    """Latents are [b, tokens, 4 C]."""

    @property
    def patch(self) -> int:
        return 2

    def native_size(self) -> tuple[int, int]:
        side = self.pipeline.default_sample_size * self.cell
        return side, side

    def latent_shape(self, size: Extent) -> tuple[int, ...]:
        return math.prod(self.token_grid(size)), self.denoiser.config.in_channels

    def of_picture(self, block: nn.Module, tokens: Tensor, size: Extent) -> Tensor:
        """They stand before those of the pictures that a prompt shows."""
        return tokens[:, : self.tokens(size)]

    def pack(self, latents: Tensor) -> Tensor:
        return pixel_unshuffle(latents, self.patch).flatten(2).transpose(1, 2)

    def unpack(self, latents: Tensor, size: Extent) -> Tensor:
        return pixel_shuffle(latents.transpose(1, 2).unflatten(2, self.token_grid(size)), self.patch)


class ShowingFamily(PackedFamily):
    """With the latents of the pictures that a prompt shows behind those that are drawn, at places of their own.

    The rows of prompts that show some have "source" [tokens, 4 C] and "places" [tokens, axes].
    """

    def collate(self, rows: Sequence[Row]) -> Condition:
        if not any("source" in row for row in rows):
            return super().collate(rows)
        stacked = {key: torch.stack([row[key] for row in rows]) for key in rows[0] if key not in SHOWN}
        alike = [row["places"].cpu().numpy().tobytes() if "places" in row else None for row in rows]
        return {**stacked, **{key: [row.get(key) for row in rows] for key in SHOWN}, "alike": alike}

    def beside(
        self,
        latents: Tensor,
        places: Tensor,
        condition: Condition,
        denoise: Callable[[Rows, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """The output for latents [b, tokens, 4 C] at `places` [tokens, axes], pictures put behind and taken off again.

        denoise(rows, tokens, places): of rows whose pictures lie at the same places; it is called once for each.
        """
        if "source" not in condition:
            return denoise(slice(None), latents, places)
        source, theirs = condition["source"], condition["places"]

        def some(rows: list[int]) -> Tensor:
            if source[rows[0]] is None:
                return denoise(rows, latents[rows], places)
            tokens = torch.cat([latents[rows], torch.stack([source[row] for row in rows])], dim=1)
            return denoise(rows, tokens, torch.cat([places, theirs[rows[0]].to(places)]))[:, : len(places)]

        return grouped(condition["alike"], some)
