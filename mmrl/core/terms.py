"""Extra terms of the loss: what an algorithm adds to the policy gradient, in TERMS.

A term takes (replay, shares [b, t], mask [b, t], advantage [b] or [b, t], batch, **options) for one micro-batch and
returns a scalar that is added to the loss, differentiable in the replay. `batch` is `Batch.at` of the micro-batch.
`shares` are the aggregation weights of the whole update (mmrl.core.aggregate), so the terms of micro-batches and
ranks add up to the term of the update, however it is cut.

Whatever looks at the whole update is done by a term's `prepare`, once before each optimizer step, on every rank, on
the batch whose mask is final: it leaves its result as a feature, which the cut then carries along.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrl.core import kl
from mmrl.core.batch import Batch
from mmrl.core.groups import group_count
from mmrl.core.registry import Registry, above, at_least, between, one_of
from mmrl.core.weight import LP_MINIMUM, LP_SHARE, finite_count, lp_reg_selection, order_statistic
from mmrl.types import ActionLogProbs

TERMS = Registry("term")

BAND_WIDTH = 1.0
BETA = 0.1
BOOST = 2.5


# Terms for which the replay must return its differentiable entropy.
NEED_ENTROPY = frozenset({"entropy", "entropy_band"})

# Terms over whole sequences: a micro-batch must hold all trained actions of its rows.
OVER_SEQUENCES = frozenset({"pairwise"})


# ------------------------------------------------------------------ entropy


@TERMS.add("entropy", coef=at_least(0))
def entropy(
    replay: ActionLogProbs, shares: Tensor, mask: Tensor, advantage: Tensor, batch: Batch, *, coef: float = 1e-3
) -> Tensor:
    """Entropy bonus: -coef times the entropy, averaged as the loss is. The replay must return its entropy.

    The coefficient is ours; frameworks leave the bonus off.
    """
    return -coef * (_inside(shares, mask) * _inside(_entropy(replay, "entropy"), mask)).sum()


def _is_band(*, low: float | None, high: float | None, **_: Any) -> None:
    if (low is None) != (high is None) or (low is not None and high is not None and low > high):
        raise ValueError(f"low={low} and high={high} must be a band: both, low first")


def _prepare_band(
    batch: Batch, *, width: float = BAND_WIDTH, low: float | None = None, high: float | None = None, **_: Any
) -> Batch:
    """Adds the columns "band_low" and "band_high", equal in all rows, and the feature "band_share": 1 / number of the
    trained actions of the whole update at each of them, 0 elsewhere."""
    middle, spread, count = _median_and_mad(batch.feature("entropy"), batch)
    bottom, top = max(0.0, middle - width * spread), middle + width * spread
    if low is not None and high is not None:
        bottom, top = low, high
    rows = torch.ones(len(batch), dtype=torch.float64, device=batch.mask.device)
    columns = {"band_low": bottom * rows, "band_high": top * rows}
    return batch.having(columns=columns, features={"band_share": batch.mask / max(count, 1)})


def _median_and_mad(values: Tensor, batch: Batch) -> tuple[float, float, int]:
    """(lower median, median absolute deviation from it, how many) of the trained actions of all ranks; 0 of none."""
    count = finite_count(values, batch.mask, batch.reduce, "entropy")
    if count == 0:
        return 0.0, 0.0, 0
    inside = values[batch.mask].float()
    middle = order_statistic(inside, (count - 1) // 2, batch.reduce)
    spread = order_statistic((inside - middle).abs(), (count - 1) // 2, batch.reduce)
    return float(middle), float(spread), count


@TERMS.add(
    "entropy_band",
    needs=("entropy",),
    certainty="C",
    prepare=_prepare_band,
    coef=at_least(0),
    width=above(0),
    low=at_least(0),
    high=above(0),
    only_if={"width": ("low", None)},
    check=_is_band,
)
def entropy_band(
    replay: ActionLogProbs,
    shares: Tensor,
    mask: Tensor,
    advantage: Tensor,
    batch: Batch,
    *,
    coef: float = 0.1,
    width: float = BAND_WIDTH,
    low: float | None = None,
    high: float | None = None,
) -> Tensor:
    """Hold the entropy of the trained actions inside a band: coef times their mean distance from it, in nats. SPINE.

    Which actions are trained the masks say (`forking`, `top_entropy`). The band is median +- width median absolute
    deviations of their feature "entropy" over the update, not below 0; `low` and `high`, in nats, replace it.
    width and coef are ours. Raises ValueError for half a band, for low above high, and for a replay without entropy.
    """
    now = _inside(_entropy(replay, "entropy_band"), mask)
    bottom, top = (batch.column(name)[:, None].to(now) for name in ("band_low", "band_high"))
    outside = (bottom - now).clamp(min=0) + (now - top).clamp(min=0)
    return coef * (_inside(batch.feature("band_share"), mask) * outside).sum()


# ------------------------------------------------------------------ divergences


def _prepare_proxy(batch: Batch, *, share: float = LP_SHARE, minimum: int = LP_MINIMUM, **_: Any) -> Batch:
    """Adds the feature "proxy_selected": the low-probability tokens of the whole update to regularise.

    Reads the advantages from the feature "advantage" [N, T], which the training loop puts there.
    """
    selected = lp_reg_selection(batch.feature("advantage"), batch, share, minimum)
    return batch.having(features={"proxy_selected": selected})


@TERMS.add(
    "proxy_kl",
    needs=("logp", "proxy_logp"),
    prepare=_prepare_proxy,
    coef=at_least(0),
    share=between(0, 1),
    minimum=at_least(1),
    limit=above(0),
)
def proxy_kl(
    replay: ActionLogProbs,
    shares: Tensor,
    mask: Tensor,
    advantage: Tensor,
    batch: Batch,
    *,
    coef: float = 1.0,
    share: float = LP_SHARE,
    minimum: int = LP_MINIMUM,
    limit: float = 10.0,
) -> Tensor:
    """Lp-Reg: pull punished rare tokens back to the proxy policy: coef * k3(logp, proxy), at most `limit`.

    The tokens are those of mmrl.core.weight.lp_reg_selection; above the limit the gradient is 0. Numbers and form of
    the released code; it also lets the ratio of these tokens go unclipped, which is for the gate to say.
    """
    selected = mask & batch.feature("proxy_selected")
    k3 = kl.k3(_inside(replay.logp, selected), _inside(batch.feature("proxy_logp"), selected))
    return coef * (_inside(shares, selected) * k3.clamp(max=limit)).sum()


@TERMS.add("behaviour_kl", coef=at_least(0), estimator=one_of(*kl.ESTIMATORS))
def behaviour_kl(
    replay: ActionLogProbs,
    shares: Tensor,
    mask: Tensor,
    advantage: Tensor,
    batch: Batch,
    *,
    coef: float = 1e-3,
    estimator: str = "k3",
) -> Tensor:
    """coef times the KL of the policy to the one that sampled (logp_old), averaged as the loss is.

    k3 and k2 start from a gradient of 0 and resist the update's drift; the gradient of k1 is 0 on average only.
    """
    old = batch.needed("logp_old", batch.logp_old)
    divergence = kl.ESTIMATORS[estimator](_inside(replay.logp, mask), _inside(old, mask))
    return coef * (_inside(shares, mask) * divergence).sum()


# ------------------------------------------------------------------ pairs


def _prepare_pairs(batch: Batch, *, beta: float = BETA, boost: float = BOOST, **_: Any) -> Batch:
    """Adds the features "pair_slope" and "pair_value": each action's part of the pairwise loss of the whole update.

    slope is d loss / d logp; value adds up to the loss. Pairs need the samples of a group side by side:
    raises ValueError, on every rank, where a group is split over ranks.
    """
    length = batch.mask.sum(1)
    level = batch.column("level").double()
    usable = level.isfinite() & (length > 0)
    _refuse_split_groups(usable, batch)

    gap = _inside(batch.feature("logp"), batch.mask).double() - _inside(batch.feature("logp_reference"), batch.mask)
    delta = gap.sum(1) / length.clamp(min=1)
    slope, value = torch.zeros_like(delta), torch.zeros_like(delta)
    pairs = torch.zeros_like(delta)
    for index in batch.group[usable].unique():
        rows = usable & (batch.group == index)
        slope[rows], value[rows], pairs[rows] = _pairs(delta[rows], level[rows], beta, boost)

    # Each pair has been counted at both of its samples.
    count = batch.reduce(pairs.sum(), "sum") / 2
    part = batch.mask / (count.clamp(min=1) * length.clamp(min=1)[:, None])
    return batch.having(features={"pair_slope": slope[:, None] * part, "pair_value": value[:, None] * part})


def _pairs(delta: Tensor, level: Tensor, beta: float, boost: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of one group [n]: d sum / d delta, half the loss of each sample's pairs, and the number of its pairs.

    The sum is over pairs of softplus(-h), h = scale (delta_better - delta_worse).
    """
    better = level[:, None] < level[None, :]
    scale = torch.full_like(delta, beta).masked_fill(level == 1, beta * boost)[:, None]
    h = scale * (delta[:, None] - delta[None, :])
    push = torch.where(better, -scale * torch.sigmoid(-h), 0.0)
    loss = torch.where(better, F.softplus(-h), 0.0)
    return push.sum(1) - push.sum(0), (loss.sum(1) + loss.sum(0)) / 2, (better.sum(1) + better.sum(0)).to(delta.dtype)


