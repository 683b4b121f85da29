"""The importance ratio, per action or per sequence, as a differentiable logarithm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# exp(20) is 5e8: a gap beyond it is a broken replay or a dead action, and must not become inf.
LIMIT = 20.0


def token(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Each action its own ratio (PPO)."""
    return log_ratio


def sequence(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """The mean over a sequence's trained actions, the same at each of them: GSPO (arXiv 2507.18071)."""
    return log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1) * mask


def sequence_token(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """The value of `sequence` with the gradient of each action's own log-prob: GSPO-token, same paper."""
    return sequence(log_ratio.detach(), mask) + (log_ratio - log_ratio.detach())


def product(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """The sum over a sequence's trained actions, the same at each of them: the ratio of whole sequences (TOPR).

    Each action of the loss then carries the gradient of all of them; the aggregation must divide by their number
    (sequence_mean), so that a sequence counts once.
    """
    return log_ratio.sum(1, keepdim=True) * mask


LEVELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "token": token,
    "sequence": sequence,
    "sequence_token": sequence_token,
    "product": product,
}


def log_ratio(logp: Tensor, logp_old: Tensor, mask: Tensor, level: str) -> Tensor:
    """Differentiable log of the ratio current / old, [B, T]; 0 with zero gradient where the mask is False.

    logp, logp_old: [B, T]; half precision is widened to float32 first. Masked entries may hold anything.
    mask: [B, T] bool.
    level: a name in LEVELS. The sequence levels need all trained actions of a row in the same call.
    """
    gap = torch.where(mask, _widen(logp), 0.0) - torch.where(mask, _widen(logp_old.detach()), 0.0)
    return LEVELS[level](gap, mask)


def ratio(log_ratio: Tensor) -> Tensor:
    """exp(log_ratio), detached, with the exponent held within +-20 so that it is always finite."""
    return log_ratio.detach().clamp(-LIMIT, LIMIT).exp()


def _widen(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
