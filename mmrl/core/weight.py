"""Which actions count, and how much: action masks in MASKS and action weights in WEIGHTS.

A mask takes an action out of the loss and out of its denominators; a weight only scales its loss. Both are
functions of the whole batch, called once per update on every rank: (advantage [N, T], batch, **options) ->

- a mask: keep [N, T] bool, False outside `batch.mask`;
- a weight: w [N, T] of the advantage's dtype, finite; it means nothing outside `batch.mask`.

Shares and quantiles are those of the batch over all ranks, found exactly, so 1 process and N select the same
actions. Actions equal to the threshold are all selected: a choice between them would depend on their order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmrl.core.batch import Batch
from mmrl.core.groups import group_count
from mmrl.core.reduce import Reduce
from mmrl.core.registry import Registry, above, at_least, between

MASKS = Registry("action mask")
WEIGHTS = Registry("action weight")

LP_SHARE = 0.01
LP_MINIMUM = 2


# ------------------------------------------------------------------ entropy


@MASKS.add("top_entropy", needs=("entropy",), share=between(0, 1))
def top_entropy(advantage: Tensor, batch: Batch, *, share: float = 0.2) -> Tensor:
    """Keep the `share` of the trained actions with the highest entropy; the others leave the denominators too.

    The 80/20 rule (arXiv 2506.01939): 20 % of the tokens. ceil(share n) of n actions are kept, and ties.
    """
    entropy = batch.feature("entropy")
    count = finite_count(entropy, batch.mask, batch.reduce, "entropy")
    wanted = math.ceil(share * count - 1e-9)
    if wanted == 0:
        return torch.zeros_like(batch.mask)
    threshold = order_statistic(entropy[batch.mask], count - wanted, batch.reduce)
    return batch.mask & (entropy.float() >= threshold)


@MASKS.add("forking", needs=("entropy",), certainty="C")
def forking(advantage: Tensor, batch: Batch) -> Tensor:
    """Keep the actions of a sample whose entropy is above the sample's own Otsu threshold: SPINE's forking tokens.

    The threshold splits the entropies of one sample into two classes so that the variance between the classes is the
    largest (Otsu 1979), here exactly, not by a histogram. Of equally good ones the lowest. A sample without two
    different entropies keeps all its actions.
    """
    entropy = batch.feature("entropy")
    finite_count(entropy, batch.mask, batch.reduce, "entropy")
    if batch.mask.shape[1] == 0:
        return batch.mask
    values, order = torch.where(batch.mask, entropy.double(), torch.inf).sort(1)
    n = batch.mask.sum(1, keepdim=True)
    inside = torch.arange(values.shape[1], device=n.device) < n
    below = torch.where(inside, values, 0.0).cumsum(1)
    count = inside.cumsum(1)
    above, rest = below[:, -1:] - below, n - count
    gap = below / count.clamp(min=1) - above / rest.clamp(min=1)
    # Only between different values, and with something on both sides.
    following = torch.cat([values[:, 1:], torch.full_like(n, torch.inf, dtype=values.dtype)], 1)
    splits = inside & (rest > 0) & (following > values)
    between_classes = torch.where(splits, count * rest * gap**2, -1.0)
    # The first of those that are equal but for rounding; argmax gives the first of equals.
    largest = between_classes.amax(1, keepdim=True)
    best = (between_classes >= largest * (1 - 1e-9)).int().argmax(1, keepdim=True)
    high = torch.arange(values.shape[1], device=n.device) > best
    kept = torch.zeros_like(batch.mask).scatter(1, order, high)
    return batch.mask & (kept | ~splits.any(1, keepdim=True))


@WEIGHTS.add("top_entropy", needs=("entropy",), share=between(0, 1))
def top_entropy_weight(advantage: Tensor, batch: Batch, *, share: float = 0.2) -> Tensor:
    """The selection of the mask `top_entropy` as a weight of 1 or 0, which leaves the denominators as they are.

    This is what TRL and ms-swift do with their entropy quantile: the loss shrinks to about `share` of its size.
    """
    return top_entropy(advantage, batch, share=share).to(advantage.dtype)


# ------------------------------------------------------------------ kinds of actions


@WEIGHTS.add("precision_tokens", needs=("token_class",), certainty="C", weight=above(0))
def precision_tokens(advantage: Tensor, batch: Batch, *, weight: float = 2.0) -> Tensor:
    """Actions of token class 1 (what has to be exact) weigh `weight` times the others; a sample's mean weight stays 1.

    CAD-RL's precision token loss (arXiv 2508.10118, its equation 8 from a summary): with aggregate sequence_mean a
    sample's part is sum(w l) / sum(w). The weight is ours; the paper's is not public.
    """
    raw = torch.ones_like(advantage).masked_fill(batch.feature("token_class") == 1, weight)
    total = (raw * batch.mask).sum(1, keepdim=True)
    return torch.where(total > 0, raw * batch.mask.sum(1, keepdim=True) / total.clamp(min=1e-12), raw)


@WEIGHTS.add("noise_level", needs=("std",), scale=above(0))
def noise_level(advantage: Tensor, batch: Batch, *, scale: float | None = None) -> Tensor:
    """Actions weigh by the standard deviation of their noise (feature "std"), early steps more: TempFlow-GRPO.

    scale: times it; TempFlow-GRPO (arXiv 2508.04324) has 2.25 for SD 3.5. null keeps the mean weight at 1, over the
    trained actions of the update.
    """
    std = torch.where(batch.mask, batch.feature("std").to(advantage.dtype), 0.0)
    if scale is not None:
        return scale * std
    count, total = batch.reduce(torch.stack([batch.mask.sum().double(), std.double().sum()]), "sum")
    return std if total == 0 else std * (count / total).to(std.dtype)


@MASKS.add("selective_loss", needs=("decision",), certainty="C")
def selective_loss(advantage: Tensor, batch: Batch) -> Tensor:
    """Drop the action at which the policy decides whether to think (feature "decision" other than 0).

    AdaCoT's selective loss masking (arXiv 2505.11896): a later stage keeps the trigger rate learned before.
    """
    return batch.mask & (batch.feature("decision") == 0)


@MASKS.add("overlong")
def overlong(advantage: Tensor, batch: Batch) -> Tensor:
    """Drop samples that a budget cut off: overlong filtering of DAPO (arXiv 2503.14476).

    Their rewards still count in the group's statistics; a filter of samples is what takes them out of there.
    """
    truncated = batch.needed("`truncated` flags", batch.truncated)
    return batch.mask & ~truncated[:, None]


@MASKS.add("top_advantage", certainty="B", keep=at_least(1))
def top_advantage(advantage: Tensor, batch: Batch, *, keep: int = 4) -> Tensor:
    """Keep of each group the `keep` samples with the largest |A|, and ties; the others leave the denominators too.

    CPPO (arXiv 2503.22342), which cadrille takes with the loss of Dr. GRPO, and CADEvolve's released config keeps 4 of
    16. A sample's |A| is the largest of its actions'.
    """
    where = (batch.group, batch.n_groups, batch.reduce)
    none = advantage.new_full((len(batch.mask), 1), -1.0)  # a rank without an action is asked as often as the others
    size = torch.cat([torch.where(batch.mask, advantage.abs(), -1.0), none], 1).amax(1)
    counted = batch.mask.any(1)
    kept = torch.zeros_like(counted)
    for _ in range(keep):  # a place, or the places of equals, a round
        left = counted & ~kept & (group_count(kept, *where) < keep)[batch.group]
        best = torch.full((batch.n_groups,), -1.0, dtype=size.dtype, device=size.device)
        best = batch.reduce(best.scatter_reduce(0, batch.group, torch.where(left, size, -1.0), "amax"), "max")
        kept = kept | (left & (size >= best[batch.group]))
    return batch.mask & kept[:, None]


@WEIGHTS.add("chord_phi", needs=("logp", "expert"))
def chord_phi(advantage: Tensor, batch: Batch) -> Tensor:
    """p (1 - p) at the actions of expert samples (column "expert" other than 0), 1 at the policy's own.

    CHORD-phi (arXiv 2508.11408): expert tokens that the policy already knows, or finds absurd, weigh little.
    p is taken from the feature "logp": of the policy at the start of the update.
    """
    expert = (batch.column("expert") != 0)[:, None] & batch.mask
    logp = torch.where(expert, batch.feature("logp"), 0.0)
    return torch.where(expert, phi(logp), 1.0).to(advantage.dtype)


def phi(logp: Tensor) -> Tensor:
    """p (1 - p), detached, any shape: CHORD's weight of an expert token, for an expert loss outside the batch."""
    logp = logp.detach()
    return logp.exp() * -logp.expm1()


