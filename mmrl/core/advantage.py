"""Advantages from rewards: one small function per estimator, in ESTIMATORS, and their combination.

An estimator takes (rewards [N] float64, valid [N] bool, batch, algorithm, **options) and returns [N] float64;
those of mmrl.core.advantage_steps return [N, T], a number per action. Invalid samples get 0 and stay out of
every statistic, whatever their reward holds. Groups whose standard deviation is not above `std_floor` (a group of
one, equal rewards) get exactly 0 from every estimator that compares inside a group; `whiten_baseline` then subtracts
the mean of the batch's actions. Statistics are over all ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.estimator import (
    ESTIMATORS,
    agreed,
    centred,
    divisor,
    normalised,
    whitened,
    with_spread,
    without_outliers,
)
from mmrl.core.groups import batch_std, group_count
from mmrl.core.registry import above


@ESTIMATORS.add("group_std")
def from_group_std(rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm) -> Tensor:
    """(R - mean_g) / (std_g + eps): GRPO, DeepSeekMath (arXiv 2402.03300)."""
    return normalised(rewards, valid, batch.group, batch.n_groups, batch.reduce, algorithm)


@ESTIMATORS.add("group_mean")
def from_group_mean(rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm) -> Tensor:
    """R - mean_g: Dr. GRPO (arXiv 2503.20783)."""
    return centred(rewards, valid, batch, algorithm)[0]


@ESTIMATORS.add("leave_one_out")
def from_leave_one_out(rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm) -> Tensor:
    """R_i minus the mean of the group's other rewards, = n/(n-1) (R_i - mean_g): RLOO (arXiv 2402.14740).

    A group of one gets 0, for it has no other reward to compare with.
    """
    apart, _ = centred(rewards, valid, batch, algorithm)
    count = group_count(valid, batch.group, batch.n_groups, batch.reduce)
    return apart * (count / (count - 1).clamp(min=1))[batch.group]


@ESTIMATORS.add("batch_std")
def from_batch_std(rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm) -> Tensor:
    """(R - mean_g) / (std of those centred rewards + eps): ScaleRL (arXiv 2510.13786).

    The std is over the samples of groups with spread, after centring, so differences between prompts do not
    enter it; `global_std` divides by the std of the raw rewards, where they do.
    """
    apart, spread = centred(rewards, valid, batch, algorithm)
    return apart / divisor(batch_std(apart, spread, batch.reduce, algorithm.ddof) + algorithm.std_eps)


@ESTIMATORS.add("global_std")
def from_global_std(rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm) -> Tensor:
    """(R - mean_g) / (std of all raw rewards of the batch + eps): Flow-GRPO (arXiv 2505.05470).

    The std holds the differences between prompts too; `batch_std` leaves them out.
    """
    apart, _ = centred(rewards, valid, batch, algorithm)
    return apart / divisor(batch_std(rewards, valid, batch.reduce, algorithm.ddof) + algorithm.std_eps)


@ESTIMATORS.add("whiten")
def from_whiten(rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm) -> Tensor:
    """(R - mean) / (std + eps) over all valid actions of the batch: REINFORCE++ (arXiv 2501.03262) without its KL.

    With the KL in the reward each action has its own return: that is `whiten_tokens`.
    """
    return whitened(rewards, valid, batch, algorithm)


@ESTIMATORS.add("whiten_baseline")
def from_whiten_baseline(rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm) -> Tensor:
    """R - mean_g, whitened over all valid actions of the batch: REINFORCE++-baseline (arXiv 2501.03262).

    Where samples differ in length the centred rewards have a mean over the actions, and whitening subtracts it: from
    groups without spread too, which then have an advantage. Unlike in `batch_std` they count in the std.
    """
    apart, _ = centred(rewards, valid, batch, algorithm)
    return whitened(apart, valid, batch, algorithm)


@ESTIMATORS.add("outlier_filter", limit=above(0))
def from_outlier_filter(
    rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm, *, limit: float = 3.0, released: bool = False
) -> Tensor:
    """z = (R - mean) / (std + eps) over all valid actions, and 0 where |z| > limit: StableReinforce (R1-Reward).

    released: the condition of the published code instead, which keeps z within the *unnormalised* mean +- limit, and
    within +-10; with a mean away from 0 it drops ordinary samples and may keep the outliers. With the KL of each token
    in its return it is `outlier_filter_tokens`.
    """
    count = torch.where(valid, batch.mask.sum(1), 0).double()
    total = (count * torch.where(valid, rewards, 0.0)).sum()
    n, total = batch.reduce(torch.stack([count.sum(), total]), "sum")
    return without_outliers(whitened(rewards, valid, batch, algorithm), total / n.clamp(min=1), limit, released)


@ESTIMATORS.add("rank", certainty="D")
def from_rank(rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm) -> Tensor:
    """(wins - losses) / (n - 1) against the other samples of the group, in [-1, 1]; a tie is neither.

    Depends on the order of the rewards only, not on their scale. Comparing pairs needs whole groups on one
    rank. Raises ValueError, on every rank, where a group is split.
    """
    group = batch.group
    count = group_count(valid, group, batch.n_groups, batch.reduce)
    here = torch.zeros_like(count).index_add(0, group, valid.double())
    if agreed(((here > 0) & (here < count)).any(), batch):
        raise ValueError("advantage 'rank' compares pairs: keep the samples of a group on one rank")
    spread = with_spread(rewards, valid, group, batch.n_groups, batch.reduce, algorithm)
    advantage = torch.zeros_like(rewards)
    for index in group[spread].unique():
        rows = spread & (group == index)
        own = rewards[rows]
        advantage[rows] = (own[:, None] - own[None, :]).sign().sum(1) / (len(own) - 1)
    return advantage


@ESTIMATORS.add("none")
def from_nothing(rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm) -> Tensor:
    """The reward itself, for rewards that are advantages already."""
    return torch.where(valid, rewards, 0.0)


@ESTIMATORS.add("zero")
def from_zero(rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm) -> Tensor:
    """0: no policy gradient, for algorithms that train by their terms alone (with drop_zero_variance off)."""
    return torch.zeros_like(rewards)


def estimate(
    scores: Tensor,
    valid: Tensor,
    weights: Tensor,
    batch: Batch,
    algorithm: Algorithm,
    applicable: Tensor | None = None,
    penalty: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Advantages of samples with several rewards: tamed, summed, shaped, filtered, penalised, estimated, then clamped.

    scores: [N, F], one column per reward; entries that are invalid or not applicable may hold anything.
    valid: [N, F] bool, False where a reward failed: the sample then has no reward and is left out. A score
        that is not finite counts as failed.
    weights: [F]. A reward of weight 0 is a monitor: it touches no sample and no advantage, whatever it holds. Only
        where all weights are 0, and shapers make the reward of named ones, do all of them decide on validity.
    batch: groups, masks and features of the samples; its reduce makes the statistics.
    applicable: [N, F] bool, False where a reward has nothing to say of a sample: it contributes nothing. A
        sample to which no weighted reward applies has no reward either and is left out.
    penalty: [N], taken off the shaped reward after the filters have looked at it: kl_coef times the KL to the
        reference, for kl_place "reward". It is no reward, so it makes none where no other applies. Wants combine
        "reward_sum".

    `algorithm.tame`: takes the scores [N, F] of weighted rewards and returns the next ones, which all that follows sees
    in their place.
    `algorithm.shape`: each shaper takes (reward [N], NaN where there is none, batch) and returns the next reward;
    NaN makes a sample invalid. `algorithm.filters`: each takes (reward, valid, batch) and returns keep [N] bool;
    what is not kept leaves every statistic like an invalid sample. `algorithm.combine`:

    reward_sum: the weighted sum of the rewards goes through the estimator.
    advantage_sum: each reward goes through the estimator, then the weighted sum is taken.
    gdpo: each reward is normalised by its group, the weighted sum is divided by its std over the valid
        samples of the batch (arXiv 2601.05242); its mean is 0 by construction.

    Returns (advantage [N] or [N, T] float64, reward [N] float64, sample_valid [N] bool). The reward is the shaped
    sum, NaN for a sample without one; where sample_valid is False the advantage is 0.
    """
    applies = torch.ones_like(valid) if applicable is None else applicable
    used = weights != 0 if bool((weights != 0).any()) else torch.ones_like(weights, dtype=torch.bool)
    scores, weights = scores[:, used].double(), weights[used].to(scores.device, torch.float64)
    valid, applies = valid[:, used], applies[:, used]
    summed = ((valid & scores.isfinite()) | ~applies).all(1) & applies.any(1)
    if algorithm.tame is not None:
        from mmrl.core.tame import TAMERS

        scores = TAMERS.bind(algorithm.tame)(scores, applies & summed[:, None], batch)
    reward = (torch.where(applies & summed[:, None], scores, 0.0) * weights).sum(1)
    reward, sample_valid = _shape_and_filter(torch.where(summed, reward, torch.nan), batch, algorithm)
    counted = applies & sample_valid[:, None]
    if penalty is not None:
        if algorithm.combine != "reward_sum":
            raise ValueError(f"a penalty comes off the summed reward, which combine={algorithm.combine!r} never forms")
        reward = reward - penalty.to(reward)

    estimator = ESTIMATORS.bind(algorithm.advantage)
    if algorithm.combine == "reward_sum":
        advantage = estimator(reward, sample_valid, batch, algorithm)
    else:
        columns = [estimator(scores[:, f], counted[:, f], batch, algorithm) for f in range(scores.shape[1])]
        advantage = (torch.stack(columns, -1) * weights).sum(-1)
        if algorithm.combine == "gdpo":
            std = batch_std(advantage, sample_valid, batch.reduce, algorithm.ddof)
            advantage = advantage / divisor(std + algorithm.std_eps)

    if algorithm.clamp is not None:
        advantage = advantage.clamp(-algorithm.clamp, algorithm.clamp)
    return advantage, reward, sample_valid


def _shape_and_filter(reward: Tensor, batch: Batch, algorithm: Algorithm) -> tuple[Tensor, Tensor]:
    """(reward, valid), both [N], after the shapers and filters of the algorithm, in order."""
    if algorithm.shape:
        from mmrl.core.shape import SHAPERS

        for hook in algorithm.shape:
            reward = SHAPERS.bind(hook)(reward, batch)
    reward = torch.where(reward.isfinite(), reward, torch.nan)
    valid = reward.isfinite()
    if algorithm.filters:
        from mmrl.core.filter import FILTERS

        for hook in algorithm.filters:
            valid = valid & FILTERS.bind(hook)(reward, valid, batch)
    return reward, valid


# Last, so that the simple estimators come first in lists.
from mmrl.core import advantage_steps as _registers  # noqa: E402, F401
