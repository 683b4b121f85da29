"""What estimators of advantages share: their registry, and centring and dividing inside groups."""

from __future__ import annotations

import torch
from torch import Tensor

from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.groups import group_mean, group_std
from mmrl.core.reduce import Reduce
from mmrl.core.registry import Registry

# An estimator takes (rewards [N] float64, valid [N] bool, batch, algorithm, **options) and returns [N] or [N, T]
# float64, 0 for invalid samples, whatever their reward holds.
ESTIMATORS = Registry("advantage")

RELEASED_BOUND = 10.0  # of StableReinforce's code, on |z|


def with_spread(
    values: Tensor, valid: Tensor, key: Tensor, n_keys: int, reduce: Reduce, algorithm: Algorithm
) -> Tensor:
    """[M] bool: valid values of groups (key [M], 0 .. n_keys-1) whose standard deviation is above the floor."""
    std = group_std(values, valid, key, n_keys, reduce, algorithm.ddof)
    return valid & (std > algorithm.std_floor)[key]


def centred(rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm) -> tuple[Tensor, Tensor]:
    """R - mean_g [N], exactly 0 for samples of groups without spread; and which samples have spread [N]."""
    where = (batch.group, batch.n_groups, batch.reduce)
    spread = with_spread(rewards, valid, *where, algorithm)
    mean = group_mean(rewards, valid, *where)
    return torch.where(spread, rewards - mean[batch.group], 0.0), spread


def normalised(values: Tensor, valid: Tensor, key: Tensor, n_keys: int, reduce: Reduce, algorithm: Algorithm) -> Tensor:
    """(x - mean) / (std + eps) inside the groups of `key`, all [M]; exactly 0 without spread."""
    std = group_std(values, valid, key, n_keys, reduce, algorithm.ddof)
    mean = group_mean(values, valid, key, n_keys, reduce)
    spread = valid & (std > algorithm.std_floor)[key]
    return torch.where(spread, values - mean[key], 0.0) / divisor(std[key] + algorithm.std_eps)


def whitened(values: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm) -> Tensor:
    """(x - mean) / (std + eps) over the valid actions of the batch, [N]; 0 where invalid, and without spread.

    A sample's value stands at each of its actions, so it counts as often as it has some: what published code does
    that spreads rewards over tokens before it whitens them.
    """
    count = torch.where(valid, batch.mask.sum(1), 0).double()
    inside = torch.where(valid, values, 0.0)
    n, total = batch.reduce(torch.stack([count.sum(), (count * inside).sum()]), "sum")
    apart = torch.where(valid, values - total / n.clamp(min=1), 0.0)
    squares = batch.reduce((count * apart**2).sum(), "sum")
    std = (squares / (n - algorithm.ddof).clamp(min=1)).sqrt()
    return apart * (std > algorithm.std_floor) / divisor(std + algorithm.std_eps)


def without_outliers(z: Tensor, mean: Tensor, limit: float, released: bool) -> Tensor:
    """z, with 0 where |z| > limit: StableReinforce's filter. mean: of what z was made of, before it was normalised.

    released: the condition of the published code instead, which keeps z inside of mean +- limit, and of +-10; with a
    mean away from 0 it drops ordinary values and may keep the outliers.
    """
    kept = ((z - mean).abs() <= limit) & (z.abs() <= RELEASED_BOUND) if released else z.abs() <= limit
    return torch.where(kept, z, 0.0)


def divisor(x: Tensor) -> Tensor:
    """`x`, with 1 for 0: with std_eps=0 a batch without spread divides 0 by 0 otherwise."""
    return torch.where(x > 0, x, 1.0)


def agreed(wrong: Tensor, batch: Batch) -> bool:
    """Whether `wrong` (a bool scalar) holds on any process, so that all of them raise together."""
    return bool(batch.reduce(wrong.double(), "max") > 0)
