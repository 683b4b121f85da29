"""torch's AdamW, in one kernel for all parameters where torch has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

FUSED_ON = frozenset({"cpu", "cuda"})


def adamw(
    parameters: Sequence[nn.Parameter], lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.AdamW:
    """See torch.optim.AdamW. Fused, it holds nothing beside the two moments, and reads each number once.

    Not fused where weights are in another order in memory, as `channels_last` has them: the kernel takes what lies at
    the same place for the same element, and what a checkpoint gives back lies in rows.
    """
    fused = all(p.device.type in FUSED_ON and p.is_floating_point() and p.is_contiguous() for p in parameters)
    return torch.optim.AdamW(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
