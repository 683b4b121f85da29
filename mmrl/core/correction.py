"""Rollout correction: weights for actions that another engine, or older weights, sampled.

A correction takes (gap [N, T], batch, advantage [N, T], **options) and returns (weight [N, T], keep [N, T] bool).
gap is logp_old - logp_sampler, so exp(gap) is the importance weight of an action; it is 0 outside the mask. Where no
other engine sampled it is 0 everywhere, which only the corrections of AGAINST_OLD accept. The weight multiplies the
action's loss; keep False takes the action out of the denominators too. Both are detached.
The batch must hold whole samples, and every rank must call: a gap inside the mask that is not finite raises
ValueError on all of them. Do not combine a correction with a ratio that is already measured against the sampler:
the same mismatch would be corrected twice.

Levels of the weight: "token", each action its own; "sequence", the product over a sample's trained actions (TRL
and verl mean this by sequence); "geometric", its root, the mean of the gaps (ms-swift means this by sequence).

Corrections that reject have the option `drop`: False gives rejected actions weight 0 and leaves the denominators as
they are, True takes them out of the denominators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmrl.core.batch import Batch
from mmrl.core.ratio import LIMIT
from mmrl.core.reduce import Reduce
from mmrl.core.registry import Registry, above, at_least, low_first, one_of

CORRECTIONS = Registry("rollout correction")

LEVELS = ("token", "sequence", "geometric")

# Corrections that also look at the policy's own drift since logp_old, so that logp_sampler may be missing.
AGAINST_OLD = frozenset({"opsm"})


def _floor_below_cap(*, cap: float, floor: float, **_: Any) -> None:
    if floor > cap:
        raise ValueError(f"floor={floor:g} is above cap={cap:g}; lower the floor")


@CORRECTIONS.add("truncate", check=_floor_below_cap, level=one_of(*LEVELS), cap=above(0), floor=at_least(0))
def truncate(
    gap: Tensor, batch: Batch, advantage: Tensor, *, level: str = "token", cap: float = 2.0, floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Truncated importance sampling (TIS): the weight, held between `floor` and `cap`; nothing is rejected.

    A cap of 2 is the default of verl and ms-swift; both leave the lower side open.
    """
    return _weight(gap, batch, level).clamp(floor, cap), batch.mask


@CORRECTIONS.add("mask", level=one_of(*LEVELS), cap=above(0))
def mask(
    gap: Tensor, batch: Batch, advantage: Tensor, *, level: str = "sequence", cap: float = 3.0, drop: bool = False
) -> tuple[Tensor, Tensor]:
    """Masked importance sampling (MIS): the weight up to `cap`, nothing above it.

    TRL's default: whole sequences by their product, cap 3.
    """
    weight = _weight(gap, batch, level)
    return _reject(weight, weight <= cap, batch.mask, drop)


@CORRECTIONS.add("icepop", certainty="C", check=low_first, level=one_of(*LEVELS), low=at_least(0), high=above(0))
def icepop(
    gap: Tensor,
    batch: Batch,
    advantage: Tensor,
    *,
    level: str = "token",
    low: float = 0.5,
    high: float = 5.0,
    drop: bool = False,
) -> tuple[Tensor, Tensor]:
    """IcePop: the weight inside [low, high], nothing on either side. Per token, as published; bounds from memory."""
    weight = _weight(gap, batch, level)
    return _reject(weight, (weight >= low) & (weight <= high), batch.mask, drop)


@CORRECTIONS.add("geometric", certainty="C", check=low_first, low=at_least(0), high=above(0))
def geometric(
    gap: Tensor, batch: Batch, advantage: Tensor, *, low: float = 0.99, high: float = 1.01, drop: bool = True
) -> tuple[Tensor, Tensor]:
    """Reject whole samples whose geometric mean weight is outside [low, high]; the others keep weight 1.

    Rejection sampling on the mean gap, which does not depend on the length as the product does. The bounds are ours.
    """
    mean = _weight(gap, batch, "geometric")
    return _reject(torch.ones_like(mean), (mean >= low) & (mean <= high), batch.mask, drop)


