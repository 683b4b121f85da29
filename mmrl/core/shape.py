"""Shapers: what becomes of the summed reward before advantages are taken, one small function each, in SHAPERS.

A shaper takes (reward [N] float64, batch, **options) and returns the next reward [N]. A sample without a reward is
NaN: it stays NaN and stays out of every statistic. A sample also becomes NaN where a number that the shaper needs
(a named reward, a label) does not exist, for that is not a 0. Every rank must call; statistics are over all ranks.
Rewards that a shaper names (`components`, `condition` ...) usually have weight 0 in the sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.core.batch import Batch
from mmrl.core.estimator import agreed
from mmrl.core.groups import group_count, group_mean, group_std
from mmrl.core.registry import Bound, Registry, at_least, at_most, between, one_of
from mmrl.core.schedule import check_stages, stage_weights

SHAPERS = Registry("reward shaper")

RATE = Bound(lambda v: isinstance(v, str) or 0 <= v < 0.5, "from 0 to below 0.5, or the name of a column")


# ------------------------------------------------------------------ length


def _buffer_in_limit(*, limit: int, buffer: int, **_: Any) -> None:
    if buffer > limit:
        raise ValueError(f"buffer={buffer} is above limit={limit}; it is a part of the limit")


@SHAPERS.add("soft_overlong", check=_buffer_in_limit, limit=at_least(1), buffer=at_least(1), floor=at_most(0))
def soft_overlong(reward: Tensor, batch: Batch, *, limit: int, buffer: int, floor: float | None = -1.0) -> Tensor:
    """Adds ((limit - buffer) - n) / buffer to samples of n > limit - buffer actions: DAPO (arXiv 2503.14476).

    The penalty falls from 0 to -1 at n = limit and stays at `floor` beyond; floor null lets it fall on, as verl and
    ms-swift do. DAPO's limit is 20480 with a buffer of 4096.
    """
    penalty = ((limit - buffer - batch.lengths.double()) / buffer).clamp(max=0)
    return reward + (penalty if floor is None else penalty.clamp(min=floor))


@SHAPERS.add(
    "length_lambda",
    certainty="C",
    alpha=at_least(0),
    top=between(0, 1),
    threshold=between(0, 1),
    mode=one_of("top", "threshold"),
    only_if={"top": ("mode", "top"), "threshold": ("mode", "threshold")},
)
def length_lambda(
    reward: Tensor,
    batch: Batch,
    *,
    alpha: float = 0.2,
    mode: str = "top",
    top: float = 0.2,
    threshold: float = 1.0,
    correct_at: float = 1.0,
) -> Tensor:
    """GRPO-lambda: in groups that are answered well, correct answers lose alpha * sigmoid((n - mean) / std).

    mean and std (population) are those of the lengths n of the group's correct answers; with a std of 0 the argument
    is 0. Correct is a reward of `correct_at` or more; a 0/1 reward becomes 1 - alpha * sigmoid(...), as published.
    mode top: the ceil(top * G) groups with the largest share of correct answers, of the G that have a reward, and
    those that tie with the last of them: a choice between them would depend on their order. mode threshold: the groups
    whose share is `threshold` or more. Summaries of the paper tell both ways; alpha and top are from memory, threshold
    is ours.
    """
    where = (batch.group, batch.n_groups, batch.reduce)
    known = reward.isfinite()
    correct = known & (reward >= correct_at)
    share = group_mean(correct, known, *where)
    present = group_count(known, *where) > 0
    if mode == "top":
        wanted = math.ceil(top * int(present.sum()) - 1e-9)
        shares = torch.where(present, share, -1.0).sort(descending=True).values
        chosen = present & (share >= shares[wanted - 1]) if wanted else torch.zeros_like(present)
    else:
        chosen = present & (share >= threshold)
    lengths = batch.lengths.double()
    mean = group_mean(lengths, correct, *where)[batch.group]
    std = group_std(lengths, correct, *where, ddof=0)[batch.group]
    z = torch.where(std > 0, (lengths - mean) / std, 0.0)
    return torch.where(correct & chosen[batch.group], reward - alpha * z.sigmoid(), reward)


# ------------------------------------------------------------------ several rewards


@SHAPERS.add("gated_sum", certainty="C", only_if={"delta": ("ungated", False)})
def gated_sum(
    reward: Tensor,
    batch: Batch,
    *,
    components: Sequence[str] = ("process",),
    delta: float = 1.0,
    outcome: str | None = None,
    ungated: bool = False,
) -> Tensor:
    """R + 1[R_out >= delta] * sum of the named step rewards: G-RA. The outcome values and delta are not public.

    outcome: the reward that opens the gate; null takes the incoming one. ungated: the sum without the gate (D-RA),
    which the paper reports to collapse.
    """
    opens = reward if outcome is None else batch.score(outcome)
    steps = _joined(batch, components, "sum")
    gained = steps if ungated else torch.where(opens >= delta, steps, 0.0)
    return torch.where(opens.isfinite(), reward + gained, torch.nan)


@SHAPERS.add("gated", certainty="D", combine=one_of("product", "sum"))
def gated(
    reward: Tensor,
    batch: Batch,
    *,
    condition: str,
    threshold: float = 1.0,
    then: Sequence[str] | None = None,
    otherwise: Sequence[str] | float = 0.0,
    combine: str = "product",
) -> Tensor:
    """`then` where the reward `condition` is `threshold` or more, `otherwise` elsewhere.

    A branch is the product or sum of named rewards; `then` null is the incoming reward, and `otherwise` may be a
    number. Only the branch that is taken has to exist.
    """
    gate = batch.score(condition)
    met = reward if then is None else _joined(batch, then, combine)
    if isinstance(otherwise, int | float):
        unmet = torch.full_like(reward, otherwise)
    else:
        unmet = _joined(batch, otherwise, combine)
    return torch.where(reward.isfinite() & gate.isfinite(), torch.where(gate >= threshold, met, unmet), torch.nan)


@SHAPERS.add("staged", certainty="D", check=check_stages)
def staged(
    reward: Tensor, batch: Batch, *, boundaries: Sequence[int], weights: Sequence[Mapping[str, float]]
) -> Tensor:
    """Weighted sum of named rewards, with the weights of the stage that the training step is in.

    weights: one mapping of reward name to weight per stage; boundaries: the steps, from 0, at which the next begins.
    """
    chosen = stage_weights(batch.step, boundaries=boundaries, weights=weights)
    if not chosen:
        raise ValueError(f"shape 'staged': the stage of step {batch.step} names no reward; give it one")
    total = torch.stack([weight * batch.score(name) for name, weight in chosen.items()]).sum(0)
    return torch.where(reward.isfinite(), total, torch.nan)


@SHAPERS.add(
    "selective",
    needs=("miss", "over", "malformed"),
    certainty="C",
    miss=at_least(0),
    over=at_least(0),
    malformed=at_least(0),
)
def selective(reward: Tensor, batch: Batch, *, miss: float = 0.2, over: float = 0.3, malformed: float = 1.0) -> Tensor:
    """R - miss * P_miss - over * P_over - malformed * P_fmt: AdaCoT. The coefficients are from memory.

    The columns `miss` (no reasoning where it was needed), `over` (reasoning where it was not) and `malformed` hold
    the penalties, 0 or 1.
    """
    weights = {"miss": miss, "over": over, "malformed": malformed}
    return reward - torch.stack([weight * batch.column(name).double() for name, weight in weights.items()]).sum(0)


# ------------------------------------------------------------------ rounds


@SHAPERS.add("round_discount", needs=("round", "rounds"), certainty="C", gamma=between(0, 1))
def round_discount(reward: Tensor, batch: Batch, *, gamma: float = 0.995) -> Tensor:
    """gamma^(T - t) R for the sample of round t of T: EAPO (IterResearch). Gamma is from memory.

    Each round is a sample and carries its episode's reward; column `round` is t, from 1, and `rounds` is T.
    """
    now, last = batch.column("round").double(), batch.column("rounds").double()
    if agreed(~((now >= 1) & (now <= last)).all(), batch):
        raise ValueError("shape 'round_discount': column `round` must be from 1 to `rounds`, in every sample")
    return reward * gamma ** (last - now)


# ------------------------------------------------------------------ noisy verifiers


@SHAPERS.add("noise_backward", certainty="B", rho0=RATE, rho1=RATE)
def noise_backward(reward: Tensor, batch: Batch, *, rho0: float | str, rho1: float | str) -> Tensor:
    """(R - rho0) / (1 - rho0 - rho1) for a 0/1 verifier: its expectation is the reward without noise.

    rho0: rate of wrong answers that pass, rho1: of right answers that fail; numbers, or names of columns. Constant
    rates have no effect under an estimator that centres and divides by a std.
    """
    _binary(reward, batch, "noise_backward")
    wrong, right = _rate(rho0, batch), _rate(rho1, batch)
    return (reward - wrong) / (1 - wrong - right)


@SHAPERS.add("noise_forward", certainty="B", rho1=RATE)
def noise_forward(reward: Tensor, batch: Batch, *, rho1: float | str) -> Tensor:
    """rho1 where a 0/1 verifier passes, rho1 - 1 where it fails: the clean gradient times 1 - rho0 - rho1.

    Needs only the rate of right answers that fail, a number or the name of a column. With a constant rate it shifts
    all rewards, which has no effect under an estimator that subtracts a mean.
    """
    _binary(reward, batch, "noise_forward")
    return reward - (1 - _rate(rho1, batch))


# ------------------------------------------------------------------ agreement between samples


@SHAPERS.add("majority_vote", needs=("vote",))
def majority_vote(reward: Tensor, batch: Batch) -> Tensor:
    """1 where the answer is the most frequent one of its own group, 0 elsewhere: TTRL (arXiv 2504.16084).

    Column `vote` holds ids (whole numbers below 2^53; equal ids are equal answers, -1 or NaN is no answer, which
    gets 0 and no vote). Of equally frequent answers the smallest id wins. The incoming reward only says which
    samples count; a group without any answer has no label, and its samples no reward. The column is not called
    `answer`, which in most records is the right one.
    """
    return _agreement(reward, batch, batch.group)


@SHAPERS.add("co_reward", needs=("id", "pair", "vote"))
def co_reward(reward: Tensor, batch: Batch) -> Tensor:
    """1 where the answer is the most frequent one of the paired group, 0 elsewhere: Co-Reward.

    Column `id` holds a number for each record, and `pair` that of the record with the paraphrase (as a record names
    the other's id); where the step has that record several times, its first group is the pair. Groups may be of
    different size. Answers, ties and missing labels as in `majority_vote`.
    Raises ValueError, on every rank, where the pair of a sample is not in the step.
    """
    record = torch.full((batch.n_groups,), -1, dtype=torch.int64, device=batch.group.device)
    record = record.scatter_reduce(0, batch.group, _ids(batch, "id"), "amax")
    same = batch.reduce(record, "max")[None, :] == _ids(batch, "pair")[:, None]
    if agreed(~(same.any(1) & (_ids(batch, "pair") >= 0)).all(), batch):
        raise ValueError(
            "shape 'co_reward': column `pair` must name the id of a record in the same step, in every sample; put both "
            "prompts of a pair into one step"
        )
    return _agreement(reward, batch, same.int().argmax(1))


@SHAPERS.add("plan_value", needs=("plan",), certainty="D", weight=at_least(0))
def plan_value(reward: Tensor, batch: Batch, *, weight: float = 1.0, outcome: str | None = None) -> Tensor:
    """R + weight * the mean outcome of the group's samples with the same plan: after PTA-GRPO, weights unknown.

    Column `plan` holds ids (-1 or NaN: no plan, nothing is added); outcome null takes the incoming reward.
    """
    value = reward if outcome is None else batch.score(outcome)
    counted = reward.isfinite() & value.isfinite()
    plan = _ids(batch, "plan")
    shaped = torch.where((plan < 0) | counted, reward, torch.nan)
    for rows, _ in _by_id(plan, counted & (plan >= 0), batch):
        mean = group_mean(value, rows, batch.group, batch.n_groups, batch.reduce)[batch.group]
        shaped = torch.where(rows, reward + weight * mean, shaped)
    return shaped


def bmas(x: Tensor, y: Tensor) -> Tensor:
    """Bidirectional maximum average similarity of x [a, d] and y [b, d], a scalar in [-1, 1]: Mixed-R1.

    (mean over x of the best cosine in y + mean over y of the best cosine in x) / 2, for token embeddings of an answer
    and of its reference. The formula is derived from the name and the abstract. Raises ValueError without tokens.
    """
    if x.ndim != 2 or y.ndim != 2 or 0 in (len(x), len(y)) or x.shape[1] != y.shape[1]:
        raise ValueError(f"bmas: needs [a, d] and [b, d] with a, b > 0, got {list(x.shape)} and {list(y.shape)}")
    unit_x, unit_y = (torch.nn.functional.normalize(v.double(), dim=1) for v in (x, y))
    cosine = unit_x @ unit_y.T
    return (cosine.amax(1).mean() + cosine.amax(0).mean()) / 2


# ------------------------------------------------------------------ shared


def _joined(batch: Batch, names: Sequence[str], how: str) -> Tensor:
    """[N]: sum or product of the named rewards, NaN where one of them is."""
    if not names:
        raise ValueError("this shaper got an empty list of reward names; name at least one reward")
    values = torch.stack([batch.score(name).double() for name in names])
    return values.sum(0) if how == "sum" else values.prod(0)


def _rate(rate: float | str, batch: Batch) -> Tensor:
    """A rate as [N] or a scalar. Raises ValueError, on every rank, for a column outside [0, 0.5)."""
    if not isinstance(rate, str):
        return torch.tensor(rate, dtype=torch.float64, device=batch.group.device)
    values = batch.column(rate).double()
    if agreed(~((values >= 0) & (values < 0.5)).all(), batch):
        raise ValueError(f"column {rate!r}: a noise rate must be from 0 to below 0.5, in every sample")
    return values


def _binary(reward: Tensor, batch: Batch, name: str) -> None:
    if agreed((reward.isfinite() & (reward != 0) & (reward != 1)).any(), batch):
        raise ValueError(f"shape {name!r} corrects a verifier of 0 or 1; take other rewards out of the sum (weight 0)")


def _ids(batch: Batch, name: str) -> Tensor:
    """[N] int64 of a column of ids; -1 where it has none."""
    column = batch.column(name)
    return torch.where(column.isfinite(), column, -1).long() if column.is_floating_point() else column.long()


def _agreement(reward: Tensor, batch: Batch, judged_by: Tensor) -> Tensor:
    """[N]: 1 where the answer is the majority's of the group `judged_by` [N], 0 elsewhere, NaN without a label."""
    answer, known = _ids(batch, "vote"), reward.isfinite()
    label = torch.full((batch.n_groups,), -1, dtype=torch.int64, device=answer.device)
    most = torch.zeros(batch.n_groups, dtype=torch.float64, device=answer.device)
    for rows, ids in _by_id(answer, known & (answer >= 0), batch):
        votes = group_count(rows, batch.group, batch.n_groups, batch.reduce)
        label, most = torch.where(votes > most, ids, label), torch.maximum(votes, most)
    wanted = label[judged_by]
    return torch.where(known & (wanted >= 0), (answer == wanted).double(), torch.nan)


def _by_id(ids: Tensor, counted: Tensor, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """For the smallest id of every group, then the next ...: (rows [N] bool that hold it, the ids [n_groups]).

    Groups have different ids and may lie on several ranks; all ranks go through equally many rounds.
    """
    left = counted
    while agreed(left.any(), batch):
        first = torch.full((batch.n_groups,), torch.iinfo(torch.int64).max, device=ids.device)
        first = first.scatter_reduce(0, batch.group[left], ids[left], "amin")
        first = batch.reduce(first, "min")
        rows = left & (ids == first[batch.group])
        yield rows, first
        left = left & ~rows
