"""A row as an engine outside of the policy reads it: one placeholder for each picture, which it expands itself."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Shown(Protocol):
    """What stands in a row, as an engine outside of the policy takes it.

    expansion: [e] int64, the ids that stand for it where the policy reads. placeholder: the one id that stands for it
    where the engine does, and in the expansion once for each feature. image: a PIL picture for the engine's processor.
    """

    @property
    def key(self) -> Hashable: ...

    @property
    def expansion(self) -> Tensor: ...

    @property
    def placeholder(self) -> int: ...

    @property
    def image(self) -> Any: ...


def collapse(ids: Tensor, media: Sequence[Shown], placeholder: int) -> Tensor:
    """Ids with one placeholder instead of each medium's expansion, in order.

    Raises ValueError where an expansion is not whole, or where there are placeholders of more than these.
    """
    pieces, last = [], 0
    for shown in media:
        first = int(torch.nonzero(shown.expansion == placeholder)[0])
        found = torch.nonzero(ids[last:] == placeholder).flatten()
        start = last + int(found[0]) - first if len(found) else -1
        end = start + len(shown.expansion)
        if start < last or not torch.equal(ids[start:end], shown.expansion):
            raise ValueError("the ids of a picture are not those of its expansion")
        pieces += [ids[last:start], torch.tensor([placeholder])]
        last = end
    if bool((ids[last:] == placeholder).any()):
        raise ValueError("there are more placeholders than pictures")
    return torch.cat([*pieces, ids[last:]])
