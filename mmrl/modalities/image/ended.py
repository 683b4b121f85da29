"""Samples of whose making nothing is trained: their latents alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmrl.types import Sample, Trajectory

CLEAN = "clean"


def ended(latent: Tensor, others: Mapping[str, Tensor] | None = None) -> Trajectory:
    """That of a latent, without an action. others: what is stored beside it."""
    return Trajectory(torch.zeros(0), torch.zeros(0, dtype=torch.bool), {CLEAN: latent, **(others or {})})


def ends(samples: Sequence[Sample]) -> Tensor:
    """The latents [b, ...] of such samples."""
    return torch.stack([sample.actions.tensors[CLEAN] for sample in samples])
