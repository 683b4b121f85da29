"""Levels of prompts from numbers, and how a curriculum moves over them: pure functions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

import torch

from mmrl.seeds import seed_of


def levels(values: Sequence[float], buckets: int | None) -> list[int]:
    """The level of each value, lower ones first: one a different value, or `buckets` of about as many values each.

    Equal values are in one bucket, so that some may be empty: a value with r lower ones among n is in floor(B r / n).
    """
    if buckets is None:
        rungs = {value: rank for rank, value in enumerate(sorted(set(values)))}
        return [rungs[value] for value in values]
    ordered = sorted(values)
    return [buckets * bisect_left(ordered, value) // len(values) for value in values]


def shares(count: int, done: float) -> list[float]:
    """Probabilities of `count` levels when `done` of the way, 0 to 1, is behind: linear in it, never 0.

    Level b of B has ((1 - done) (B - b) + done (b + 1)) / (B (B + 1) / 2): at first the easiest is B times as likely as
    the most difficult, at last the other way round, half-way all are alike.
    """
    whole = count * (count + 1) / 2
    return [((1 - done) * (count - level) + done * (level + 1)) / whole for level in range(count)]


def picked(weights: Sequence[float], chance: float) -> int:
    """The place that a chance from [0, 1) picks, each as likely as its weight; one of weight 0 never."""
    left = chance * sum(weights)
    for place, weight in enumerate(weights):
        if left < weight:
            return place
        left -= weight
    return max(place for place, weight in enumerate(weights) if weight > 0)  # rounding


@lru_cache(maxsize=64)
def permutation(size: int, *key: object) -> tuple[int, ...]:
    """A permutation of range(size) that depends on its key alone."""
    generator = torch.Generator().manual_seed(seed_of(*key))
    return tuple(torch.randperm(size, generator=generator).tolist())
