"""A clause of the adapter contract: a prompt alone gives the samples that it gives beside others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmrl.modalities.adapter import Adapter
from mmrl.training.check_tools import LOGP_ROUNDING, ROUNDING
from mmrl.types import Group, Prompt, Sample

_NONE = torch.empty(0)  # in the place of a tensor that one of two samples lacks


@dataclass(frozen=True)
class Shared:
    """What two rollouts have in common. actions: before samples part; parted: samples that do so, by another choice;
    gap: the largest difference of a number among those actions, relative where above 1."""

    actions: int
    parted: int
    gap: float


def in_company(
    adapter: Adapter, groups: Sequence[Group], prompts: Sequence[Prompt], n: int, seed: int
) -> tuple[bool, str]:
    """(whether it holds, in words) of the groups that a rollout made of the prompts, n samples each.

    In 16 bits a row in a batch of another shape is rounded otherwise, so that a choice between two actions which are
    nearly as good may fall the other way. How often is bounded as the log-probs are: a share of choices that go over is
    no larger than what their probabilities moved by.
    """
    alone = [adapter.rollout([Group(prompt, 0)], n, 0, seed)[0] for prompt in prompts]
    found = shared(groups, alone)
    rounding = LOGP_ROUNDING[adapter.precision]
    told = f"largest difference {found.gap:.1e}"
    if found.parted:
        told += f"; {found.parted} samples part after {found.actions} actions in all that are the same"
    if found.gap <= max(ROUNDING, rounding) and found.parted <= rounding * (found.actions + found.parted):
        return True, f"a prompt alone gives the samples it gives in company ({told})"
    return False, (
        f"a prompt rolled out alone gave other samples than it has in company ({told}): results would depend on batch "
        "size and on the number of processes. Seed each sample's noise by itself, and look for padding that is "
        "attended to and for statistics over the batch"
    )


def shared(some: Sequence[Group], others: Sequence[Group]) -> Shared:
    """What the samples of groups have in common with those of the same places in others."""
    actions, parted, gap = 0, 0, 0.0
    for group, other in zip(some, others, strict=True):
        parted += abs(len(group.samples) - len(other.samples))  # a conversation that restarts has rows more
        for pair in zip(group.samples, other.samples):
            count, parts, off = _compared(*pair)
            actions, parted, gap = actions + count, parted + parts, max(gap, off)
    return Shared(actions, parted, gap)


def _compared(some: Sample, other: Sample) -> tuple[int, bool, float]:
    """(actions before two samples part, whether they do, largest difference before).

    They part where a whole number differs (an id, a step): it says which action was taken, or behind what. A difference
    of such numbers that have no place among the actions is one before the first.
    """
    a, b = some.actions, other.actions
    same, gap = min(len(a.logp), len(b.logp)), 0.0
    pairs = [(a.logp, b.logp), *((a.tensors.get(k, _NONE), b.tensors.get(k, _NONE)) for k in a.tensors | b.tensors)]
    of_actions = [len(x) == len(a.logp) and len(y) == len(b.logp) for x, y in pairs]
    for (x, y), each in zip(pairs, of_actions):
        if not x.is_floating_point() and not torch.equal(x, y):
            same = min(same, _first_other(x, y) if each else 0)
    for (x, y), each in zip(pairs, of_actions):
        if x.is_floating_point() and same:
            gap = max(gap, _difference(x[:same], y[:same]) if each else _difference(x, y))
    return same, same < max(len(a.logp), len(b.logp)), gap


def _first_other(x: Tensor, y: Tensor) -> int:
    """The first place at which two tensors differ, or one has an end."""
    length = min(len(x), len(y))
    differ = torch.nonzero((x[:length] != y[:length]).reshape(length, -1).any(1)).flatten()
    return int(differ[0]) if len(differ) else length


def _difference(x: Tensor, y: Tensor) -> float:
    if x.shape != y.shape:
        return float("inf")
    if not x.numel():
        return 0.0
    scale = x.double().abs().clamp(min=1)
    return float(((x.double() - y.double()).abs() / scale).max())
