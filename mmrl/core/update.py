"""What an optimizer step decides over its whole batch before the first micro-batch: masks, weights, preparations."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.correction import AGAINST_OLD, CORRECTIONS, diagnostics
from mmrl.core.library import hooks
from mmrl.core.registry import prepared
from mmrl.core.weight import MASKS, WEIGHTS


class Prepared(NamedTuple):
    """One optimizer step, before its micro-batches.

    batch: with the final mask, and everything that hooks prepare.
    weight: [N, T], the product of the action weights and the correction; None where the algorithm has neither.
    metrics: "rollout/...", how far the sampler is from logp_old, and what the correction cut; empty where the policy
        itself sampled.
    """

    batch: Batch
    weight: Tensor | None
    metrics: dict[str, float]


def prepare_update(batch: Batch, advantage: Tensor, algorithm: Algorithm) -> Prepared:
    """The final mask of one optimizer step, everything that its hooks prepare, and the weights of its actions.

    batch: the samples of the step; its mask says which actions could be trained. Every hook with `needs` finds
        them there, but for "advantage", which is added.
    advantage: [N] or [N, T].

    Action masks, each on what the ones before it left, and what the correction rejects leave the mask, and with it the
    denominators. The correction weighs samples as they were drawn: by all actions that could be trained.
    Every rank must call this once per step. Raises ValueError for an input that is missing.
    """
    mask = batch.mask
    spread = torch.where(mask, advantage[:, None] if advantage.ndim == 1 else advantage, 0.0)
    drawn = batch.having(features={"advantage": spread})
    batch = drawn
    for hook in algorithm.action_masks:
        batch = dataclasses.replace(batch, mask=MASKS.bind(hook)(spread, batch))
    weight, metrics = None, {}
    gap = _gap(drawn, algorithm)
    if gap is not None:
        kept = None
        if algorithm.correction is not None:
            weight, kept = CORRECTIONS.bind(algorithm.correction)(gap, drawn, spread)
            batch = dataclasses.replace(batch, mask=batch.mask & kept)
        metrics = diagnostics(gap, mask, batch.reduce, weight, kept)
    batch = prepared(batch, hooks(algorithm))
    for hook in algorithm.action_weights:
        found = WEIGHTS.bind(hook)(spread, batch)
        weight = found if weight is None else weight * found
    return Prepared(batch, weight, metrics)


def _gap(batch: Batch, algorithm: Algorithm) -> Tensor | None:
    """logp_old - logp_sampler [N, T], 0 outside the mask; None where nothing asks for it.

    Raises ValueError where the correction does and the sampler's log-probs are missing.
    """
    sampler, correction = batch.logp_sampler, algorithm.correction
    if correction is None and (sampler is None or batch.logp_old is None):
        return None
    old = batch.needed("logp_old", batch.logp_old)
    if sampler is None and correction is not None and correction.name in AGAINST_OLD:
        sampler = old
    sampler = batch.needed("logp_sampler", sampler)
    return torch.where(batch.mask, old, 0.0) - torch.where(batch.mask, sampler, 0.0)
