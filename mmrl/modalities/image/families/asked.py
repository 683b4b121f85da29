"""What a picture or a film is asked for with, its extent, and the rows that a family makes of it for the denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

# What the denoiser is told for one picture, without a batch axis; lengths may differ from row to row.
Row = dict[str, Tensor]
# What `collate` makes of rows: tensors [b, ...], or whatever else, lists and None, the family's `predict` takes.
Condition = dict[str, Any]


class Extent(NamedTuple):
    """How large what is drawn is: height and width in pixels, and how many frames a film has; a picture is one."""

    height: int
    width: int
    frames: int = 1


@dataclass(frozen=True)
class Source:
    """One picture; two are equal that show the same. digest: a name for what it shows. image: RGB."""

    digest: str
    image: Image.Image = field(compare=False, repr=False)


@dataclass(frozen=True)
class Asked:
    """What one picture is asked for with.

    text: None is no prompt at all. pictures: those that the prompt shows, in order. against: whether it is the branch
    that guidance leads away from (the negative prompt), which some pipelines encode otherwise.
    """

    text: str | None
    pictures: tuple[Source, ...] = ()
    against: bool = False

    @property
    def key(self) -> tuple[str | None, tuple[str, ...], bool]:
        """A name for it that holds no picture."""
        return self.text, tuple(picture.digest for picture in self.pictures), self.against


# -------------------------------------------------------------------- rows


def rows_of(tensors: Mapping[str, Tensor]) -> list[Row]:
    """Tensors [n, ...] by name as n rows."""
    parts = {key: value.unbind(0) for key, value in tensors.items()}
    return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]


def grouped(keys: Sequence[Hashable], predict: Callable[[list[int]], Tensor]) -> Tensor:
    """predict(rows) for the rows of each key, put together in the order of the rows: [len(keys), ...].

    For denoisers that take one geometry a call, where the pictures that rows show differ in size.
    """
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    if len(groups) == 1:
        return predict(list(range(len(keys))))
    order = torch.tensor([row for rows in groups.values() for row in rows])
    together = torch.cat([predict(rows) for rows in groups.values()])
    return together[order.argsort().to(together.device)]


def padded(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Tensors [L_i, d] of several lengths -> ([b, L, d] with zeros behind, [b, L] bool: which are theirs)."""
    lengths = torch.tensor([len(value) for value in values], device=values[0].device)
    longest = max(len(value) for value in values)
    stacked = torch.stack([pad(value, (0, 0, 0, longest - len(value))) for value in values])
    return stacked, torch.arange(longest, device=stacked.device) < lengths[:, None]


# -------------------------------------------------------------------- pictures


def scaled(size: tuple[int, int], area: int, step: int) -> tuple[int, int]:
    """(width, height) in multiples of `step`, about as wide to high as `size`, and of `area` pixels at most."""
    shrink = min(1.0, math.sqrt(area / (size[0] * size[1])))
    width, height = (max(step, int(side * shrink) // step * step) for side in size)
    return width, height
