"""Aggregation: the weight of every action in the loss of one optimizer step.

`weights` gives w [N, T] for the samples of this rank such that the step's loss is sum(w * loss_per_action),
over all micro-batches and all ranks. The denominators are global and the sum is plain, so neither
micro-batches nor ranks can change the gradient. (A wrapper that averages gradients over ranks wants the loss
times the number of ranks.) Sequences without a trained action count nowhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmrl.core.groups import group_count, group_sum
from mmrl.core.reduce import Reduce

# (mask [N, T] bool, group [N] int64, n_groups, reduce, constant_length) -> divisor [N] of each row's actions.
Aggregation = Callable[[Tensor, Tensor, int, Reduce, int | None], Tensor]


def token_mean(mask: Tensor, group: Tensor, n_groups: int, reduce: Reduce, constant_length: int | None) -> Tensor:
    """Mean over all trained actions of the batch (DAPO's released code)."""
    return _total(mask, reduce).expand(len(mask))


def sequence_mean(mask: Tensor, group: Tensor, n_groups: int, reduce: Reduce, constant_length: int | None) -> Tensor:
    """Mean over a sequence's actions, then over the sequences of the batch (GRPO, GSPO, SAPO)."""
    return mask.sum(1) * _total(mask.any(1), reduce)


def constant(mask: Tensor, group: Tensor, n_groups: int, reduce: Reduce, constant_length: int | None) -> Tensor:
    """Sum over a sequence's actions over a fixed length, then mean over the sequences (Dr. GRPO)."""
    if constant_length is None:
        raise ValueError("aggregation 'constant' needs constant_length, the largest number of actions")
    return (_total(mask.any(1), reduce) * constant_length).expand(len(mask))


def prompt_mean(mask: Tensor, group: Tensor, n_groups: int, reduce: Reduce, constant_length: int | None) -> Tensor:
    """Mean over all actions of a group, then over the groups (DAPO's formula, ScaleRL)."""
    actions = group_sum(mask.sum(1), group, n_groups, reduce)
    groups = (group_count(mask.any(1), group, n_groups, reduce) > 0).sum()
    return actions[group] * groups


AGGREGATIONS: dict[str, Aggregation] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "constant": constant,
    "prompt_mean": prompt_mean,
}


def weights(
    mode: str,
    mask: Tensor,
    group: Tensor,
    n_groups: int,
    reduce: Reduce,
    constant_length: int | None = None,
) -> Tensor:
    """Weights [N, T] float64 of every action of one optimizer step; 0 where the mask is False.

    mode: a name in AGGREGATIONS.
    mask: [N, T] bool, all samples of this rank for this step; T may differ between ranks.
    group: [N] int64, global group index.
    A batch in which everything is masked gives zeros.
    """
    divisor = AGGREGATIONS[mode](mask, group, n_groups, reduce, constant_length)
    return mask.double() / divisor.double().clamp(min=1)[:, None]


def _total(values: Tensor, reduce: Reduce) -> Tensor:
    return reduce(values.sum().to(torch.float64), "sum")
