"""The seeded order in which records are used."""

from __future__ import annotations

from functools import lru_cache

import torch

from mmrl.seeds import seed_of


def cyclic_indices(start: int, count: int, size: int, seed: int) -> list[int]:
    """Entries start..start+count of an endless sequence of seeded permutations of range(size)."""
    found: list[int] = []
    while len(found) < count:
        epoch, offset = divmod(start + len(found), size)
        found += _pass(size, seed, epoch)[offset : offset + count - len(found)].tolist()
    return found


@lru_cache(maxsize=4)
def _pass(size: int, seed: int, epoch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(size, generator=generator)
