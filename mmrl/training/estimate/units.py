"""Which parameters a sharded model gathers together, and what one of its processes keeps of each: shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Unit:
    """Parameters that are gathered for one block, or for the model around its blocks (root)."""

    parameters: tuple[nn.Parameter, ...]
    root: bool = False

    def gathered(self, compute: torch.dtype) -> int:
        """Bytes of the whole of it, floating-point numbers in the type that is computed in where that is smaller."""
        return sum(p.numel() * width(p, compute) for p in self.parameters)

    def gradients(self, compute: torch.dtype) -> int:
        """Bytes of the whole gradients of what is trained in it, before they are summed and split."""
        return sum(p.numel() * width(p, compute) for p in self.parameters if p.requires_grad)


def width(tensor: Tensor, compute: torch.dtype) -> int:
    """Bytes of one number of a tensor as a forward in `compute` holds it."""
    return min(tensor.element_size(), compute.itemsize) if tensor.is_floating_point() else tensor.element_size()


def kept(parameter: Tensor, shards: int) -> int:
    """Bytes of a parameter that the fullest of so many processes keeps: it is split along its first dimension, and all
    have room for as much as the first (torch.distributed.fsdp.fully_shard pads)."""
    rows = parameter.shape[0]
    return -(-rows // shards) * (parameter.numel() // max(1, rows)) * parameter.element_size()


def units(model: nn.Module, blocks: Iterable[str], whole: Iterable[nn.Module] = ()) -> Iterator[Unit]:
    """The blocks, inner ones before those that hold them, and last what is around them. blocks: names of their classes.
    whole: parts that every process keeps as they are, as it does single numbers. A parameter belongs to the innermost
    block that has it, a shared one to the first; the rest, tied embeddings among it, is the root's.
    """
    names = set(blocks)
    seen = {id(p) for part in whole for p in part.parameters()} | {id(p) for p in model.parameters() if p.ndim == 0}
    for module in reversed(list(model.modules())):
        if module is not model and type(module).__name__ in names and (own := _new(module, seen)):
            yield Unit(own)
    if own := _new(model, seen):
        yield Unit(own, root=True)


def _new(module: nn.Module, seen: set[int]) -> tuple[nn.Parameter, ...]:
    found = [p for p in module.parameters() if id(p) not in seen]
    seen.update(map(id, found))
    return tuple(found)


def most_gathered(found: Sequence[Unit], compute: torch.dtype) -> int:
    """Bytes that are whole at one time while a model runs: what is around the blocks, the block that computes, and the
    next, which is on its way."""
    blocks = sorted((unit.gathered(compute) for unit in found if not unit.root), reverse=True)
    return sum(unit.gathered(compute) for unit in found if unit.root) + sum(blocks[:2])
