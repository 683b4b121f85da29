"""The seeded order in which records are used."""

from __future__ import annotations

import torch

from mmrl.seeds import seed_of


def cyclic_indices(start: int, count: int, size: int, seed: int) -> list[int]:
    """Entries start..start+count of an endless sequence of seeded permutations of range(size)."""
    found: list[int] = []
    while len(found) < count:
        epoch, offset = divmod(start + len(found), size)
        generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
        order = torch.randperm(size, generator=generator)
        found += order[offset : offset + count - len(found)].tolist()
    return found
