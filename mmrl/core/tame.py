"""Taming: what becomes of rewards one by one before they are summed, one small function each, in TAMERS.

A tamer takes (scores [N, F] float64, counted [N, F] bool, batch, **options) and returns the next scores [N, F]. Entries
that do not count may hold anything and stay as they are, and out of every statistic. Every rank must call; statistics
are over all ranks. What is summed of them goes through the estimator as any reward does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmrl.core.batch import Batch
from mmrl.core.estimator import agreed
from mmrl.core.groups import batch_mean, batch_std
from mmrl.core.registry import Bound, Registry

TAMERS = Registry("tamer of rewards")

EPS = 1e-6  # of the published code, added to the mean
THRESHOLD = Bound(
    lambda v: v in ("mean", "median") if isinstance(v, str) else v >= 0, "0 or more, or one of mean, median"
)


@TAMERS.add("log", certainty="B", threshold=THRESHOLD)
def log_tame(scores: Tensor, counted: Tensor, batch: Batch, *, threshold: float | str = "mean") -> Tensor:
    """log(1 + r) for the rewards whose std / mean over the batch is above the threshold: PaCo-GRPO (arXiv 2512.04784).

    threshold: a number, or the mean or the median of that ratio over the rewards. The std is the population's, and
    monitors do not count. The released function is not its default, and its sum is taken as the advantage without
    centring: that is the preset paco_grpo_uncentred.
    Raises ValueError, on every rank, where a reward below 0 would be tamed.
    """
    columns = list(zip(scores.unbind(1), counted.unbind(1)))
    spread = torch.stack([_variation(column, known, batch) for column, known in columns])
    tamed = spread > _limit(spread, threshold)
    if agreed((counted & tamed & (scores < 0)).any(), batch):
        raise ValueError(
            "tame 'log' takes log(1 + r) of rewards of 0 or more, and one that it would tame is below 0; scale or "
            "shift that reward, or raise the threshold"
        )
    return torch.where(counted & tamed, torch.log1p(torch.where(counted, scores, 0.0)), scores)


def _limit(spread: Tensor, threshold: float | str) -> Tensor | float:
    if not isinstance(threshold, str):
        return threshold
    return spread.mean() if threshold == "mean" else spread.quantile(0.5)  # of two in the middle their mean


def _variation(column: Tensor, known: Tensor, batch: Batch) -> Tensor:
    """std / mean of a reward over the samples that have it, a scalar."""
    return batch_std(column, known, batch.reduce, 0) / (batch_mean(column, known, batch.reduce) + EPS)
