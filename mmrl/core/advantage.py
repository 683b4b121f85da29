"""Advantages from rewards: one small function per estimator, in ESTIMATORS, and their combination.

An estimator takes (rewards [N] float64, valid [N] bool, group [N] int64, n_groups, reduce, algorithm) and
returns [N] float64. Invalid samples get 0 and stay out of every statistic, whatever their reward holds.
Groups whose standard deviation is not above `std_floor` (a group of one, equal rewards) get exactly 0 from
every estimator that compares inside a group. Statistics are over all ranks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmrl.core.algorithm import Algorithm
from mmrl.core.groups import batch_mean, batch_std, group_count, group_mean, group_std
from mmrl.core.reduce import Reduce

Estimator = Callable[[Tensor, Tensor, Tensor, int, Reduce, Algorithm], Tensor]


def from_group_std(
    rewards: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce, algorithm: Algorithm
) -> Tensor:
    """(R - mean_g) / (std_g + eps): GRPO, DeepSeekMath (arXiv 2402.03300)."""
    centred, _ = _centred(rewards, valid, group, n_groups, reduce, algorithm)
    std = group_std(rewards, valid, group, n_groups, reduce, algorithm.ddof)
    return centred / _divisor(std[group] + algorithm.std_eps)


def from_group_mean(
    rewards: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce, algorithm: Algorithm
) -> Tensor:
    """R - mean_g: Dr. GRPO (arXiv 2503.20783)."""
    return _centred(rewards, valid, group, n_groups, reduce, algorithm)[0]


def from_leave_one_out(
    rewards: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce, algorithm: Algorithm
) -> Tensor:
    """R_i minus the mean of the group's other rewards, = n/(n-1) (R_i - mean_g): RLOO (arXiv 2402.14740).

    A group of one gets 0, for it has no other reward to compare with.
    """
    centred, _ = _centred(rewards, valid, group, n_groups, reduce, algorithm)
    count = group_count(valid, group, n_groups, reduce)
    return centred * (count / (count - 1).clamp(min=1))[group]


def from_batch_std(
    rewards: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce, algorithm: Algorithm
) -> Tensor:
    """(R - mean_g) / (std of those centred rewards + eps): ScaleRL (arXiv 2510.13786).

    The std is over the samples of groups with spread, after centring, so differences between prompts do not
    enter it; `global_std` divides by the std of the raw rewards, where they do.
    """
    centred, spread = _centred(rewards, valid, group, n_groups, reduce, algorithm)
    return centred / _divisor(batch_std(centred, spread, reduce, algorithm.ddof) + algorithm.std_eps)


def from_global_std(
    rewards: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce, algorithm: Algorithm
) -> Tensor:
    """(R - mean_g) / (std of all raw rewards of the batch + eps): Flow-GRPO (arXiv 2505.05470).

    The std holds the differences between prompts too; `batch_std` leaves them out.
    """
    centred, _ = _centred(rewards, valid, group, n_groups, reduce, algorithm)
    return centred / _divisor(batch_std(rewards, valid, reduce, algorithm.ddof) + algorithm.std_eps)


def from_whiten(
    rewards: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce, algorithm: Algorithm
) -> Tensor:
    """(R - mean) / (std + eps) over the whole batch: REINFORCE++ (arXiv 2501.03262), one value per sample.

    The published form whitens per token, which weighs long samples more; here each sample counts once.
    """
    std = batch_std(rewards, valid, reduce, algorithm.ddof)
    centred = torch.where(valid, rewards - batch_mean(rewards, valid, reduce), 0.0)
    return centred * (std > algorithm.std_floor) / _divisor(std + algorithm.std_eps)


def from_whiten_baseline(
    rewards: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce, algorithm: Algorithm
) -> Tensor:
    """R - mean_g, whitened over all valid samples: REINFORCE++-baseline (arXiv 2501.03262).

    The mean of the centred rewards is 0 already, so whitening is a division; unlike in `batch_std`, the
    samples of groups without spread count in its std.
    """
    centred, _ = _centred(rewards, valid, group, n_groups, reduce, algorithm)
    return centred / _divisor(batch_std(centred, valid, reduce, algorithm.ddof) + algorithm.std_eps)


def from_rank(
    rewards: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce, algorithm: Algorithm
) -> Tensor:
    """(wins - losses) / (n - 1) against the other samples of the group, in [-1, 1]; a tie is neither.

    Depends on the order of the rewards only, not on their scale. Comparing pairs needs whole groups on one
    rank. Raises ValueError, on every rank, where a group is split.
    """
    count = group_count(valid, group, n_groups, reduce)
    here = torch.zeros_like(count).index_add(0, group, valid.double())
    split = ((here > 0) & (here < count)).any().double()
    if reduce(split, "max") > 0:
        raise ValueError("advantage 'rank' compares pairs: keep the samples of a group on one rank")
    spread = _spread(rewards, valid, group, n_groups, reduce, algorithm)
    advantage = torch.zeros_like(rewards)
    for index in group[spread].unique():
        rows = spread & (group == index)
        own = rewards[rows]
        advantage[rows] = (own[:, None] - own[None, :]).sign().sum(1) / (len(own) - 1)
    return advantage


def from_nothing(
    rewards: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce, algorithm: Algorithm
) -> Tensor:
    """The reward itself, for rewards that are advantages already."""
    return torch.where(valid, rewards, 0.0)


ESTIMATORS: dict[str, Estimator] = {
    "group_std": from_group_std,
    "group_mean": from_group_mean,
    "leave_one_out": from_leave_one_out,
    "batch_std": from_batch_std,
    "global_std": from_global_std,
    "whiten": from_whiten,
    "whiten_baseline": from_whiten_baseline,
    "rank": from_rank,
    "none": from_nothing,
}


def estimate(
    scores: Tensor,
    valid: Tensor,
    weights: Tensor,
    group: Tensor,
    n_groups: int,
    reduce: Reduce,
    algorithm: Algorithm,
    applicable: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Advantages of samples with several rewards, combined as `algorithm.combine` says, then clamped.

    scores: [N, F], one column per reward; entries that are invalid or not applicable may hold anything.
    valid: [N, F] bool, False where a reward failed: the sample then has no reward and is left out. A score
        that is not finite counts as failed.
    weights: [F].
    group: [N] int64, global group index.
    applicable: [N, F] bool, False where a reward has nothing to say of a sample: it contributes nothing. A
        sample to which no reward applies has no reward either and is left out.

    reward_sum: the weighted sum of the rewards goes through the estimator.
    advantage_sum: each reward goes through the estimator, then the weighted sum is taken.
    gdpo: each reward is normalised by its group, the weighted sum is divided by its std over the valid
        samples of the batch (arXiv 2601.05242); its mean is 0 by construction.

    Returns (advantage [N] float64, reward [N] float64, sample_valid [N] bool); where sample_valid is False
    the advantage is 0 and the reward, the weighted sum, is NaN.
    """
    scores = scores.double()
    weights = weights.to(scores)
    applies = torch.ones_like(valid) if applicable is None else applicable
    sample_valid = ((valid & scores.isfinite()) | ~applies).all(1) & applies.any(1)
    counted = applies & sample_valid[:, None]
    reward = (torch.where(counted, scores, 0.0) * weights).sum(1)

    if algorithm.combine == "reward_sum":
        estimator = ESTIMATORS[algorithm.advantage]
        advantage = estimator(reward, sample_valid, group, n_groups, reduce, algorithm)
    else:
        estimator = from_group_std if algorithm.combine == "gdpo" else ESTIMATORS[algorithm.advantage]
        columns = [
            estimator(scores[:, f], counted[:, f], group, n_groups, reduce, algorithm) for f in range(scores.shape[1])
        ]
        advantage = (torch.stack(columns, 1) * weights).sum(1)
        if algorithm.combine == "gdpo":
            std = batch_std(advantage, sample_valid, reduce, algorithm.ddof)
            advantage = advantage / _divisor(std + algorithm.std_eps)

    if algorithm.clamp is not None:
        advantage = advantage.clamp(-algorithm.clamp, algorithm.clamp)
    return advantage, torch.where(sample_valid, reward, torch.nan), sample_valid


def _spread(
    rewards: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce, algorithm: Algorithm
) -> Tensor:
    """[N] bool: valid samples of groups whose standard deviation is above the floor."""
    std = group_std(rewards, valid, group, n_groups, reduce, algorithm.ddof)
    return valid & (std > algorithm.std_floor)[group]


def _centred(
    rewards: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce, algorithm: Algorithm
) -> tuple[Tensor, Tensor]:
    """R - mean_g, 0 for samples without spread; and which samples have it."""
    spread = _spread(rewards, valid, group, n_groups, reduce, algorithm)
    mean = group_mean(rewards, valid, group, n_groups, reduce)
    return torch.where(spread, rewards - mean[group], 0.0), spread


def _divisor(x: Tensor) -> Tensor:
    """`x`, with 1 for 0: with std_eps=0 a batch without spread divides 0 by 0 otherwise."""
    return torch.where(x > 0, x, 1.0)
