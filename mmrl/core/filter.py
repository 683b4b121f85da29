"""Which samples carry a signal."""

from __future__ import annotations

from torch import Tensor

from mmrl.core.groups import group_count
from mmrl.core.reduce import Reduce


def zero_variance(advantage: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce) -> Tensor:
    """keep [N] bool: False for invalid samples, and for groups in which every valid advantage is exactly 0.

    Such a group has no policy gradient; DAPO (arXiv 2503.14476) leaves it out. advantage, valid, group: [N].
    """
    return valid & _signal(advantage, valid, group, n_groups, reduce)[group]


def zero_variance_share(advantage: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce) -> Tensor:
    """Share of the groups with a valid sample in which every valid advantage is 0; 0 without any."""
    present = group_count(valid, group, n_groups, reduce) > 0
    silent = present & ~_signal(advantage, valid, group, n_groups, reduce)
    return silent.sum().double() / present.sum().clamp(min=1)


def _signal(advantage: Tensor, valid: Tensor, group: Tensor, n_groups: int, reduce: Reduce) -> Tensor:
    """[n_groups] bool: some valid sample has an advantage other than 0."""
    return group_count(valid & (advantage != 0), group, n_groups, reduce) > 0
