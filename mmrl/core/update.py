"""What an optimizer step decides over its whole batch before the first micro-batch: masks, weights, preparations."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.correction import CORRECTIONS
from mmrl.core.library import hooks
from mmrl.core.registry import prepared
from mmrl.core.weight import MASKS, WEIGHTS


def prepare_update(batch: Batch, advantage: Tensor, algorithm: Algorithm) -> tuple[Batch, Tensor | None]:
    """The batch of one optimizer step with its final mask and everything that hooks prepare, and action weights.

    batch: the samples of the step; its mask says which actions could be trained. Every hook with `needs` finds
        them there, but for "advantage", which is added.
    advantage: [N] or [N, T].

    Action masks and what the correction rejects leave the mask, and with it the denominators. The weights [N, T],
    None where the algorithm has none, are the product of its action weights and its correction.
    Every rank must call this once per step. Raises ValueError for an input that is missing.
    """
    mask = batch.mask
    spread = torch.where(mask, advantage[:, None] if advantage.ndim == 1 else advantage, 0.0)
    batch = batch.having(features={"advantage": spread})
    keep, weight = mask, None
    for hook in algorithm.action_masks:
        keep = keep & MASKS.bind(hook)(spread, batch)
    if algorithm.correction is not None:
        old = batch.needed("logp_old", batch.logp_old)
        sampler = batch.needed("logp_sampler", batch.logp_sampler)
        gap = torch.where(mask, old, 0.0) - torch.where(mask, sampler, 0.0)
        weight, kept = CORRECTIONS.bind(algorithm.correction)(gap, batch, spread)
        keep = keep & kept
    batch = prepared(dataclasses.replace(batch, mask=keep), hooks(algorithm))
    for hook in algorithm.action_weights:
        found = WEIGHTS.bind(hook)(spread, batch)
        weight = found if weight is None else weight * found
    return batch, weight
