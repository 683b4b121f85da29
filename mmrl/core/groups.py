"""Sums, means and standard deviations per group, over all ranks, in float64.

`group` [N] holds the global index of each sample's group, 0 .. n_groups-1; a group's samples may lie on
several ranks. Values are [N] or [N, F], `valid` (bool) has their shape; results are [n_groups] or
[n_groups, F], equal on every rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmrl.core.reduce import Reduce


def group_sum(values: Tensor, group: Tensor, n_groups: int, reduce: Reduce) -> Tensor:
    """Sum of `values` per group, float64; 0 for a group without samples."""
    total = torch.zeros((n_groups, *values.shape[1:]), dtype=torch.float64, device=values.device)
    return reduce(total.index_add(0, group, values.double()), "sum")


def group_count(valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce) -> Tensor:
    """Number of valid samples per group, float64."""
    return group_sum(valid, group, n_groups, reduce)


def group_mean(values: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce) -> Tensor:
    """Mean of the valid values per group; 0 where there is none. Invalid entries may hold anything."""
    total = group_sum(_keep(values, valid), group, n_groups, reduce)
    return total / group_count(valid, group, n_groups, reduce).clamp(min=1)


def group_std(values: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce, ddof: int = 1) -> Tensor:
    """Standard deviation of the valid values per group, with n - ddof in the denominator.

    0 for groups of `ddof` valid samples or fewer. Deviations are taken from the mean before they are squared,
    so that a large common offset costs no precision.
    """
    mean = group_mean(values, valid, group, n_groups, reduce)
    squares = group_sum(_keep(values.double() - mean[group], valid) ** 2, group, n_groups, reduce)
    count = group_count(valid, group, n_groups, reduce)
    return (squares / (count - ddof).clamp(min=1)).sqrt()


def batch_mean(values: Tensor, valid: Tensor, reduce: Reduce) -> Tensor:
    """Mean of the valid values [N] of all ranks, a scalar; 0 where there is none."""
    return group_mean(values, valid, _one_group(values), 1, reduce)[0]


def batch_std(values: Tensor, valid: Tensor, reduce: Reduce, ddof: int = 1) -> Tensor:
    """Standard deviation of the valid values [N] of all ranks, a scalar."""
    return group_std(values, valid, _one_group(values), 1, reduce, ddof)[0]


def _one_group(values: Tensor) -> Tensor:
    return torch.zeros(len(values), dtype=torch.int64, device=values.device)


def _keep(values: Tensor, valid: Tensor) -> Tensor:
    """`values` with 0 where they are invalid: a product would let NaN through."""
    return torch.where(valid, values.double(), 0.0)
