"""Graphs of a rollout's own forwards, kept until the first update goes back through them: it need not replay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmrl.modalities.image.kernels import Transition


class Graphs:
    """Transitions of denoised batches with their graphs, of one set of weights. Each is given away once: a backward
    frees what it goes through. `slices` of replay.py keeps the rows of a batch together for that.
    """

    def __init__(self) -> None:
        self._tag: int | None = None
        self._kept: dict[tuple[int, int], Transition] = {}

    def begin(self, tag: int) -> None:
        """Forget what is of other weights than those of this tag."""
        if tag != self._tag:
            self._tag = tag
            self._kept.clear()

    def keep(self, batch: int, step: int, transition: Transition) -> None:
        """batch: a number of the batch, which trajectories store; step: of the schedule."""
        self._kept[batch, step] = transition

    def take(self, tag: int, places: Sequence[tuple[int, int, int]]) -> Transition | None:
        """The transitions of (batch, step, row of the batch), or None where not all are there, or fewer than two thirds
        of a batch are asked for. tag: of the weights as they are now."""
        self.begin(tag)
        rows: dict[tuple[int, int], list[int]] = {}
        where: dict[tuple[int, int], list[int]] = {}
        for place, (batch, step, row) in enumerate(places):
            rows.setdefault((batch, step), []).append(row)
            where.setdefault((batch, step), []).append(place)
        if not rows.keys() <= self._kept.keys():
            return None
        found = [(self._kept.pop(key), torch.tensor(own)) for key, own in rows.items()]
        # A backward goes through all rows of a batch, and costs two forwards: with few of them a replay is less.
        if any(3 * len(own) < 2 * len(kept.mean) for kept, own in found):
            return None
        order = torch.tensor([place for places in where.values() for place in places]).argsort()

        def gathered(name: str) -> Tensor:
            parts = torch.cat([getattr(kept, name)[own.to(kept.mean.device)] for kept, own in found])
            return parts[order.to(parts.device)]

        return Transition(gathered("mean"), gathered("std"), gathered("dt"))
