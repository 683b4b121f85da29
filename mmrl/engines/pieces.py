"""Which pieces of a line of tokens see which, and how they are padded for kernels that know only rows of one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mmrl.copying import to_device

# A block takes pieces down to half of its longest one, and a little less, so that padding is at most half of it.
RATIO, SLACK = 2, 16
# Pairs of tokens that a block of its own has to spare: on a CPU, and where its calls take longer than what they do.
APART, APART_THERE = 2**15, 2**22


@dataclass(frozen=True)
class Pieces:
    """Queries in pieces, one behind the other, of which piece i sees piece i of the keys: all of it, or causally where
    the two are the same tokens.

    queries, keys: how many tokens each piece has, none of them 0.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    causal: bool
    device: torch.device

    @cached_property
    def query_ends(self) -> Tensor:
        """[pieces + 1] int32, where each piece of the queries begins and the last one ends."""
        return _ends(self.queries, self.device)

    @cached_property
    def key_ends(self) -> Tensor:
        """The same of the keys."""
        return self.query_ends if self.causal else _ends(self.keys, self.device)

    @cached_property
    def blocks(self) -> list[Block]:
        """The pieces, as padded together."""
        return [Block.of(self, group) for group in self._groups()]

    def _groups(self) -> list[list[int]]:
        """Pieces of about one length. Where all are, they stay in order."""
        sizes = list(zip(self.keys, self.queries))
        order = list(range(len(sizes)))
        if not all(_alike(max(lengths), min(lengths)) for lengths in (self.queries, self.keys)):
            order.sort(key=lambda i: sizes[i], reverse=True)
        groups: list[list[int]] = []
        for i in order:
            if not groups or not all(
                _alike(max(lengths), min(lengths)) for lengths in zip(*(sizes[k] for k in (*groups[-1], i)))
            ):
                groups.append([])
            groups[-1].append(i)
        return [part for group in groups for part in self._cut(group)]

    def _cut(self, group: list[int]) -> list[list[int]]:
        """A group in two, and so on, where that leaves out much padding."""
        sizes = {i: (self.keys[i], self.queries[i]) for i in group}
        order = sorted(group, key=sizes.__getitem__, reverse=True)
        keys, queries = (max(lengths) for lengths in zip(*sizes.values()))
        best, most = 0, APART if self.device.type == "cpu" else APART_THERE
        behind = (0, 0)
        for place in range(len(order) - 1, 0, -1):
            own = sizes[order[place]]
            behind = max(behind[0], own[0]), max(behind[1], own[1])
            spared = (len(order) - place) * (keys * queries - behind[0] * behind[1])
            if spared > most:
                best, most = place, spared
        if not best:
            return [group]
        return [*self._cut(order[:best]), *self._cut(order[best:])]


@dataclass(frozen=True)
class Block:
    """Pieces side by side. unseen: [rows, keys] bool, True at keys that are padding; None where none is seen: causal
    queries have all of it behind them."""

    queries: Padded
    keys: Padded
    unseen: Tensor | None

    @classmethod
    def of(cls, pieces: Pieces, group: Sequence[int]) -> Block:
        """Of the pieces with these numbers."""
        queries = Padded.of(pieces.queries, group, pieces.device)
        if pieces.causal:
            return cls(queries, queries, None)
        keys = Padded.of(pieces.keys, group, pieces.device)
        lengths = torch.tensor([pieces.keys[i] for i in group])
        unseen = torch.arange(keys.width)[None] >= lengths[:, None]
        return cls(queries, keys, to_device(unseen, pieces.device) if bool(unseen.any()) else None)


@dataclass(frozen=True)
class Padded:
    """[rows, width] places for pieces; at the empty ones a row's last token stands again.

    everything: whether they are all pieces there are, in order. tokens: [n], which tokens they are. places: [rows *
    width], the token that stands at each. filled: [n], where the tokens stand. empty: the places left, None if none is.
    """

    rows: int
    width: int
    everything: bool
    tokens: Tensor
    places: Tensor
    filled: Tensor
    empty: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], group: Sequence[int], device: torch.device) -> Padded:
        """lengths: of all pieces. group: which of them are rows."""
        ends = torch.tensor(lengths).cumsum(0)[list(group)]
        own = torch.tensor(lengths)[list(group)]
        width = int(own.max())
        standing = torch.arange(width)[None].minimum(own[:, None] - 1)
        places = ((ends - own)[:, None] + standing).flatten()
        real = (torch.arange(width)[None] < own[:, None]).flatten()
        filled, empty = real.nonzero()[:, 0], real.logical_not().nonzero()[:, 0]
        tokens = places[filled]
        everything = torch.equal(tokens, torch.arange(sum(lengths)))
        tokens, places, filled, empty = (to_device(x, device) for x in (tokens, places, filled, empty))
        return cls(len(group), width, everything, tokens, places, filled, empty if len(empty) else None)

    def pad(self, pieces: Tensor) -> Tensor:
        """[N, h, ...] -> [rows, h, width, ...]. What stands twice is computed twice, and dropped by `put`."""
        own = pieces if self.everything and self.empty is None else pieces.index_select(0, self.places)
        return own.unflatten(0, (self.rows, self.width)).transpose(1, 2)

    def pad_gradient(self, pieces: Tensor) -> Tensor:
        """The same of a gradient: 0 at empty places."""
        if self.empty is None:
            return self.pad(pieces)
        own = pieces.index_select(0, self.places).index_fill_(0, self.empty, 0)
        return own.unflatten(0, (self.rows, self.width)).transpose(1, 2)

    def put(self, made: Tensor, pieces: Tensor | None) -> Tensor:
        """[rows, h, width, ...] -> [N, h, ...]: its tokens into `pieces`; where it has all of them, they are new."""
        flat = made.transpose(1, 2).flatten(0, 1)
        own = flat if self.empty is None else flat.index_select(0, self.filled)
        if self.everything or pieces is None:
            return own
        return pieces.index_copy_(0, self.tokens, own)


def _alike(longest: int, shortest: int) -> bool:
    return longest <= RATIO * shortest + SLACK


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    return to_device(torch.tensor([0, *lengths]).cumsum(0).to(torch.int32), device)
