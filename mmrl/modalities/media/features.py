"""What a tower makes of a medium, and where that is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mmrl.modalities.kept import Kept


@dataclass(frozen=True)
class Features:
    """What the tower makes of one medium: [tokens, D], and the same again for inner layers of the decoder."""

    embeds: Tensor
    deep: tuple[Tensor, ...] = ()

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        return sum(t.numel() * t.element_size() for t in (self.embeds, *self.deep))


class Tower(Protocol):
    """Makes features of media of one kind."""

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        """What the model's tower makes of processed media, in as few forwards as give each what it gets alone."""


@dataclass(frozen=True)
class Room:
    """Features of one tower by medium. Those of a trained tower are good for as long as its weights stay, which is a
    rollout or a micro-batch. frozen: whether the tower has no gradient."""

    kept: Kept[Features]
    frozen: bool


def split_features(found: Any, counts: Sequence[int]) -> list[Features]:
    """One Features a medium from what a `get_..._features` returns: a list by medium, or rows of all of them."""
    pooled = getattr(found, "pooler_output", found)
    rows = pooled if isinstance(pooled, Tensor) and pooled.ndim == 2 else joined_rows(pooled)
    return [Features(part) for part in rows.split(list(counts))]


def joined_rows(pooled: Any) -> Tensor:
    """[n, D] of a list of [..., D], or of one such tensor."""
    return torch.cat([p.reshape(-1, p.shape[-1]) for p in pooled])
