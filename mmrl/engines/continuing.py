"""Rows that are sampled token by token: what of a decoder's work is kept from one token to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mmrl.engines.blocks import Blocks
from mmrl.engines.decoder import Decoder, Row
from mmrl.engines.folded_blocks import WORTH


class Continuing(Protocol):
    """b rows that grow by a token at a time. No gradient."""

    # [b, D], what the next token's distribution comes from.
    hidden: Tensor
    # Whether no code but mmrl's takes part in a step: then none that keeps a tensor for later.
    alone: bool

    def select(self, rows: Tensor) -> None:
        """Go on with the rows at `rows` [k] only, in this order."""

    def step(self, token: Tensor) -> None:
        """Each row has one more token [b]."""


class Cached:
    """Rows of each prompt on a cache that was filled by one forward of each. Shorter prompts are padded on the left.

    counts: rows of each prompt. room: tokens that a row may still have. blocks: by engines.blocks, where that is right
    for the decoder as it is now; fold: with its weights folded; None: where that pays.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Row],
        counts: Sequence[int],
        room: int,
        blocks: bool = False,
        fold: bool | None = None,
    ) -> None:
        from mmrl.engines.cache import repeat_rows

        self.decoder, self.cache = decoder, decoder.new_cache()
        states = decoder.run(prompts, left=True, cache=self.cache)
        repeat_rows(self.cache, counts, decoder.device)
        module = decoder.module
        self._blocks: Blocks | None = None
        if blocks and Blocks.usable(module, self.cache):
            places = int(states.next.min()), int(states.next.max()) + room
            self._blocks = Blocks(module, places, room >= WORTH if fold is None else fold)
        self.alone = self._blocks is not None and self._blocks.alone
        self.hidden = _repeated(states.hidden[:, -1], counts)
        self._position = _repeated(states.next, counts)
        self._seen = max(len(prompt) for prompt in prompts)
        self._attended = states.attended
        if self._attended is not None:  # without padding the attention needs no mask, and is faster
            ones = self._attended.new_ones(len(prompts), room)
            self._attended = _repeated(torch.cat([self._attended, ones], 1), counts)
            if self._blocks is not None:
                self._attended = self._attended[:, None, None].bool()

    def select(self, rows: Tensor) -> None:
        from mmrl.engines.cache import select_rows

        select_rows(self.cache, rows)
        self.hidden, self._position = self.hidden[rows], self._position[rows]
        self._attended = None if self._attended is None else self._attended[rows]

    def step(self, token: Tensor) -> None:
        self._seen += 1
        attended = None if self._attended is None else self._attended[..., : self._seen]
        steps = self.decoder if self._blocks is None else self._blocks
        self.hidden = steps.step(token, self._position, self.cache, attended)
        self._position = self._position + 1

    def last(self, token: Tensor, room: int) -> None:
        """The step of the last of `room` tokens, where the cache has those before it."""
        self._seen, self._position = self._seen + room - 1, self._position + room - 1
        self.step(token)


class Recomputed:
    """Rows of each prompt, each computed whole for every token: for decoders whose cache is of no use here."""

    alone = False

    def __init__(self, decoder: Decoder, prompts: Sequence[Row], counts: Sequence[int], room: int) -> None:
        self.decoder = decoder
        self._rows = [prompt for prompt, count in zip(prompts, counts) for _ in range(count)]
        self.hidden = _repeated(self._last(prompts), counts)

    def select(self, rows: Tensor) -> None:
        self._rows = [self._rows[row] for row in rows.tolist()]
        self.hidden = self.hidden[rows]

    def step(self, token: Tensor) -> None:
        self._rows = [row.then(Row(own[None])) for row, own in zip(self._rows, token.cpu())]
        self.hidden = self._last(self._rows)

    def _last(self, rows: Sequence[Row]) -> Tensor:
        hidden = self.decoder.run(rows).hidden
        ends = torch.tensor([len(row) - 1 for row in rows], device=hidden.device)
        return hidden[torch.arange(len(rows), device=hidden.device), ends]


def _repeated(values: Any, counts: Sequence[int]) -> Any:
    if len(set(counts)) == 1:
        return values.repeat_interleave(counts[0], dim=0) if counts[0] > 1 else values
    return values.repeat_interleave(torch.tensor(counts, device=values.device), dim=0, output_size=sum(counts))
