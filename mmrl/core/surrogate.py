"""A surrogate of the reward for a few-step generator (TDM-R1, arXiv 2603.07700): pure functions of tensors.

The surrogate is a trained copy of the generator's teacher. It is led, by the group preference of
mmrl.core.denoising_preference, to denoise good samples better than the frozen reference does and bad ones worse; what
it would rather have than the reference is then a direction in which the reward grows, also for samples and times at
which no reward was asked. An error is `mmrl.core.flow_match.matching_error` of the surrogate (differentiable), of the
reference, or of the surrogate's slow copy, at the same time and noise: [B], as is the advantage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmrl.core.denoising_preference import dgpo
from mmrl.core.distribution import sized
from mmrl.core.flow_match import wide


def outside_trust(error: Tensor, error_slow: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """[B] bool: PPO's clip by the ratio exp(error_slow - error), of a sample that went the wanted way: above 1 + clip
    where A > 0, below 1 - clip elsewhere. The slow copy is what the surrogate was some updates ago."""
    ratio = torch.exp((error_slow - error).detach())
    return torch.where(advantage.to(ratio) > 0, ratio > 1 + clip, ratio < 1 - clip)


def beyond_reference(error: Tensor, error_ref: Tensor, advantage: Tensor, limit: float) -> Tensor:
    """[B] bool: (error - error_ref)^2 is over `limit` in the wanted direction, down where A > 0 and up elsewhere."""
    gap = (error - error_ref).detach()
    wanted = torch.where(advantage.to(gap) > 0, gap < 0, gap > 0)
    return wanted & (gap**2 > limit)


def boundary_weight(boundary: Tensor, count: int) -> Tensor:
    """(k + 1) / N of the k-th of N boundaries (from 0, the noisiest): the last one is the sample that was scored."""
    return (boundary + 1) / count


def surrogate_loss(
    error: Tensor,
    error_ref: Tensor,
    error_slow: Tensor,
    advantage: Tensor,
    logit: Tensor,
    *,
    beta: float = 1.0,
    clip: float = 1e-3,
    limit: float = 0.05,
    anchor: float = 1e-3,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss [B], metrics [B]) of the surrogate: dgpo on the samples that are neither `outside_trust` nor
    `beyond_reference`, and anchor (error - error_ref)^2 on all of them.

    logit: each sample's, of `dgpo_logits` over whole groups, which counts the samples that are held, too. clip: 0 is no
    trust region. The defaults are the paper's released ones.
    """
    past = outside_trust(error, error_slow, advantage, clip) if clip > 0 else torch.zeros_like(error, dtype=torch.bool)
    far = beyond_reference(error, error_ref, advantage, limit)
    preference, metrics = dgpo(torch.where(past | far, error.detach(), error), advantage, logit, beta)
    gap = error - error_ref.detach()
    told = {"held/trust": past.to(error), "held/reference": far.to(error), "gap": gap.detach()}
    return preference + anchor * gap**2, {**metrics, **told}


def reward_direction(clean: Tensor, clean_surrogate: Tensor, clean_real: Tensor) -> Tensor:
    """-(surrogate - real) / mean |x0 - surrogate|, [B, ...], detached: to be added to `dmd_direction`, which points to
    where x0 is not to go. clean: the generator's x0; the others: what surrogate and reference take it for once it is
    noised, guided alike. 0 where the surrogate is the reference."""
    clean_surrogate, real = wide(clean_surrogate.detach(), clean_real.detach())
    return sized(real - clean_surrogate, clean, clean_surrogate)


def guidance_direction(clean: Tensor, clean_real: Tensor, clean_plain: Tensor) -> Tensor:
    """-(real - plain) / mean |x0 - real|, [B, ...], detached: real is the guided reference, plain the same without
    guidance, so that their difference is (w - 1)(conditional - unconditional) at scale w."""
    real, plain = wide(clean_real.detach(), clean_plain.detach())
    return sized(plain - real, clean, real)


__all__ = [
    "beyond_reference",
    "boundary_weight",
    "guidance_direction",
    "outside_trust",
    "reward_direction",
    "surrogate_loss",
]
