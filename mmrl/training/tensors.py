"""Tensors by name, as checkpoints hold them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read, or does not fit the run; says which and what to do."""


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@torch.no_grad()
def copy_into(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into targets of the same names and shapes. Raises as refuse_misfit, before anything is copied."""
    refuse_misfit(targets, tensors, where)
    for name, target in targets.items():
        target.copy_(tensors[name])


def refuse_misfit(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError where names or shapes differ: weights missing, or broadcast, would be another model."""
    missing, extra = sorted(targets.keys() - tensors.keys()), sorted(tensors.keys() - targets.keys())
    odd = [n for n in targets if n in tensors and targets[n].shape != tensors[n].shape]
    if missing or extra or odd:
        problems = [
            f"{len(missing)} tensors are missing, first {missing[0]}" if missing else "",
            f"{len(extra)} are not the run's, first {extra[0]}" if extra else "",
            f"{odd[0]} is {list(tensors[odd[0]].shape)}, expected {list(targets[odd[0]].shape)}" if odd else "",
        ]
        raise CheckpointError(
            f"the checkpoint does not fit ({where}): {'; '.join(p for p in problems if p)}. Resume with the model that "
            "the run began with"
        )
