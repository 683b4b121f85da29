"""The optimizer with its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmrl.config import OptimConfig
from mmrl.modalities.shards import Shards
from mmrl.training.adamw import adamw
from mmrl.training.muon import MuonAdamW
from mmrl.training.spam import Spam


def learning_rate(config: OptimConfig, update: int, updates: int) -> float:
    """The rate of the `update`-th of `updates` optimizer steps (counted from 0)."""
    warm = min(1.0, (update + 1) / config.warmup) if config.warmup else 1.0
    done = min(1.0, update / max(1, updates))
    shape = {
        "constant": 1.0,
        "linear": 1 - (1 - config.final_lr) * done,
        "cosine": config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done)),
    }[config.schedule]
    return config.lr * warm * shape


def build(
    config: OptimConfig, parameters: dict[str, nn.Parameter], shards: Shards | None = None
) -> torch.optim.Optimizer:
    """The optimizer that `config.name` says, over the parameters in their order. shards: where they are parts."""
    if config.name == "muon":
        return MuonAdamW(
            parameters,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            momentum=config.muon_momentum,
            ratio=config.muon_ratio,
            shards=shards,
        )
    trained = list(parameters.values())
    if config.name == "spam":
        return Spam(
            trained,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            threshold=config.spam_threshold,
            reset_every=config.spam_reset_every,
            warmup=config.spam_warmup,
            clip_after=config.spam_clip_after,
        )
    return adamw(trained, config.lr, config.betas, config.eps, config.weight_decay)


# Copies of a parameter that a step of SPAM or Muon holds at most, measured: roots and clipped gradients of the one, the
# iterates of the other in 16 bit, and its update.
COPIES = 4


def scratch(optimizer: torch.optim.Optimizer, together: bool, size: Callable[[Tensor], int]) -> int:
    """Bytes that a step works with beside gradients and what it remembers; none where a fused kernel makes it.

    together: all parameters at once, as torch's AdamW does on GPUs without that kernel. size: of a parameter, or of the
    part of it that is here.
    """
    if isinstance(optimizer, MuonAdamW):
        return max(scratch(part, together, size) for part in optimizer.parts)
    sizes = [size(p) for group in optimizer.param_groups for p in group["params"]]
    if not isinstance(optimizer, torch.optim.AdamW):
        return COPIES * max(sizes, default=0)
    if all(group["fused"] for group in optimizer.param_groups):
        return 0
    # A root of the second moment and its quotient, beside the quotient of the parameter before.
    return sum(sizes) if together else 3 * max(sizes, default=0)
