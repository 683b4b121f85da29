"""A row as an engine outside of the policy reads it: one placeholder for each medium, which it expands itself."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mmrl.media import Perceived


class Shown(Protocol):
    """What stands in a row, as an engine outside of the policy takes it.

    expansion: [e] int64, the ids that stand for it where the policy reads. placeholder: the one id that stands for it
    where the engine does, and in the expansion once for each feature. image: what the engine's processor takes, a PIL
    picture or the samples of a sound. media: what it is.
    """

    @property
    def key(self) -> Hashable: ...

    @property
    def expansion(self) -> Tensor: ...

    @property
    def placeholder(self) -> int: ...

    @property
    def image(self) -> Any: ...

    @property
    def media(self) -> Perceived: ...


def collapse(ids: Tensor, media: Sequence[Shown]) -> Tensor:
    """Ids with its one placeholder instead of each medium's expansion, in order.

    Raises ValueError where an expansion is not whole, or where there are placeholders of more than these.
    """
    pieces, last = [], 0
    marks = torch.tensor(sorted({shown.placeholder for shown in media}))
    for shown in media:
        first = int(torch.nonzero(shown.expansion == shown.placeholder)[0])
        found = torch.nonzero(torch.isin(ids[last:], marks)).flatten()
        start = last + int(found[0]) - first if len(found) else -1
        end = start + len(shown.expansion)
        if start < last or not torch.equal(ids[start:end], shown.expansion):
            raise ValueError("the ids of a picture or a sound are not those of its expansion")
        pieces += [ids[last:start], torch.tensor([shown.placeholder])]
        last = end
    if bool(torch.isin(ids[last:], marks).any()):
        raise ValueError("there are more placeholders than pictures and sounds")
    return torch.cat([*pieces, ids[last:]])