def _refuse_split_groups(present: Tensor, batch: Batch) -> None:
    count = group_count(present, batch.group, batch.n_groups, batch.reduce)
    here = torch.zeros_like(count).index_add(0, batch.group, present.to(count.dtype))
    split = ((here > 0) & (here < count)).any().double()
    if batch.reduce(split, "max") > 0:
        raise ValueError("term 'pairwise' compares the samples of a group: keep a group on one rank")


@TERMS.add(
    "pairwise",
    needs=("level", "logp", "logp_reference"),
    prepare=_prepare_pairs,
    coef=at_least(0),
    beta=above(0),
    boost=above(0),
    old_coef=at_least(0),
)
def pairwise(
    replay: ActionLogProbs,
    shares: Tensor,
    mask: Tensor,
    advantage: Tensor,
    batch: Batch,
    *,
    coef: float = 1.0,
    beta: float = BETA,
    boost: float = BOOST,
    old_coef: float = 1e-3,
) -> Tensor:
    """TRPA: prefer the better of any two answers to a prompt; coef * mean over pairs of softplus(-h), and a k3.

    delta is a sample's mean of logp - logp_reference; for a pair of one group with different levels (column "level",
    1 the best, NaN for no level), h = beta (delta_better - delta_worse), times `boost` where the better one has level
    1. The k3, old_coef k3(logp, logp_old), is averaged as the loss is (published: over all tokens). beta, boost and
    old_coef are those of the released code, which pairs inside each micro-batch; here all pairs of the update count,
    through the derivative of the loss at the feature "logp", the policy before this optimizer step. Without a pair
    there is no pairwise loss (the released code then pushes single samples).
    """
    logp = _inside(replay.logp, mask)
    value, slope = _inside(batch.feature("pair_value"), mask), _inside(batch.feature("pair_slope"), mask)
    loss = coef * (value + slope * (logp - logp.detach())).sum()
    if old_coef == 0:
        return loss
    return loss + behaviour_kl(replay, shares, mask, advantage, batch, coef=old_coef, estimator="k3")


def _entropy(replay: ActionLogProbs, term: str) -> Tensor:
    if replay.entropy is None:
        raise ValueError(
            f"term {term!r} needs the entropy of the policy, which the adapter's logprobs did not return; "
            "use a modality that has it, or leave the term out"
        )
    return replay.entropy


def _inside(x: Tensor, mask: Tensor) -> Tensor:
    """`x`, at least float32, 0 where the mask is False, so that no padding reaches a sum or a gradient."""
    return torch.where(mask, x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, 0.0)