# ------------------------------------------------------------------ stability


@MASKS.add(
    "capo",
    needs=("prob_gap2", "fisher"),
    certainty="B",
    scale=above(0),
    policy_limit=above(0),
    objective_limit=above(0),
)
def capo(
    advantage: Tensor,
    batch: Batch,
    *,
    scale: float = 0.05,
    policy_limit: float | None = 1e-4,
    objective_limit: float | None = 0.01,
) -> Tensor:
    """Drop actions whose own update looks unstable to second order in a model of the last layer: CAPO (arXiv
    2510.00819).

    With v = e - p, e the one-hot vector of the token, F = diag(p) - p p', and a step of plain gradient ascent on
    A log p, which moves the logits by scale A v (scale = learning rate * |hidden state|^2):
    policy shift    = (scale A v'v)^2 / 2, the KL to second order, with the Fisher matrix of the sampled token;
    objective shift = scale A^2 v'v + scale^2 A^3 ((v'v)^2 - v'Fv) / 2, the gain of A log p to second order.
    Kept: policy shift < policy_limit and |objective shift| < objective_limit; null switches a limit off. Limits as
    released for GRPO. The release models Adam on the last layer, whose moments it follows; scale is ours, about its
    learning rate of 1.5e-5 times the width of a 7B model. v'v is the feature prob_gap2, v'Fv is fisher.
    """
    gap2, fisher = batch.feature("prob_gap2"), batch.feature("fisher")
    for name, values in (("prob_gap2", gap2), ("fisher", fisher)):
        finite_count(values, batch.mask, batch.reduce, name)
    policy_shift = (scale * advantage * gap2) ** 2 / 2
    objective_shift = scale * advantage**2 * gap2 + scale**2 * advantage**3 * (gap2**2 - fisher) / 2
    keep = batch.mask
    if policy_limit is not None:
        keep = keep & (policy_shift < policy_limit)
    if objective_limit is not None:
        keep = keep & (objective_shift.abs() < objective_limit)
    return keep


