"""Which samples carry a signal, and which samples count at all.

`zero_variance` looks at advantages. The functions in FILTERS come before them: each takes (reward [N], NaN where
there is none, valid [N] bool, batch, **options) and returns keep [N] bool. What a filter drops leaves every statistic
like an invalid sample; an invalid sample is never kept and never counted. Every rank must call; statistics are over
all ranks, and so is every choice: it depends on (seed, step, group index, place in the group) only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from torch import Tensor

from mmrl.core.batch import Batch
from mmrl.core.estimator import agreed
from mmrl.core.groups import group_count, group_mean, group_std
from mmrl.core.reduce import Reduce
from mmrl.core.registry import Registry, at_least, between, low_first

FILTERS = Registry("filter")


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


# ------------------------------------------------------------------ whole groups


@FILTERS.add("accuracy_band", check=low_first)
def accuracy_band(
    reward: Tensor, valid: Tensor, batch: Batch, *, low: float, high: float, score: str | None = None
) -> Tensor:
    """Keep groups whose mean reward, or mean of the reward named `score`, is from `low` to `high`, both included.

    A group in which no valid sample has the score is dropped.
    """
    values, counted = _values(reward, valid, batch, score)
    where = (batch.group, batch.n_groups, batch.reduce)
    mean, present = group_mean(values, counted, *where), group_count(counted, *where) > 0
    return valid & (present & (mean >= low) & (mean <= high))[batch.group]


@FILTERS.add("spread", above=at_least(0), ddof=between(0, 1))
def spread(
    reward: Tensor, valid: Tensor, batch: Batch, *, above: float = 0.3, ddof: int = 1, score: str | None = None
) -> Tensor:
    """Keep groups whose standard deviation, of the reward or of `score`, is above `above`: 0.3 in UI-S1's script.

    ddof 1 is the sample standard deviation, 0 the population's.
    """
    values, counted = _values(reward, valid, batch, score)
    std = group_std(values, counted, batch.group, batch.n_groups, batch.reduce, ddof)
    return valid & (std > above)[batch.group]


# ------------------------------------------------------------------ samples by what they are


@FILTERS.add("staleness", needs=("version",), most=at_least(0))
def staleness(reward: Tensor, valid: Tensor, batch: Batch, *, most: int = 8) -> Tensor:
    """Drop samples with step - version > most; an age of exactly `most` is kept, and 0 keeps on-policy ones alone.

    Column `version` is the step (from 0) before whose updates the weights that sampled were taken: samples of this
    step have version == step. Ages count steps, not the optimizer updates inside them. The trainers in use differ by
    one in this rule. Raises ValueError, on every rank, for a version of the future.
    """
    age = batch.step - batch.column("version")
    if agreed((valid & ~(age >= 0)).any(), batch):
        raise ValueError(f"filter 'staleness': column `version` must be from 0 to the step ({batch.step})")
    return valid & (age <= most)


@FILTERS.add("truncated")
def truncated(reward: Tensor, valid: Tensor, batch: Batch) -> Tensor:
    """Drop samples that a budget cut off: they leave the group's statistics too, unlike with a mask."""
    return valid & ~batch.needed("truncated", batch.truncated)


# ------------------------------------------------------------------ samples by choice


@FILTERS.add("prof", certainty="B", keep=at_least(1), only_if={"seed": ("correct_only", True)})
def prof(
    reward: Tensor,
    valid: Tensor,
    batch: Batch,
    *,
    process: str = "process",
    keep: int = 4,
    correct_at: float = 1.0,
    correct_only: bool = False,
    seed: int = 0,
) -> Tensor:
    """Keep `keep` samples of a group, half of them correct, by the agreement of reward and process reward: PROF.

    Of the correct samples (reward of `correct_at` or more) those with the highest process reward stay, of the
    incorrect those with the lowest; of equal ones the earlier. Where one side has too few the other fills up; the
    odd one is correct. correct_only: the incorrect ones are drawn at random instead, for a weak process reward. A
    sample without a process reward is dropped. keep 4 (of 8) is from memory. Needs whole groups on one rank.
    """
    score = batch.score(process)
    kept = torch.zeros_like(valid)
    for index, rows in _whole_groups(valid & score.isfinite(), batch, "prof"):
        right = rows[reward[rows] >= correct_at]
        wrong = rows[reward[rows] < correct_at]
        n_right = min(max((keep + 1) // 2, keep - len(wrong)), len(right))
        n_wrong = min(keep - n_right, len(wrong))
        kept[right[score[right].argsort(descending=True, stable=True)[:n_right]]] = True
        order = _drawn(len(wrong), seed, batch.step, index) if correct_only else score[wrong].argsort(stable=True)
        kept[wrong[order[:n_wrong]]] = True
    return kept


@FILTERS.add("multiple", certainty="C", of=at_least(1))
def multiple(reward: Tensor, valid: Tensor, batch: Batch, *, of: int, seed: int = 0) -> Tensor:
    """Keep the largest multiple of `of` valid samples, for parallel ranks of equal size: EAPO (IterResearch).

    Samples go one at a time from the group that has most left (of equal ones the first), drawn at random inside it;
    fewer than `of` are dropped altogether. Put it last. Needs whole groups on one rank.
    """
    left = group_count(valid, batch.group, batch.n_groups, batch.reduce).long().tolist()
    for _ in range(sum(left) % of):
        left[left.index(max(left))] -= 1
    kept = torch.zeros_like(valid)
    for index, rows in _whole_groups(valid, batch, "multiple"):
        kept[rows[_drawn(len(rows), seed, batch.step, index)[: left[index]]]] = True
    return kept


# ------------------------------------------------------------------ shared


def _values(reward: Tensor, valid: Tensor, batch: Batch, score: str | None) -> tuple[Tensor, Tensor]:
    """What a filter looks at, [N], and which samples have it."""
    values = reward if score is None else batch.score(score)
    return values, valid & values.isfinite()


def _whole_groups(valid: Tensor, batch: Batch, name: str) -> Iterator[tuple[int, Tensor]]:
    """(index, its valid rows) of this rank's groups. Raises ValueError, on every rank, where a group is split."""
    count = group_count(valid, batch.group, batch.n_groups, batch.reduce)
    here = torch.zeros_like(count).index_add(0, batch.group, valid.double())
    if agreed(((here > 0) & (here < count)).any(), batch):
        raise ValueError(f"filter {name!r} chooses inside groups: keep the samples of a group on one rank")
    for index in batch.group[valid].unique().tolist():
        yield index, torch.nonzero(valid & (batch.group == index)).flatten()


def _drawn(count: int, *seed: int) -> Tensor:
    """[count] int64: a random order that depends on `seed` alone."""
    order = list(range(count))
    random.Random("/".join(map(str, seed))).shuffle(order)
    return torch.tensor(order, dtype=torch.int64)
