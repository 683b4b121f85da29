"""Samples of whose making nothing is trained: their latents alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmrl.types import Sample, Trajectory

CLEAN = "clean"


def ended(latent: Tensor) -> Trajectory:
    """That of a latent, without an action."""
    return Trajectory(torch.zeros(0), torch.zeros(0, dtype=torch.bool), {CLEAN: latent})


def ends(samples: Sequence[Sample]) -> Tensor:
    """The latents [b, ...] of such samples."""
    return torch.stack([sample.actions.tensors[CLEAN] for sample in samples])