def lp_reg_selection(advantage: Tensor, batch: Batch, share: float = LP_SHARE, minimum: int = LP_MINIMUM) -> Tensor:
    """selected [N, T] bool: rare tokens that were punished and that the proxy policy still finds likelier.

    Of the trained actions with A < 0, the floor(share n) with the lowest feature "logp", and ties; of these the
    ones with logp below "proxy_logp" (a token that the proxy filtered out has about -1e4 there). With fewer than
    `minimum` candidates nothing is selected. The shares and the minimum are those of Lp-Reg's released code, which
    selects inside each micro-batch; here it is over the whole batch and all ranks.
    """
    logp, proxy = batch.feature("logp"), batch.feature("proxy_logp")
    punished = batch.mask & (advantage < 0)
    count = finite_count(logp, punished, batch.reduce, "logp")
    wanted = math.floor(share * count + 1e-9)
    if wanted < max(minimum, 1):
        return torch.zeros_like(batch.mask)
    threshold = order_statistic(logp[punished], wanted - 1, batch.reduce)
    return punished & (logp.float() <= threshold) & (logp < proxy)


# ------------------------------------------------------------------ quantiles over all ranks


def order_statistic(values: Tensor, rank: int, reduce: Reduce) -> Tensor:
    """The value with `rank` smaller-or-equal ones before it (0 = the minimum), of the values [n] of all ranks.

    A float32 scalar, exactly one of the values rounded to float32, the same on every process. Found digit by
    digit, from four histograms of 256 bins that are summed over the ranks, so no value leaves its rank.
    Needs 0 <= rank < the number of values over all ranks, and finite values.
    """
    keys = _sortable(values)
    prefix, remaining = 0, rank
    for shift in (24, 16, 8, 0):
        inside = keys[keys >> (shift + 8) == prefix]
        bins = reduce(torch.bincount(inside >> shift & 255, minlength=256), "sum").cumsum(0)
        digit = int((bins <= remaining).sum())
        remaining -= int(bins[digit - 1]) if digit > 0 else 0
        prefix = prefix << 8 | digit
    bits = prefix - 2**31 if prefix >= 2**31 else ~prefix
    return torch.tensor(bits, dtype=torch.int64, device=values.device).to(torch.int32).view(torch.float32)


def _sortable(values: Tensor) -> Tensor:
    """[n] int64 in [0, 2^32), in the order of the float32 values."""
    bits = values.float().view(torch.int32).long()
    return torch.where(bits >= 0, bits + 2**31, ~bits)


def finite_count(values: Tensor, inside: Tensor, reduce: Reduce, name: str) -> int:
    """Number of actions `inside` over all ranks. Raises ValueError, on every rank, where one is not finite."""
    broken = (inside & ~values.isfinite()).sum()
    count, bad = reduce(torch.stack([inside.sum(), broken]), "sum").tolist()
    if bad:
        raise ValueError(
            f"feature {name!r} is not finite at {bad} of {count} actions, so none can be selected by it; "
            "look for NaN or infinite logits in the policy"
        )
    return count
