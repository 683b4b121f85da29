"""Gates: how an action's ratio scales or cuts its gradient, one small function each, in GATES.

A gate takes (ratio [B, T], advantage [B, T], algorithm) and returns the coefficient c [B, T] for which the
gradient of the published surrogate is exactly -c A d(log ratio). The loss uses c detached, so no gate can
introduce a gradient of its own. c(1, A) = 1: the first update after a rollout is REINFORCE, whatever the
gate.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmrl.core.algorithm import Algorithm

Gate = Callable[[Tensor, Tensor, Algorithm], Tensor]


def ppo(ratio: Tensor, advantage: Tensor, algorithm: Algorithm) -> Tensor:
    """min(r A, clip(r, 1-low, 1+high) A): the ratio, or 0 where it has already moved the way A pushes it.

    PPO (arXiv 1707.06347); different bounds on both sides: DAPO (arXiv 2503.14476).
    """
    low, high = _clip_range(algorithm)
    cut = ((advantage > 0) & (ratio > high)) | ((advantage < 0) & (ratio < low))
    return torch.where(cut, 0.0, ratio)


def bounded(ratio: Tensor, advantage: Tensor, algorithm: Algorithm) -> Tensor:
    """ppo, and 0 too where A < 0 and the ratio is above `clip_bound`, which ppo leaves unbounded.

    Two-sided GRPO (INTELLECT-2, arXiv 2505.07291) writes it min(min(r, bound) A, clip(r) A), dual clip
    (arXiv 1912.09729) max(min(r A, clip(r) A), bound A) for A < 0; with a bound above the clip range they are
    the same function.
    """
    over = (advantage < 0) & (ratio > algorithm.clip_bound)
    return torch.where(over, 0.0, ppo(ratio, advantage, algorithm))


def cispo(ratio: Tensor, advantage: Tensor, algorithm: Algorithm) -> Tensor:
    """min(r, cap): no action loses its gradient. CISPO (MiniMax-M1, arXiv 2506.13585) without a lower bound.

    `cap` bounds the ratio itself, not its distance from 1.
    """
    return ratio.clamp(max=algorithm.cap)


def sapo(ratio: Tensor, advantage: Tensor, algorithm: Algorithm) -> Tensor:
    """Soft gate: surrogate (4/tau) s(tau (r-1)) A with the logistic s, hence c = 4 s (1-s) r.

    SAPO (arXiv 2511.20347); tau is tau_pos where A > 0 and tau_neg elsewhere.
    """
    tau = torch.full_like(ratio, algorithm.tau_neg).masked_fill(advantage > 0, algorithm.tau_pos)
    x = tau * (ratio - 1)
    return 4 * torch.sigmoid(x) * torch.sigmoid(-x) * ratio


def none(ratio: Tensor, advantage: Tensor, algorithm: Algorithm) -> Tensor:
    """The ratio itself: the unclipped importance-weighted surrogate r A."""
    return ratio


GATES: dict[str, Gate] = {
    "ppo": ppo,
    "two_sided": bounded,
    "dual_clip": bounded,
    "cispo": cispo,
    "sapo": sapo,
    "none": none,
}

# Gates that scale every action a little: for them "cut" has no meaning.
SOFT = frozenset({"sapo"})


def clip_flags(ratio: Tensor, advantage: Tensor, algorithm: Algorithm) -> tuple[Tensor, Tensor]:
    """(low, high), [B, T] bool: where the gate held the gradient back, with the ratio below or above 1.

    Held back means c < r: to 0 by a clip, to the cap by cispo. Actions with A = 0 have nothing to hold back.
    """
    held = (GATES[algorithm.gate](ratio, advantage, algorithm) < ratio) & (advantage != 0)
    if algorithm.gate in SOFT:
        held = torch.zeros_like(held)
    return held & (ratio < 1), held & (ratio > 1)


def _clip_range(algorithm: Algorithm) -> tuple[float, float]:
    if algorithm.clip_low is None or algorithm.clip_high is None:
        raise ValueError(
            f"gate {algorithm.gate!r}: clip_low or clip_high is None; "
            "set both, or call algorithm.with_defaults(clip_low, clip_high) with the adapter's defaults first"
        )
    return 1 - algorithm.clip_low, 1 + algorithm.clip_high
