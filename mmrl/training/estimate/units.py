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
    if parameter.ndim == 0:
        return parameter.element_size()
    rows = parameter.shape[0]
    return -(-rows // shards) * (parameter.numel() // max(1, rows)) * parameter.element_size()


def block_names(model: nn.Module) -> set[str]:
    """Names of the classes of a model's blocks, as transformers and diffusers give them; empty where neither does."""
    for key in ("_no_split_modules", "_repeated_blocks"):
        names = getattr(model, key, None)
        if names:
            return set(names)
    return set()


def units(model: nn.Module, whole: Iterable[nn.Module] = ()) -> Iterator[Unit]:
    """The blocks, inner ones before those that hold them, and last what is around them. whole: parts that every process
    keeps as they are. A parameter belongs to the innermost block that has it, a shared one to the first; the rest, tied
    embeddings among it, is the root's.
    """
    names = block_names(model)
    seen = {id(p) for part in whole for p in part.parameters()}
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