@CORRECTIONS.add("opsm", needs=("logp",), delta=at_least(0))
def opsm(
    gap: Tensor, batch: Batch, advantage: Tensor, *, delta: float = 0.5, drop: bool = False
) -> tuple[Tensor, Tensor]:
    """Off-policy sequence mask: reject the actions with A < 0 of samples where mean(logp_sampler - logp) > delta.

    logp is the feature of that name: the policy at the start of this optimizer step, which later updates of a rollout
    have moved away from logp_old. With one advantage per sample these are whole samples: bad answers that the policy
    has already left. Others keep weight 1. The formula is DeepSeek-V3.2's, as in TRL, which multiplies the loss by it
    (drop false; ms-swift drops) and suggests 0.5; both leave it off.
    """
    old = batch.needed("logp_old", batch.logp_old)
    drift = torch.where(batch.mask, old - batch.feature("logp"), 0.0)
    _refuse_broken(gap - drift, batch)
    moved = _mean(drift - gap, batch.mask) > delta
    weight = torch.ones_like(gap).detach()
    return _reject(weight, ~(moved & (advantage < 0)), batch.mask, drop)


def importance(gap: Tensor, mask: Tensor, level: str) -> Tensor:
    """Importance weights [N, T], detached, of a level in LEVELS; 1 outside the mask. The exponent is held in +-20."""
    inside = torch.where(mask, gap.detach(), 0.0)
    if level == "sequence":
        inside = inside.sum(1, keepdim=True) * mask
    elif level == "geometric":
        inside = _mean(gap, mask) * mask
    return inside.clamp(-LIMIT, LIMIT).exp()


def diagnostics(
    gap: Tensor,
    mask: Tensor,
    reduce: Reduce,
    weight: Tensor | None = None,
    keep: Tensor | None = None,
) -> dict[str, float]:
    """How far the sampler is from the policy, over the trained actions of all ranks; zeros without any.

    gap, mask: [N, T]. weight, keep: [N, T], what a correction returned.
    ratio_mean, ratio_max: of exp(gap), per action; the mean is 1 on average if the sampler covers the policy.
    ess: effective sample size as a share of the actions, (sum w)^2 / (n sum w^2) with w = exp(gap), in (0, 1].
    k1, k3: estimates of KL(sampler || policy), the mean of -gap and of exp(gap) - 1 - gap.
    cut: share of the actions that the correction rejected, 0 without one. Give the mask as it was before the
        correction, and the correction's own weight.
    Reduces twice, whatever the data.
    """
    inside = torch.where(mask, gap.detach().double(), 0.0).clamp(-LIMIT, LIMIT)
    ratio = inside.exp() * mask
    rejected = torch.zeros_like(mask)
    if weight is not None:
        rejected = rejected | (weight == 0)
    if keep is not None:
        rejected = rejected | ~keep
    k3 = inside.expm1() - inside
    sums = [mask.sum(), ratio.sum(), (ratio**2).sum(), -inside.sum(), k3.sum(), (rejected & mask).sum()]
    n, first, second, k1_sum, k3_sum, cut = reduce(torch.stack([x.double() for x in sums]), "sum").tolist()
    largest = reduce(torch.cat([ratio.flatten(), ratio.new_zeros(1)]).amax(), "max").item()
    n = max(n, 1.0)
    return {
        "rollout/ratio_mean": first / n,
        "rollout/ratio_max": largest,
        "rollout/ess": first**2 / (n * second) if second > 0 else 0.0,
        "rollout/k1": k1_sum / n,
        "rollout/k3": k3_sum / n,
        "rollout/cut": cut / n,
    }


def _weight(gap: Tensor, batch: Batch, level: str) -> Tensor:
    _refuse_broken(gap, batch)
    return importance(gap, batch.mask, level)


def _refuse_broken(gap: Tensor, batch: Batch) -> None:
    """ValueError on every rank for a gap that is not finite: a comparison with NaN would reject it in silence."""
    bad = int(batch.reduce((batch.mask & ~gap.isfinite()).sum(), "sum"))
    if bad:
        raise ValueError(
            f"logp_old - logp_sampler is not finite at {bad} trained actions: the sampler must report the log-prob "
            "of every action it sampled, and the policy must give each a probability above 0"
        )


def _mean(gap: Tensor, mask: Tensor) -> Tensor:
    """[N, 1]: mean gap of each sample's trained actions, 0 without any."""
    total = torch.where(mask, gap.detach(), 0.0).sum(1, keepdim=True)
    return total / mask.sum(1, keepdim=True).clamp(min=1)


def _reject(weight: Tensor, good: Tensor, mask: Tensor, drop: bool) -> tuple[Tensor, Tensor]:
    """Rejected actions as keep False (drop), or as weight 0; weights outside the mask stay finite either way."""
    if drop:
        return weight, mask & good
    return torch.where(good | ~mask, weight, 0.0), mask
