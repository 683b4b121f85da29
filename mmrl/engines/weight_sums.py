"""Checksums of weights: whether two machines hold the same, told without sending any."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element


@torch.no_grad()
def sums(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """By name: the type, the sum of all elements' bits read as a whole number, and that of its 1024 parts weighed by
    their place. Where one element is another one, so is the sum."""
    return {name: _sum(weight) for name, weight in weights.items()}


def _sum(weight: Tensor) -> str:
    bits = weight.detach().contiguous().view(-1).view(_WHOLE[weight.element_size()])
    wide = -(-len(bits) // 1024) or 1
    whole = len(bits) // wide * wide
    rows = bits[:whole].view(-1, wide).sum(1, dtype=torch.int64)
    each = torch.cat([rows, bits[whole:].sum(dtype=torch.int64).view(1)]).cpu()
    place = torch.arange(1, len(each) + 1)
    return f"{str(weight.dtype).removeprefix('torch.')} {int(each.sum())} {int((each * place).sum())}"
